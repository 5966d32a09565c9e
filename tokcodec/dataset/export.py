"""``export``: token datasets in the formats that trainers read: .npy, .safetensors, .jsonl."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors.numpy import save

from tokcodec.dataset.reader import TokenRows, open_dataset, smallest_type
from tokcodec.errors import DatasetError
from tokcodec.io.files import is_stream, refuse_remote, replacement, write_atomically
from tokcodec.io.job import single_job

SUFFIXES = (".npy", ".safetensors", ".jsonl")


def export(dataset: str | Path, output: str | Path, *, force: bool = False) -> int:
    """Writes a dataset in the format of the output's extension; returns the number of rows.

    - ``.npy``, ``.safetensors`` (tensor ``tokens``): tokens [n, N] in the smallest unsigned type,
      without failed rows; and ``NAME.index.jsonl`` next to it, with the key, label and view of each
      row on a line.
    - ``.jsonl``: a line ``{"class_id": int, "tokens": [...]}`` for each row, as TiTok's trainers
      read it. Class numbers are indices into the sorted labels, or the labels where all of these
      are numbers.

    >>> export("dataset", "tokens.npy")  # doctest: +SKIP
    3

    Args:
        dataset: a folder of shards, or one Parquet file; a path or a URL.
        output: the file.
        force: overwrite it.

    Raises:
        DatasetError: the dataset cannot be read; the extension is none of these; rows for a
            ``.jsonl`` have no label, or rows for another format differ in length.
        ArgumentError: the output is a URL.
        OutputError: the file is there already, is the input, or cannot be written.
    """
    refuse_remote(output)
    target = Path(output)
    single_job(dataset, target).check(force)
    if target.suffix not in SUFFIXES:
        raise DatasetError(f"name it {', '.join(SUFFIXES)}", name=target)
    rows = open_dataset(dataset)
    return _jsonl(rows, target) if target.suffix == ".jsonl" else _array(rows, target)


def _array(dataset: TokenRows, target: Path) -> int:
    metadata = dataset.metadata
    if metadata.has_grids:
        raise DatasetError("rows differ in length; export to .jsonl", name=target)
    count = 0
    for _, columns in dataset.columns("tokens"):
        count += len(columns["tokens"]) - columns["tokens"].null_count
    shape = (count, metadata.run["tokens"])
    if target.suffix == ".npy":

        def write(file: IO[bytes]) -> None:
            header = {
                "descr": np.lib.format.dtype_to_descr(np.dtype(smallest_type(metadata))),
                "fortran_order": False,
                "shape": shape,
            }
            np.lib.format.write_array_header_1_0(file, header)
            for part in dataset.tokens():
                file.write(part.tobytes())

    else:

        def write(file: IO[bytes]) -> None:
            tokens = np.zeros(shape, smallest_type(metadata))
            start = 0
            for part in dataset.tokens():
                tokens[start : start + len(part)] = part
                start += len(part)
            facts = {
                "tokcodec.config": metadata.model.to_json(),
                "tokcodec.model_id": metadata.model_id,
            }
            file.write(save({"tokens": tokens}, facts))

    def write_index(file: IO[bytes]) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", write_through=True)
        for _, columns in _all(dataset):
            for row in _kept(columns):
                text.write(json.dumps({k: row[k] for k in ("key", "label", "view")}) + "\n")
        text.detach()

    if is_stream(target):
        write_atomically(target, write)
        return count
    # The index is replaced first, while there is no file that it could be wrong for.
    with replacement(target, durable=True) as file, replacement(index_of(target)) as index:
        write(file)
        write_index(index)
        target.unlink(missing_ok=True)
    return count


def index_of(target: Path) -> Path:
    """The file of keys next to an export."""
    return target.with_name(target.name + ".index.jsonl")


def _jsonl(dataset: TokenRows, target: Path) -> int:
    labels = {row["label"] for _, columns in _all(dataset) for row in _kept(columns)}
    if None in labels:
        raise DatasetError("rows without a label; .jsonl needs one for each", name=dataset.path)
    numeric = all(label.isdecimal() and str(int(label)) == label for label in labels)
    classes = {
        label: int(label) if numeric else number for number, label in enumerate(sorted(labels))
    }
    count = 0

    def write(file: IO[bytes]) -> None:
        nonlocal count
        for source, columns in _all(dataset):
            parts = dataset.rows(source, columns["tokens"])
            tokens = [own for part in parts for own in part.tolist()]
            for row, own in zip(_kept(columns), tokens, strict=True):
                line = {"class_id": classes[row["label"]], "tokens": own}
                file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
                count += 1

    write_atomically(target, write, durable=True)
    return count


def _all(dataset: TokenRows) -> Iterator[tuple[Path, dict[str, Any]]]:
    return dataset.columns("key", "label", "view", "tokens")


def _kept(columns: dict[str, Any]) -> Iterator[dict[str, Any]]:
    kept = columns["tokens"].is_valid().to_pylist()
    names = ("key", "label", "view")
    values = zip(*(columns[name].to_pylist() for name in names), strict=True)
    for ok, row in zip(kept, values, strict=True):
        if ok:
            yield dict(zip(names, row, strict=True))
