"""``.npz`` and ``.safetensors``: tokens [n, N], or flat with offsets where rows differ in length.

Arrays: ``tokens``; ``class_id`` int64 [n], -1 without a label. If rows differ in length,
``tokens`` is [total], row i is from ``offsets[i]`` to ``offsets[i + 1]`` (int64 [n + 1]), and
``rows`` and ``columns`` int32 [n] are its grid. The fields of ``NAME.meta.json`` are there, too, as
JSON: in the array ``meta`` of one text, or under ``tokcodec.export`` in the metadata.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokcodec.dataset.formats.format import Exported, Format, Row, Shard, parse_meta
from tokcodec.dataset.formats.npy import rows_of
from tokcodec.dataset.table import GRID
from tokcodec.io.read import expands_too_far

_META = "tokcodec.export"
_Arrays = dict[str, NDArray[Any]]


def _arrays(shard: Shard) -> _Arrays:
    """All rows of a shard."""
    facts = shard.facts
    names = [name for name in GRID if name in facts.kinds]
    tokens: list[NDArray[Any]] = [np.zeros((0, facts.length) if facts.length else 0, facts.dtype)]
    lengths = [0]
    columns: dict[str, list[Any]] = {name: [] for name in ("class_id", *names)}
    for rows in shard.rows:
        tokens += rows.tokens if facts.length is None else [rows.tokens]  # type: ignore[list-item]
        lengths += map(len, rows.tokens)
        for name, values in columns.items():
            values += rows.columns[name]
    classes = [-1 if number is None else number for number in columns.pop("class_id")]
    arrays = {"tokens": np.concatenate(tokens), "class_id": np.array(classes, np.int64)}
    if facts.length is None:
        arrays["offsets"] = np.cumsum(lengths, dtype=np.int64)
    return arrays | {name: np.array(values, np.int32) for name, values in columns.items()}


def _rows(arrays: Mapping[str, NDArray[Any]]) -> tuple[int, Iterator[Row]]:
    if "tokens" not in arrays:
        raise ValueError(f"it holds no array named tokens, but {', '.join(arrays) or 'none'}")
    tokens = arrays["tokens"]
    if "offsets" not in arrays:
        return rows_of(tokens)
    offsets, grids = arrays["offsets"], {name: arrays[name] for name in GRID if name in arrays}
    count = len(offsets) - 1
    if (
        tokens.ndim != 1
        or tokens.dtype.kind + offsets.dtype.kind not in ("ii", "iu", "ui", "uu")
        or any(grid.shape != (count,) for grid in (offsets[1:], *grids.values()))
        or (offsets[1:] < offsets[:-1]).any()
        or (offsets[0], offsets[-1]) != (0, len(tokens))
    ):
        raise ValueError("its tokens or offsets are damaged")

    def row(number: int) -> Row:
        part = tokens[offsets[number] : offsets[number + 1]]
        return part, {name: grid[number].item() for name, grid in grids.items()}

    return count, map(row, range(count))


def write_npz(shard: Shard) -> None:
    arrays: dict[str, Any] = {"meta": np.array(json.dumps(shard.facts.meta)), **_arrays(shard)}
    np.savez(shard.file, **arrays)


def read_npz(source: Exported) -> tuple[int, Iterator[Row]]:
    with _open_npz(source.path) as arrays:
        return _rows({name: arrays[name] for name in arrays.files})


def meta_of_npz(path: Path) -> dict[str, Any]:
    with _open_npz(path) as arrays:
        return parse_meta(str(arrays["meta"])) if "meta" in arrays.files else {}


@contextlib.contextmanager
def _open_npz(path: Path) -> "Iterator[np.lib.npyio.NpzFile]":
    """Open an archive; raises ValueError if it has far more bytes in memory than in the file."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        members = arrays.zip.infolist()
        expanded = sum(member.file_size for member in members)
        if expands_too_far(expanded, path.stat().st_size):
            raise ValueError(f"its arrays expand to {expanded:,} bytes")
        yield arrays


def write_safetensors(shard: Shard) -> None:
    from safetensors.numpy import save

    shard.file.write(save(_arrays(shard), {_META: json.dumps(shard.facts.meta)}))


def read_safetensors(source: Exported) -> tuple[int, Iterator[Row]]:
    from safetensors.numpy import load_file

    return _rows(load_file(source.path))


def meta_of_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return parse_meta((file.metadata() or {}).get(_META, "{}"))


_DTYPES = ("uint8", "uint16", "uint32", "uint64")
_format = partial(Format, dtypes=_DTYPES, indexed=True)
NPZ = _format("npz", "NumPy", ".npz", write=write_npz, read=read_npz, meta=meta_of_npz)
SAFETENSORS = _format(
    "safetensors",
    "safetensors, in Python and Rust",
    ".safetensors",
    write=write_safetensors,
    read=read_safetensors,
    meta=meta_of_safetensors,
)
