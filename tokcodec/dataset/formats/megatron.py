"""Megatron's ``.bin`` and ``.idx``: a document of one sequence for each row.

The layout is that of ``IndexedDataset`` in megatron.core.datasets.indexed_dataset, version 1.
"""

import struct
from dataclasses import replace

import numpy as np

from tokcodec.dataset.formats import flat
from tokcodec.dataset.formats.format import Format, Rows, Shard

_MAGIC, _VERSION = b"MMIDIDX\0\0", 1
_CODES = {"uint8": 1, "int32": 4, "uint16": 8}  # of the types of tokens


def write(shard: Shard) -> None:
    lengths: list[int] = []

    def measured(rows: Rows) -> Rows:
        lengths.extend(map(len, rows.tokens))
        return rows

    flat.write(replace(shard, rows=map(measured, shard.rows)))
    sizes = np.array(lengths, "<i4")
    starts = np.cumsum([0, *lengths], dtype="<i8")[:-1] * shard.facts.dtype.itemsize
    documents = np.arange(len(lengths) + 1, dtype="<i8")
    with shard.open(shard.name.removesuffix(".bin") + ".idx") as index:
        index.write(_MAGIC)
        index.write(struct.pack("<QB", _VERSION, _CODES[shard.facts.dtype.name]))
        index.write(struct.pack("<QQ", len(sizes), len(documents)))
        for array in (sizes, starts, documents):
            index.write(array.tobytes())


FORMAT = Format(
    "megatron",
    "Megatron-LM, NeMo: `IndexedDataset`",
    ".bin",
    ("uint16", "int32"),
    write,
    one="{stem}.bin",
    indexed=True,
)
