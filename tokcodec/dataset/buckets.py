"""``BucketSampler``: batches of items of one shape, for training on images of any shape."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from tokcodec.errors import ArgumentError


class Shaped(Protocol):
    """A dataset whose items have shapes, which may differ from epoch to epoch."""

    @property
    def epoch(self) -> int: ...
    def set_epoch(self, epoch: int) -> None: ...
    def shapes(self) -> NDArray[np.int64]: ...


class BucketSampler(Sampler[list[int]]):
    """Batches of the indices of items of one shape, in a new order in each epoch; for
    ``DataLoader(batch_sampler=...)``. See ``TokenDataset.bucket_sampler``."""

    def __init__(
        self,
        dataset: Shaped,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ArgumentError(f"the batch size is {batch_size}, and must be at least 1")
        if not 0 <= rank < world:
            raise ArgumentError(f"the rank is {rank}, and must be from 0 to {world - 1}")
        self._dataset, self._batch_size, self._drop_last = dataset, batch_size, drop_last
        self._seed, self._rank, self._world = seed, rank, world

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of this sampler and its dataset, the same on every rank; call it before
        each pass over a ``DataLoader``."""
        self._dataset.set_epoch(epoch)

    def __len__(self) -> int:
        """The number of batches of each rank in this epoch."""
        _, sizes = np.unique(self._dataset.shapes(), return_counts=True)
        return sum(len(self._starts(size)) for size in sizes.tolist()) // self._world

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self._seed, self._dataset.epoch])
        shapes = self._dataset.shapes()
        items = rng.permutation(len(shapes))
        items = items[np.argsort(shapes[items], kind="stable")]
        buckets = np.split(items, np.flatnonzero(np.diff(shapes[items])) + 1)
        batches = [
            bucket[start : start + self._batch_size]
            for bucket in buckets
            for start in self._starts(len(bucket))
        ]
        even = len(batches) // self._world * self._world
        for number in rng.permutation(len(batches))[self._rank : even : self._world]:
            yield batches[number].tolist()

    def _starts(self, size: int) -> range:
        """The first index of each batch of a bucket of this size."""
        whole = size - size % self._batch_size
        return range(0, whole if self._drop_last else size, self._batch_size)
