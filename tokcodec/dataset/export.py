"""``export``: token datasets in the formats that trainers read."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tokcodec.dataset.formats import format_of
from tokcodec.dataset.formats.format import Facts, Format, Kind, Rows
from tokcodec.dataset.formats.output import Output, write
from tokcodec.dataset.formats.vocabulary import Vocabulary
from tokcodec.dataset.reader import TokenRows, class_numbers, open_dataset
from tokcodec.dataset.table import GRID
from tokcodec.errors import ArgumentError, DatasetError

_NOT_CARRIED = ("tokens", "status", "error", "class_id")
_ALWAYS = ("key", "view")


def export(
    dataset: str | Path,
    output: str | Path,
    *,
    format: str | None = None,  # noqa: A002 (as the option is called)
    columns: Sequence[str] | None = None,
    rows_per_shard: int | None = None,
    vocabulary_offset: int = 0,
    begin_token: int | None = None,
    end_token: int | None = None,
    row_token: int | None = None,
    dtype: str | None = None,
    force: bool = False,
) -> int:
    """Write the rows of a dataset in a format that trainers read; return their number.

    Failed rows are left out. Every row has a ``class_id``: labels that are all numbers are their
    own, others are numbered in sorted order, and rows without a label have none (null, or -1 in
    arrays of integers).

    - ``npy``: tokens [n, N], of a dataset whose rows have one length.
    - ``npz``, ``safetensors``: the same; or tokens [total] with ``offsets``, ``rows`` and
      ``columns`` where rows differ in length. A shard is held in memory.
    - ``jsonl``: a line ``{"class_id": 3, "tokens": [...], "key": ...}`` for each row.
    - ``bin``: the tokens alone, one row after the other, as uint16 or uint32.
    - ``webdataset``: a tar with .npy, .cls, .txt and .json for each row.
    - ``llamagen``: the folders ``NAME_codes`` and ``NAME_labels``.
    - ``mds``: a folder for mosaicml-streaming. A shard is held in memory.
    - ``megatron``: ``NAME.bin`` and ``NAME.idx``.

    Next to the output, ``NAME.meta.json`` has the number of rows, the type and the length of
    tokens, the vocabulary, the model and the classes. In ``npy``, ``npz``, ``safetensors``,
    ``bin``, ``llamagen`` and ``megatron``, whose files hold no text, a line of
    ``NAME.index.jsonl`` has the columns of each row; elsewhere they are part of the row.

    A file appears when it is complete. Of several files the first one appears last: where it
    exists, the export is complete.

    >>> export("dataset", "tokens.npy")  # doctest: +SKIP
    3
    >>> export("dataset", "s3://bucket/tokens.tar", rows_per_shard=10_000)  # doctest: +SKIP
    1281167

    Args:
        dataset: a folder of shards, or one Parquet file; a path or a URL.
        output: the file, a path or a URL; for ``llamagen``, ``mds`` and ``megatron`` the name
            without an extension.
        format: one of the above; that of the output's extension if None.
        columns: the columns to carry besides ``key`` and ``view``; all if None.
        rows_per_shard: write ``NAME-00000.npy``, ``NAME-00001.npy`` and so on, with this many rows
            each. One file if None.
        vocabulary_offset: is added to every token.
        begin_token, end_token: are written before and after the tokens of each row.
        row_token: is written after each row of a grid.
        dtype: of the tokens, such as ``uint16``; if None, the smallest of the format that holds all
            ids.
        force: overwrite what is there.

    Raises:
        DatasetError: the dataset cannot be read, the extension is that of no format, or the format
            does not take such rows: ``npy`` and ``llamagen`` take rows of one length, and
            ``llamagen`` rows with labels.
        ArgumentError: no such format, column or type, or one that does not hold all ids; a special
            token that is also the id of an image token; shards of a format that has none.
        OutputError: the file is there already, is the input, or cannot be written.
    """
    kind = format_of(str(output), format)
    if rows_per_shard is not None and (kind.many is None or rows_per_shard < 1):
        raise ArgumentError(f"the format {kind.name} has no shards of {rows_per_shard} rows")
    target = Output(output, kind, rows_per_shard is not None)
    target.check(dataset, force)
    rows = open_dataset(dataset)
    model = rows.metadata.model
    vocabulary = Vocabulary(
        model.quantizer.codebook_size, vocabulary_offset, begin_token, end_token, row_token
    )
    if row_token is not None and not model.has_grid:
        raise ArgumentError("the tokens of this model have no rows that a token could end")
    if rows.metadata.has_grids and not kind.ragged:
        raise DatasetError(
            f"rows differ in length, which the format {kind.name} does not hold; npz, safetensors "
            "and jsonl do",
            name=rows.path,
        )
    kinds = _kinds(rows, columns)
    uses = {
        label
        for _, columns in rows.columns("label", "status")
        for label in _kept(columns, ["label"])["label"]
    }
    if None in uses and kind.labelled:
        raise DatasetError(
            f"rows without a label; the format {kind.name} needs one for each", name=rows.path
        )
    classes = class_numbers(label for label in uses if label is not None)
    facts = _facts(rows, kind, vocabulary, kinds, classes, dtype)
    return write(target, facts, _rows(rows, facts, classes), rows_per_shard, rows.path)


def _kinds(dataset: TokenRows, wanted: Sequence[str] | None) -> dict[str, Kind]:
    """What the carried columns hold.

    Raises:
        ArgumentError: a wanted column is not there.
    """
    import pyarrow as pa

    with dataset.folder.reading(dataset.names[0]) as source:
        columns = source.schema_arrow
    known = [name for name in columns.names if name not in _NOT_CARRIED]
    for name in wanted or ():
        if name not in known:
            why = f"has no column {name}; its columns are {', '.join(known)}"
            raise ArgumentError(why, name=dataset.path)
    needed = {*_ALWAYS, *(GRID if dataset.metadata.has_grids else ())}

    def kind(name: str) -> Kind:
        own = columns.field(name).type
        if pa.types.is_string(own) or pa.types.is_large_string(own):
            return "str"
        return "int" if pa.types.is_integer(own) else "json"

    return {name: kind(name) for name in known if wanted is None or name in needed | {*wanted}}


def _facts(
    dataset: TokenRows,
    form: Format,
    vocabulary: Vocabulary,
    kinds: dict[str, Kind],
    classes: dict[str, int],
    dtype: str | None,
) -> Facts:
    """
    Raises:
        ArgumentError: no type of the format holds all ids.
    """
    choices = [name for name in form.dtypes if dtype in (None, name)]
    fitting = [name for name in choices if np.iinfo(name).max >= vocabulary.size - 1]
    if not fitting:
        raise ArgumentError(
            f"ids from 0 to {vocabulary.size - 1:,} do not fit {dtype or form.dtypes[-1]}, or "
            f"{form.name} has no such type: it has {', '.join(form.dtypes)}"
        )
    metadata = dataset.metadata
    grid = None if metadata.has_grids else metadata.grid
    length = None if grid is None else vocabulary.length(grid)
    named = any(label != str(number) for label, number in classes.items())
    meta = {
        "format": form.name,
        "dtype": fitting[0],
        "row_length": length,
        "grid": grid,
        "vocab_size": vocabulary.size,
        "vocabulary": asdict(vocabulary),
        "model_id": metadata.model_id,
        "fit": metadata.decoded_fit,
        "views": metadata.run["views"],
        "classes": classes if named else None,
    }
    return Facts(np.dtype(fitting[0]), length, vocabulary, kinds, meta)


def _rows(dataset: TokenRows, facts: Facts, classes: dict[str, int]) -> Iterator[Rows]:
    """The rows that did not fail, a batch of rows at a time."""
    grid = GRID if dataset.metadata.has_grids else ()
    names = dict.fromkeys(["label", *facts.kinds])
    for file, columns in dataset.columns("tokens", "status", *{**names, **dict.fromkeys(grid)}):
        parts = dataset.grids_of(file, columns)
        ids = (facts.vocabulary.ids(part, facts.dtype) for part in parts)
        tokens = [part[0] for part in ids] if facts.length is None else next(ids)
        group = _kept(columns, names)
        numbers = [None if label is None else classes[label] for label in group["label"]]
        yield Rows(tokens, {"class_id": numbers, **{name: group[name] for name in facts.kinds}})


def _kept(columns: dict[str, Any], names: Iterable[str]) -> dict[str, list[Any]]:
    """The values of a batch's rows that did not fail."""
    kept = [state == "ok" for state in columns["status"].to_pylist()]
    return {name: list(itertools.compress(columns[name].to_pylist(), kept)) for name in names}
