"""``.bin``: the tokens of all rows one after the other, little-endian, without a header, as nanoGPT
and 1xgpt map them into memory."""

from collections.abc import Iterator
from itertools import accumulate

import numpy as np

from tokcodec.dataset.formats.format import Exported, Format, Row, Shard


def write(shard: Shard) -> None:
    for rows in shard.rows:
        for tokens in [rows.tokens] if isinstance(rows.tokens, np.ndarray) else rows.tokens:
            shard.file.write(tokens.astype(tokens.dtype.newbyteorder("<")).tobytes())


def read(source: Exported) -> tuple[int, Iterator[Row]]:
    meta = source.meta
    if meta.get("format") != "bin" or meta.get("dtype") not in FORMAT.dtypes:
        raise ValueError("its .meta.json is missing or damaged; export writes it")
    dtype, length = np.dtype(meta["dtype"]).newbyteorder("<"), meta["row_length"]
    count, rest = divmod(source.path.stat().st_size, dtype.itemsize)
    if length is None:
        lengths = [record["length"] for record in source.records()]
    else:
        lengths = [length] * (count // length)
    if rest or sum(lengths) != count or min(lengths, default=1) < 0:
        raise ValueError(f"its size is not that of {len(lengths):,} rows")
    ids = np.memmap(source.path, dtype, mode="r") if count else np.zeros(0, dtype)
    starts = accumulate(lengths, initial=0)
    rows = zip(starts, lengths, strict=False)  # there is one start more
    return len(lengths), ((ids[start : start + own], {}) for start, own in rows)


FORMAT = Format(
    "bin", "nanoGPT, 1xgpt: `np.memmap`", ".bin", ("uint16", "uint32"), write, read, indexed=True
)
