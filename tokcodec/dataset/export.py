"""``export``: token datasets in the formats that trainers read: .npy, .safetensors, .jsonl."""

import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors.numpy import save

from tokcodec.dataset.reader import TokenRows, class_numbers, open_dataset, smallest_type
from tokcodec.errors import DatasetError
from tokcodec.io.files import is_stream, refuse_remote, replacement, write_atomically
from tokcodec.io.job import single_job

SUFFIXES = (".npy", ".safetensors", ".jsonl")


def export(dataset: str | Path, output: str | Path, *, force: bool = False) -> int:
    """Writes a dataset in the format of the output's extension; returns the number of rows.

    - ``.npy``, ``.safetensors`` (tensor ``tokens``): tokens [n, N] in the smallest unsigned type,
      without failed rows; and ``NAME.index.jsonl`` next to it, with the key, label, class_id and
      view of each row on a line.
    - ``.jsonl``: a line ``{"class_id": int, "tokens": [...]}`` for each row, as TiTok's trainers
      read it.

    Labels that are all numbers are their own class_id. Other labels are numbered in sorted order,
    and ``NAME.classes.json`` next to the export has the class_id of each.

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
    uses = Counter(row["label"] for row in _rows(rows, "label"))
    classes = class_numbers(label for label in uses if label is not None)
    if target.suffix != ".jsonl":
        _array(rows, uses.total(), classes, target)
    elif None in uses:
        raise DatasetError("rows without a label; .jsonl needs one for each", name=rows.path)
    else:
        _jsonl(rows, classes, target)
    return uses.total()


def _array(dataset: TokenRows, count: int, classes: dict[str, int], target: Path) -> None:
    metadata = dataset.metadata
    if metadata.has_grids:
        raise DatasetError("rows differ in length; export to .jsonl", name=target)
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
        for row in _rows(dataset, "key", "label", "view"):
            row["class_id"] = classes.get(row["label"])
            text.write(json.dumps(row) + "\n")
        text.detach()

    if is_stream(target):
        write_atomically(target, write)
        return
    # The index is replaced first, while there is no file that it could be wrong for.
    with replacement(target, durable=True) as file, replacement(index_of(target)) as index:
        write(file)
        write_index(index)
        target.unlink(missing_ok=True)
        _write_classes(classes, target)


def index_of(target: Path) -> Path:
    """The file of keys next to an export."""
    return target.with_name(target.name + ".index.jsonl")


def classes_of(target: Path) -> Path:
    """The file of classes next to an export whose labels are not numbers."""
    return target.with_name(target.name + ".classes.json")


def _write_classes(classes: dict[str, int], target: Path) -> None:
    if any(label != str(number) for label, number in classes.items()):
        text = json.dumps(classes, indent=1, ensure_ascii=False)
        write_atomically(classes_of(target), lambda file: file.write(f"{text}\n".encode()))


def _jsonl(dataset: TokenRows, classes: dict[str, int], target: Path) -> None:
    def write(file: IO[bytes]) -> None:
        labels = (row["label"] for row in _rows(dataset, "label"))
        tokens = (row for part in dataset.tokens() for row in part.tolist())
        for label, own in zip(labels, tokens, strict=True):
            line = {"class_id": classes[label], "tokens": own}
            file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")

    if not is_stream(target):
        _write_classes(classes, target)
    write_atomically(target, write, durable=True)


def _rows(dataset: TokenRows, *names: str) -> Iterator[dict[str, Any]]:
    """These columns of the rows that did not fail."""
    for _, columns in dataset.columns(*names, "status"):
        values = zip(*(columns[name].to_pylist() for name in names), strict=True)
        for state, row in zip(columns["status"].to_pylist(), values, strict=True):
            if state == "ok":
                yield dict(zip(names, row, strict=True))
