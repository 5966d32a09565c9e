"""``.npy``: tokens [n, N]."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokcodec.dataset.formats.format import Exported, Format, Row, Shard


def write(shard: Shard) -> None:
    assert shard.facts.length is not None
    shape = [0, shard.facts.length]
    _write_header(shard, shape)
    for rows in shard.rows:
        assert isinstance(rows.tokens, np.ndarray)
        shard.file.write(rows.tokens.tobytes())
        shape[0] += len(rows)
    shard.file.seek(0)
    _write_header(shard, shape)


def _write_header(shard: Shard, shape: list[int]) -> None:
    # NumPy leaves room in the header for a larger number of rows.
    fields = {
        "descr": np.lib.format.dtype_to_descr(shard.facts.dtype),
        "fortran_order": False,
        "shape": tuple(shape),
    }
    np.lib.format.write_array_header_1_0(shard.file, fields)


def read(source: Exported) -> tuple[int, Iterator[Row]]:
    return rows_of(np.load(source.path, mmap_mode="r", allow_pickle=False))


def rows_of(tokens: NDArray[Any]) -> tuple[int, Iterator[Row]]:
    """The number of rows of an array and each row; raises ValueError unless the array has integers
    [n, N] or [n, rows, columns]."""
    if not isinstance(tokens, np.ndarray) or tokens.dtype.kind not in "iu":
        kind = getattr(tokens, "dtype", "several arrays")
        raise ValueError(f"holds {kind}; tokens are integers")
    if tokens.ndim not in (2, 3) or 0 in tokens.shape[1:]:  # any number of rows of no tokens
        raise ValueError(f"holds {list(tokens.shape)}; tokens are [n, N] or [n, rows, columns]")
    return len(tokens), ((row, {}) for row in tokens)


FORMAT = Format(
    "npy",
    'NumPy: `np.load(mmap_mode="r")`',
    ".npy",
    ("uint8", "uint16", "uint32", "uint64"),
    write,
    read,
    indexed=True,
    ragged=False,
)
