"""``TokenDataset``: rows of a token dataset for a training loop."""

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from tokcodec.dataset.folder import damaged
from tokcodec.dataset.reader import check_status, class_numbers, open_dataset
from tokcodec.errors import counted

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_OPEN_FILES = 16


class TokenDataset(Dataset[tuple[Tensor, int]]):
    """The rows of a dataset that did not fail: tokens int64 [N] and the class, -1 without a label.
    Where every row has its own grid (fits ``aspect`` and ``native``), N differs from row to row.

    Rows are read when asked for, a row group at a time; the file is never loaded whole. Works with
    ``DataLoader`` and its workers, which fetch a batch's rows together.

    Attributes:
        class_to_idx: the class of each label, see ``class_numbers``.
    """

    def __init__(self, path: str | Path) -> None:
        self._rows = open_dataset(path)
        self._files: dict[int, pq.ParquetFile] = {}
        self._groups: list[tuple[int, int]] = []  # file, row group
        self._starts = [0]  # first row of each group, failed ones not counted
        labels: list[str | None] = []
        for number, name in enumerate(self._rows.names):
            with self._rows.folder.reading(name) as source:
                for group in range(source.num_row_groups):
                    table = source.read_row_group(group, ["label", "status"])
                    columns = (table.column(name).to_pylist() for name in ("label", "status"))
                    kept = [label for label, state in zip(*columns, strict=True) if state == "ok"]
                    if not kept:  # no row of the group will be asked for
                        tokens = source.read_row_group(group, ["tokens", "status"])
                        check_status(tokens, self._rows.folder / name)
                    labels += kept
                    self._groups.append((number, group))
                    self._starts.append(self._starts[-1] + len(kept))
        self.class_to_idx = class_numbers(label for label in labels if label is not None)
        self._classes = np.array(
            [-1 if label is None else self.class_to_idx[label] for label in labels], np.int64
        )

    def __repr__(self) -> str:
        count = len(self.class_to_idx)
        classes = f", {count:,} classes" if count else ""
        rows = counted(len(self), "row")
        return f"<TokenDataset {self._rows.path}: {rows} of {self._rows.row}{classes}>"

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Several rows; each row group among them is read once."""
        found: dict[int, tuple[Tensor, int]] = {}
        wanted = [index + len(self) if index < 0 else index for index in indices]
        by_group: dict[int, list[int]] = {}
        for index in wanted:
            if not 0 <= index < len(self):
                raise IndexError(f"row {index} of {len(self)}")
            by_group.setdefault(bisect_right(self._starts, index) - 1, []).append(index)
        for group, rows in by_group.items():
            tokens = self._read(group)
            for index in rows:
                row = tokens[index - self._starts[group]]
                found[index] = torch.from_numpy(row.astype(np.int64)), int(self._classes[index])
        return [found[index] for index in wanted]

    def _read(self, group: int) -> "list[NDArray[Any]]":
        """The rows of a row group, each [N].

        Raises:
            DatasetError: it is damaged.
        """
        number, row_group = self._groups[group]
        name = self._rows.names[number]
        file = self._rows.folder / name
        with damaged(file):
            if number not in self._files:
                if len(self._files) >= _OPEN_FILES:
                    self._files.pop(next(iter(self._files))).close()
                self._files[number] = self._rows.folder.open(name)
            table = self._files[number].read_row_group(row_group, ["tokens", "status"])
            check_status(table, file)
        parts = self._rows.rows(file, table.column("tokens").combine_chunks())
        return [row for part in parts for row in part]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_files": {}}  # open files do not travel to workers
