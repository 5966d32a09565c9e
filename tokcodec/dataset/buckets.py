"""``BucketSampler``: batches of items of one shape, as training on images of any aspect ratio
makes them."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from tokcodec.errors import ArgumentError


class BucketSampler(Sampler[list[int]]):
    """Lists of the numbers of items of one shape, shuffled anew in each epoch; for
    ``DataLoader(batch_sampler=...)``. See ``TokenDataset.bucket_sampler``.

    In an epoch, no item is in two batches, and every rank has the same number of batches: of all
    batches, as many as cannot be shared out evenly are left out, others in each epoch.
    """

    def __init__(
        self,
        shapes: NDArray[np.int64],
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
    ) -> None:
        """
        Args:
            shapes: [n], a number that stands for the shape of each item.
            batch_size, seed, rank, world, drop_last: as of ``TokenDataset.bucket_sampler``.

        Raises:
            ArgumentError: the size of a batch is not positive, or the rank is not in the world.
        """
        if batch_size < 1 or not 0 <= rank < world:
            raise ArgumentError(f"batches of {batch_size} for rank {rank} of {world}")
        self._batch_size, self._drop_last = batch_size, drop_last
        self._seed, self._rank, self._world = seed, rank, world
        self._epoch = 0
        items = np.argsort(shapes, kind="stable")
        self._buckets = np.split(items, np.flatnonzero(np.diff(shapes[items])) + 1)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch whose order comes next; every rank needs the same."""
        self._epoch = epoch

    def __len__(self) -> int:
        """The number of batches of each rank."""
        return sum(len(self._starts(bucket)) for bucket in self._buckets) // self._world

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self._seed, self._epoch])
        batches: list[NDArray[np.int64]] = []
        for bucket in self._buckets:
            items = rng.permutation(bucket)
            batches += [items[i : i + self._batch_size] for i in self._starts(bucket)]
        order = rng.permutation(len(batches))[self._rank :: self._world]
        for number in order[: len(self)]:
            yield batches[number].tolist()

    def _starts(self, bucket: NDArray[np.int64]) -> range:
        """Where the batches of a bucket begin."""
        whole = len(bucket) - len(bucket) % self._batch_size
        return range(0, whole if self._drop_last else len(bucket), self._batch_size)
