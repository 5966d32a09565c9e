"""Token datasets in the formats that trainers read: .npy, .safetensors, .jsonl."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors.numpy import save

from tokcodec.dataset.reader import TokenRows, smallest_type
from tokcodec.errors import DatasetError
from tokcodec.io.files import is_stream, replacement, write_atomically

SUFFIXES = (".npy", ".safetensors", ".jsonl")


def export(dataset: TokenRows, target: Path) -> int:
    """Writes a dataset in the format of the target's extension; gives the number of rows.

    - ``.npy``, ``.safetensors`` (tensor ``tokens``): tokens [n, N] in the smallest unsigned type,
      failed rows dropped; beside it ``NAME.index.jsonl``, a line a row with its key, label and
      view.
    - ``.jsonl``: a line ``{"class_id": int, "tokens": [...]}`` a row, as TiTok's trainers read it;
      class numbers count the sorted labels, unless these are all numbers themselves.

    Raises:
        DatasetError: the extension is none of these; rows for a ``.jsonl`` have no label, or those
            for another format differ in length.
        OutputError: the file system refused.
    """
    if target.suffix == ".jsonl":
        return _jsonl(dataset, target)
    if target.suffix not in SUFFIXES:
        raise DatasetError(f"{target}: name it {', '.join(SUFFIXES)}")
    metadata = dataset.metadata
    if metadata.native:
        raise DatasetError(f"{target}: rows of the native fit differ in length; export to .jsonl")
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
    """The file of keys beside an export."""
    return target.with_name(target.name + ".index.jsonl")


def _jsonl(dataset: TokenRows, target: Path) -> int:
    labels = {row["label"] for _, columns in _all(dataset) for row in _kept(columns)}
    if None in labels:
        raise DatasetError(f"{dataset.path}: rows without a label; .jsonl needs class_id for each")
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
