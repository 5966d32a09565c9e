"""``.bin``: the tokens of all rows one after the other, little-endian, without a header, as nanoGPT
and 1xgpt map them into memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokcodec.dataset.formats.format import Exported, Format, Record, Shard


def write(shard: Shard) -> None:
    for rows in shard.rows:
        for tokens in [rows.tokens] if isinstance(rows.tokens, np.ndarray) else rows.tokens:
            shard.file.write(tokens.astype(tokens.dtype.newbyteorder("<")).tobytes())


def read(source: Exported) -> Iterator[tuple[NDArray[Any], Record]]:
    if source.meta.get("format") != "bin":
        raise ValueError(f"needs {source.path.name}.meta.json, as export writes it")
    dtype = np.dtype(source.meta["dtype"]).newbyteorder("<")
    if source.path.stat().st_size == 0:
        return
    ids = np.memmap(source.path, dtype, mode="r")
    length = source.meta["row_length"]
    count = len(source.records) if length is None else len(ids) // length
    lengths = [length] * count if length else [record["length"] for record in source.records]
    ends = np.cumsum(lengths)
    if ends[-1] != len(ids):
        raise ValueError(f"holds {len(ids):,} tokens, not {int(ends[-1]):,}")
    for end, own in zip(ends.tolist(), lengths, strict=True):
        yield ids[end - own : end], {}


FORMAT = Format(
    "bin", "nanoGPT, 1xgpt: np.memmap", ".bin", ("uint16", "uint32"), write, read, indexed=True
)
