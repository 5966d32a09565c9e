"""The compute batch of a run on CUDA. It is part of what fixes tokens, so it is found before the
first row, and a run that goes on keeps the batch that it began with."""

import time
from pathlib import Path

import numpy as np
import torch

from tokcodec.codec import BATCH_SIZE, BATCHES_AT_ONCE, Codec
from tokcodec.dataset.table import read_metadata
from tokcodec.errors import DatasetError, DeviceError, Hint, quoted
from tokcodec.image import Tiles
from tokcodec.io.remote import is_there, listed, reason_of
from tokcodec.tokenize.plan import shards_folder

_LARGEST = 1024
_GAIN = 1.05  # less than this much faster is not worth twice the memory
_BATCHES = 3 * BATCHES_AT_ONCE  # that are timed


def batch_size_begun_with(output: Path) -> int | None:
    """The batch of the files that are there, if any are.

    Raises:
        DatasetError: what is there is no token dataset, or a store does not say.
    """
    parts = shards_folder(output) or output
    try:
        paths = (*listed(parts, "shard-*.parquet"), output)
        begun = next((p for p in paths if p.suffix == ".parquet" and is_there(p)), None)
    except OSError as error:
        raise DatasetError(
            f"cannot read: {reason_of(error)}", name=output, hint=Hint.OTHER_OUTPUT
        ) from error
    if begun is None:
        return None
    size = read_metadata(begun).run.get("batch_size")
    if type(size) is not int or size < 1:
        raise DatasetError(f"{begun}: its metadata is damaged: batch_size {quoted(size)}")
    return size


def find_batch_size(codec: Codec) -> int:
    """The smallest power of two that encodes about as fast as any that fits in memory.

    Raises:
        DeviceError: the smallest does not fit.
    """
    side = codec.config.preprocessing.read_size
    noise = np.random.default_rng(0)
    best, best_rate, size = BATCH_SIZE, 0.0, BATCH_SIZE
    before = codec.batch_size
    while size <= _LARGEST:
        codec.batch_size = size
        pixels = noise.integers(0, 256, (size, side, side, 3), np.uint8)
        batch = Tiles(pixels, side, side, "crop")
        try:
            _seconds(codec, batch, BATCHES_AT_ONCE)  # takes memory, compiles
            rate = size * _BATCHES / _seconds(codec, batch, _BATCHES)
        except torch.OutOfMemoryError as error:
            if not best_rate:
                raise DeviceError(
                    f"no memory for {BATCHES_AT_ONCE} batches of {size} tiles",
                    name=codec.device,
                    hint=Hint.SMALLER_BATCH,
                ) from error
            break
        if rate < best_rate * _GAIN:
            break
        best, best_rate, size = size, rate, 2 * size
    codec.batch_size = before
    torch.cuda.empty_cache()  # of batches larger than the one that is found
    return best


def _seconds(codec: Codec, batch: Tiles, count: int) -> float:
    """For so many batches, in the way of a run, less reading."""
    begun = time.perf_counter()
    for _ in codec.encode_stream([batch] * count, lambda batch: batch):
        pass
    return time.perf_counter() - begun
