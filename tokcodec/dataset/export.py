"""``export``: write token datasets in the formats that training code reads."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from tokcodec.dataset.folder import damaged
from tokcodec.dataset.formats import format_of
from tokcodec.dataset.formats.format import Facts, Format, Kind, Rows
from tokcodec.dataset.formats.output import Output
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
    """Write the rows of a dataset in a format that training code reads; return their number.

    Failed rows are left out. Every row has a ``class_id``, see ``reader.class_numbers``; rows
    without a label have null, or -1 in arrays of integers.

    - ``npy``: tokens [n, N]; all rows must have the same length.
    - ``npz``, ``safetensors``: the same; or tokens [total] with ``offsets``, ``rows`` and
      ``columns`` if rows differ in length. A shard is held in memory.
    - ``jsonl``: a line ``{"class_id": 3, "tokens": [...], "key": ...}`` for each row.
    - ``bin``: only the tokens of all rows, as uint16 or uint32.
    - ``webdataset``: a tar with .npy, .cls, .txt and .json for each row.
    - ``llamagen``: the folders ``NAME_codes`` and ``NAME_labels``.
    - ``mds``: a folder for mosaicml-streaming. A shard is held in memory.
    - ``megatron``: ``NAME.bin`` and ``NAME.idx``.

    Next to the output, ``NAME.meta.json`` has the number of rows, the type and the number of their
    tokens, the vocabulary, the model and the classes. Formats that hold only tokens (all but
    ``jsonl``, ``webdataset`` and ``mds``) also get ``NAME.index.jsonl``, with a line of the other
    columns for each row.

    A file appears when it is complete. The first of several files appears last: if it exists, the
    export is complete.

    >>> export("dataset", "tokens.npy")  # doctest: +SKIP
    3
    >>> export("dataset", "s3://bucket/tokens.tar", rows_per_shard=10_000)  # doctest: +SKIP
    1281167

    Args:
        dataset: a folder of shards, or one Parquet file; a path or a URL.
        output: the file, a path or a URL; for ``llamagen``, ``mds`` and ``megatron`` the name
            without an extension.
        format: one of the above; by the extension of the output if None.
        columns: the columns to write besides ``key`` and ``view``; all if None.
        rows_per_shard: write ``NAME-00000.npy``, ``NAME-00001.npy`` and so on, with this many rows
            each. One file if None.
        vocabulary_offset: a number to add to every token.
        begin_token, end_token: ids to write before and after the tokens of each row.
        row_token: an id to write after each row of a grid.
        dtype: the type of the tokens, such as ``uint16``; the smallest of the format that holds all
            ids if None.
        force: overwrite existing files.

    Raises:
        DatasetError: the dataset cannot be read, no format has the extension, or the format does
            not support such rows: ``npy`` and ``llamagen`` need rows of one length, ``llamagen``
            also labels.
        ArgumentError: there is no such format, column or type, or the type does not hold all ids; a
            special token is also the id of an image token; or the format has no shards.
        OutputError: the file exists, is the input, or cannot be written.
    """
    kind = format_of(str(output), format)
    if rows_per_shard is not None and (kind.many is None or rows_per_shard < 1):
        raise ArgumentError(f"the format {kind.name} has no shards of {rows_per_shard} rows")
    target = Output(output, kind, rows_per_shard)
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
    labels = _labels(rows)
    if None in labels and kind.labelled:
        raise DatasetError(
            f"rows without a label; the format {kind.name} needs one for each", name=rows.path
        )
    classes = class_numbers(label for label in labels if label is not None)
    facts = _facts(rows, kind, vocabulary, kinds, classes, dtype)
    return target.write(facts, _rows(rows, facts, classes), rows.path)


def _kinds(dataset: TokenRows, wanted: Sequence[str] | None) -> dict[str, Kind]:
    """The kind of each column that is exported; raises ArgumentError if a wanted one is missing."""
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
    """What holds for all rows; raises ArgumentError if no type of the format holds all ids."""
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
    """Yield the rows that did not fail, a batch of rows at a time."""
    for grids, group in dataset.parts("label", *facts.kinds):
        ids = [facts.vocabulary.ids(grid, facts.dtype) for grid in grids]
        tokens = [own[0] for own in ids] if facts.length is None else ids[0]
        numbers = [None if label is None else classes[label] for label in group["label"]]
        yield Rows(tokens, {"class_id": numbers, **{name: group[name] for name in facts.kinds}})


def _labels(dataset: TokenRows) -> set[str | None]:
    """The labels of the rows that did not fail; with None if a row has no label."""
    labels: set[str | None] = set()
    for file, columns in dataset.columns("label", "status"):
        with damaged(file):
            pairs = zip(*(column.to_pylist() for column in columns.values()), strict=True)
        labels.update(label for label, status in pairs if status == "ok")
    return labels
