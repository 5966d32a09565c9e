"""Tokens as ids of a larger vocabulary: with an offset, and with special tokens between them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokcodec.errors import ArgumentError

_MOST = 1 << 63


@dataclass(frozen=True)
class Vocabulary:
    """The ids that stand for tokens, and special ids.

    Attributes:
        codebook_size: tokens are from 0 to ``codebook_size`` - 1.
        offset: the id of token 0.
        begin, end: ids before and after the tokens of an image; none if None.
        row: the id after each row of a grid; none if None.
    """

    codebook_size: int
    offset: int = 0
    begin: int | None = None
    end: int | None = None
    row: int | None = None

    def __post_init__(self) -> None:
        """Raise ArgumentError for negative ids, and for ids with two meanings."""
        ids = range(self.offset, self.offset + self.codebook_size)
        for name, special in (("begin", self.begin), ("end", self.end), ("row", self.row)):
            if special is not None and special in ids:
                raise ArgumentError(
                    f"the {name} token {special:,} is the id of an image token: these are "
                    f"{ids.start:,} to {ids.stop - 1:,}"
                )
        if self.row is not None and self.row in (self.begin, self.end):
            raise ArgumentError(f"the row token {self.row:,} begins or ends images, too")
        if min([self.offset, *self.special]) < 0 or self.size > _MOST:
            raise ArgumentError(f"ids of tokens must be from 0 to {_MOST - 1:,}")

    @property
    def special(self) -> list[int]:
        """The special ids."""
        return [value for value in (self.begin, self.end, self.row) if value is not None]

    @property
    def size(self) -> int:
        """The number of ids: the largest plus one."""
        return max([self.offset + self.codebook_size - 1, *self.special]) + 1

    @property
    def is_plain(self) -> bool:
        """Whether ids are tokens."""
        return not self.offset and not self.special

    def length(self, grid: tuple[int, ...]) -> int:
        """The number of ids of an image whose tokens are [rows, columns] or [N]."""
        tokens = int(np.prod(grid))
        rows = grid[0] if len(grid) == 2 and self.row is not None else 0
        return tokens + rows + (self.begin is not None) + (self.end is not None)

    def ids(self, tokens: NDArray[Any], dtype: "np.dtype[Any]") -> NDArray[Any]:
        """The ids [n, length] of the tokens of images, [n, rows, columns] or [n, N]."""
        found = tokens.astype(dtype)
        if self.is_plain:
            return found.reshape(len(found), -1)
        found += dtype.type(self.offset)

        def column(value: int | None, *shape: int) -> NDArray[Any]:
            return np.full((*shape, int(value is not None)), value or 0, dtype)

        if found.ndim == 3:
            found = np.concatenate([found, column(self.row, *found.shape[:2])], axis=2)
        count = len(found)
        flat = found.reshape(count, -1)
        return np.concatenate([column(self.begin, count), flat, column(self.end, count)], axis=1)

    def tokens(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        """The tokens of an image, the inverse of ``ids``. Ids without a meaning give numbers that
        are not tokens.

        >>> Vocabulary(8, 100, begin=1).tokens(np.array([1, 100, 107]))
        array([0, 7])
        """
        found = ids.astype(np.int64)
        if self.is_plain:
            return found
        return found[~np.isin(found, self.special)] - self.offset
