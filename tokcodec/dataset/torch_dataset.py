"""``TokenDataset``: rows of a token dataset for a training loop."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from tokcodec.dataset.buckets import BucketSampler
from tokcodec.dataset.memory import load
from tokcodec.dataset.reader import class_numbers, open_dataset
from tokcodec.dataset.table import GRID
from tokcodec.errors import DatasetError, counted

if TYPE_CHECKING:
    import pyarrow as pa


class TokenDataset(Dataset[tuple[Any, ...]]):
    """The rows of a dataset that did not fail, in memory.

    An item is a tuple: the tokens int64 [N], the class (-1 without a label) and, if ``columns`` are
    given, a dict of their values. In the fits ``aspect`` and ``native``, N differs from row to row.

    Tokens are held in the smallest unsigned type. Forked workers of a ``DataLoader`` share them;
    spawned workers read the dataset again.

    >>> dataset = TokenDataset("dataset", columns=("key", "label"))  # doctest: +SKIP
    >>> tokens, class_number, columns = dataset[0]  # doctest: +SKIP

    Attributes:
        class_to_idx: the class of each label, see ``class_numbers``.
    """

    def __init__(
        self,
        path: str | Path,
        columns: Sequence[str] | None = None,
        *,
        view: int | Literal["random"] | None = None,
        seed: int = 0,
    ) -> None:
        """
        Args:
            path: a folder of shards, or one Parquet file; a path or a URL.
            columns: the columns of the dict: text as str, numbers as int or float, and lists of
                numbers as tensors. A missing text is ``""``, a missing integer -1, another missing
                number NaN.
            view: only the view with this number; or ``"random"`` for one view of each image,
                drawn anew in each epoch, see ``set_epoch``. All views by default.
            seed: the seed of the draws.

        Raises:
            DatasetError: as ``load_tokens``; or no row has this view.
        """
        self._path, self._columns, self._view, self._seed = path, columns, view, seed
        # Shared, so that workers that live for several epochs see it, too.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._load()

    def _load(self) -> None:
        """Read the dataset, which is not pickled."""
        view, columns = self._view, self._columns or ()
        self._dataset = open_dataset(self._path)
        views = () if view is None else ("key", "view")
        loaded = load(self._dataset, ("label", *views, *columns))
        self._tokens, self._starts = loaded.tokens, loaded.starts
        self.class_to_idx, self._classes = _classes(loaded.columns["label"])
        self._values = {name: loaded.array(name) for name in columns}
        count = len(self._classes)
        self._shapes = np.zeros(count, np.int64)  # a number for the grid of each row
        if self._dataset.metadata.has_grids:
            height, width = map(loaded.array, GRID)
            self._shapes = height << 32 | width
        firsts = np.arange(count)
        if view == "random":
            # The views of an image follow each other, and their numbers rise.
            keys, numbers = loaded.array("key"), loaded.array("view")
            same = (keys[1:] == keys[:-1]) & (numbers[1:] > numbers[:-1])
            firsts = firsts[~np.concatenate([[False], same])[:count]]
        elif view is not None:
            firsts = np.flatnonzero(loaded.array("view") == view)
            if not len(firsts):
                raise DatasetError(f"no row of view {view}", name=self._dataset.path)
        # The first row of each item, and the number of views, of which one may be drawn.
        self._firsts, self._views = firsts, np.diff(firsts, append=count)
        self._drawn = (-1, firsts)  # an epoch, and the row of each item in it

    def __getstate__(self) -> dict[str, Any]:
        names = ("_path", "_columns", "_view", "_seed", "_epoch")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._epoch.share_memory_()
        self._load()

    def __repr__(self) -> str:
        count = len(self.class_to_idx)
        classes = f", {count:,} classes" if count else ""
        rows = counted(len(self), "row")
        return f"<TokenDataset {self._dataset.path}: {rows} of {self._dataset.row}{classes}>"

    def __len__(self) -> int:
        return len(self._firsts)

    @property
    def epoch(self) -> int:
        """The epoch that ``set_epoch`` has set; 0 at first."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose views are drawn; call it before each pass over a ``DataLoader``."""
        self._epoch.fill_(epoch)

    def shapes(self) -> NDArray[np.int64]:
        """A number for the grid of each item in this epoch: items of one grid have the same."""
        return self._shapes[self._rows()]

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, ...]]:
        """Several items at once, as the workers of a ``DataLoader`` ask for them."""
        items = np.asarray(indices, np.int64)
        for index in items[(items < -len(self)) | (items >= len(self))]:
            raise IndexError(f"row {index} of {len(self)}")
        rows = self._rows()[items]
        starts, ends = self._starts[rows].tolist(), self._starts[rows + 1].tolist()
        cut = [self._tokens[start:end] for start, end in zip(starts, ends, strict=True)]
        flat = torch.from_numpy(np.concatenate(cut, dtype=np.int64))
        parts: list[Sequence[Any]] = [
            torch.split(flat, [*map(len, cut)]),
            self._classes[rows].tolist(),
        ]
        if self._columns is not None:
            values = {name: _values(self._values[name][rows]) for name in self._columns}
            places = range(len(rows))
            parts.append([{name: own[i] for name, own in values.items()} for i in places])
        return list(zip(*parts, strict=True))

    def _rows(self) -> NDArray[np.int64]:
        """The row of each item in this epoch."""
        epoch = self.epoch
        if self._view != "random":
            return self._firsts
        if self._drawn[0] != epoch:
            rng = np.random.default_rng([self._seed, epoch])
            self._drawn = (epoch, self._firsts + rng.integers(0, self._views))
        return self._drawn[1]

    def bucket_sampler(
        self,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        *,
        drop_last: bool = False,
    ) -> BucketSampler:
        """Batches of items of one shape, in a new order in each epoch.

        >>> sampler = dataset.bucket_sampler(64, rank=0, world=8)  # doctest: +SKIP
        >>> loader = DataLoader(dataset, batch_sampler=sampler)  # doctest: +SKIP

        Every rank gets the same number of batches: fewer than ``world`` batches are left out,
        different ones in each epoch. The sampler's ``set_epoch`` also sets that of this dataset.

        Args:
            batch_size: the number of items of a batch; the last one of a shape may have fewer.
            seed: of the order; the same for all ranks.
            rank, world: which process this is, and of how many.
            drop_last: leave out the batches that have fewer items.

        Raises:
            ArgumentError: the batch size is not positive, or the rank is not below ``world``.
        """
        return BucketSampler(self, batch_size, seed, rank, world, drop_last)


def _classes(labels: "pa.ChunkedArray") -> tuple[dict[str, int], NDArray[np.int64]]:
    """The class of each label, and of each row; -1 without a label."""
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = class_numbers(label for label in labels.unique().to_pylist() if label is not None)
    places = pc.index_in(labels, pa.array([*numbers], pa.string())).fill_null(-1).to_numpy()
    return numbers, np.array([*numbers.values(), -1])[places]


def _values(column: NDArray[Any]) -> Sequence[Any]:
    """The values of a column of some rows, as ``default_collate`` takes them."""
    return column.tolist() if column.ndim == 1 else torch.from_numpy(column).unbind()
