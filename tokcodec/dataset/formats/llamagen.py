"""LlamaGen's folders: ``PREFIX_codes/{i}.npy`` int64 [1, views, N] and ``PREFIX_labels/{i}.npy``
int64 [1], one file for all views of an image.

The layout is that of ``CustomDataset`` in LlamaGen's dataset/imagenet.py, which RandAR and others
share.
"""

from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray

from tokcodec.dataset.formats.format import Format, Record, Rows, Shard

_Image = tuple[NDArray[np.int64], Record]  # the tokens of its views, [views, N]


def write(shard: Shard) -> None:
    prefix = shard.name.removesuffix("_codes/0.npy")
    count = 0
    for tokens, record in _images(shard.rows):
        with (
            shard.open(f"{prefix}_codes/{count}.npy") if count else nullcontext(shard.file) as file
        ):
            np.save(file, tokens[None])
        with shard.open(f"{prefix}_labels/{count}.npy") as file:
            np.save(file, np.array([record["class_id"]], np.int64))
        count += 1
    while shard.discard(f"{prefix}_codes/{count}.npy"):
        shard.discard(f"{prefix}_labels/{count}.npy")
        count += 1


def _images(parts: Iterator[Rows]) -> Iterator[_Image]:
    """The views of each image, which follow each other, and the record of the first."""
    views: list[NDArray[np.int64]] = []
    first: Record = {}
    last = 0
    for rows in parts:
        for tokens, record in zip(rows.tokens, rows.records(), strict=True):
            if views and (record["key"] != first["key"] or record["view"] <= last):
                yield np.stack(views), first
                views = []
            if not views:
                first = record
            views.append(tokens)
            last = record["view"]
    if views:
        yield np.stack(views), first


FORMAT = Format(
    "llamagen",
    "LlamaGen, RandAR and others with its loader",
    "",
    ("int64",),
    write,
    one="{name}_codes/0.npy",
    many=None,
    indexed=True,
    ragged=False,
    labelled=True,
)
