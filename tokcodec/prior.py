"""The prior of a checkpoint, and payloads that are entropy-coded with it. No torch.

The prior says how likely a code is beside its neighbours. The codebook is divided into groups; a
code is coded as its group, by a table for the groups to the left and above, and then as itself, by
a table of its group. The tables are integers that add up to ``TOTAL``, and so is all
arithmetic: a payload is read on any machine as it was written on another.

The coder is the range variant of asymmetric numeral systems (Duda, arXiv 1311.2540, section 2.3):
all that is coded so far is one integer, the state, and a symbol whose ``weight`` slots of
``TOTAL`` begin at ``low`` makes it ``state // weight * TOTAL + low + state % weight``. The state
begins as the last code itself; the other codes follow from the last to the first, of each the
code in its group and then its group. Whenever the state would outgrow 64 bits, its lower 32 move
to the payload, little-endian, and so do in the end its lower and then its upper half; zero bytes
at the end of the payload are cut off. An entropy coder's usual floating-point tables would not be
the same everywhere, and a usual start would cost two of the 26 bytes of 16 codes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tokcodec.bitpack import Codes
from tokcodec.errors import CheckpointError, TokenFileError

GROUPS = 64
BEYOND = GROUPS  # stands for the group of a neighbour beyond the border
TOTAL = 1 << 15
PREFIX = "prior."
ALTERED = "damaged, or entropy-coded with another prior; name its checkpoint with --weights"
_WORD = 1 << 32
_FULL = (1 << 64) // TOTAL  # of this many a weight, the state would outgrow 64 bits


@dataclass(frozen=True, eq=False)
class Prior:
    """Tables of integers for the codes of one model, in rows and columns.

    Attributes:
        group: uint8 [K], the group of every code.
        group_weights: uint16 [65, 65, 64]: by the groups to the left and above (64: beyond the
            border), the weight of every group; each row adds up to ``TOTAL``.
        code_weights: uint16 [K]: the weight of every code; each group adds up to ``TOTAL``.

    Raises:
        CheckpointError: the tables are no such ones.
    """

    group: NDArray[np.uint8]
    group_weights: NDArray[np.uint16]
    code_weights: NDArray[np.uint16]

    def __post_init__(self) -> None:
        for tensor, dtype, shape in (
            (self.group, np.uint8, (self.group.size,)),
            (self.group_weights, np.uint16, (GROUPS + 1, GROUPS + 1, GROUPS)),
            (self.code_weights, np.uint16, self.group.shape),
        ):
            if tensor.dtype != dtype or tensor.shape != shape:
                raise CheckpointError("its prior has tables of another type or shape")
        sums = np.bincount(self.group, self.code_weights)
        if (
            self.group.max(initial=0) >= GROUPS
            or not (self.group_weights.all() and self.code_weights.all())
            or (self.group_weights.sum(axis=-1) != TOTAL).any()
            or (sums[np.unique(self.group)] != TOTAL).any()
        ):
            raise CheckpointError(f"its prior has tables that do not add up to {TOTAL}")

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Self:
        """The prior among the tensors of a checkpoint.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        names = ("group", "group_weights", "code_weights")
        if missing := [name for name in names if PREFIX + name not in tensors]:
            raise CheckpointError(f"its prior lacks {missing[0]}")
        return cls(*(tensors[PREFIX + name] for name in names))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The tables under their names in a checkpoint."""
        return {
            PREFIX + "group": self.group,
            PREFIX + "group_weights": self.group_weights,
            PREFIX + "code_weights": self.code_weights,
        }

    def encode(self, codes: Codes) -> bytes:
        """int64 [n, rows, columns] -> the payload, shorter the likelier the codes are.

        Raises:
            ValueError: there are no codes, or the prior has no such ones.
        """
        if not (codes.size and 0 <= codes.min() <= codes.max() < len(self.group)):
            raise ValueError(f"codes must be from 0 to {len(self.group) - 1}, and at least one")
        group = self.group[codes]
        left, above = neighbours(group)
        # [n, rows, columns, 2]: of every code its group, and it in its group.
        weights = np.stack([self.group_weights[left, above, group], self.code_weights[codes]], -1)
        lows = np.stack([self._group_bounds[left, above, group], self._code_lows[codes]], -1)
        # From the last to the first; the very last code is there already.
        symbols = zip(weights.ravel()[-3::-1].tolist(), lows.ravel()[-3::-1].tolist(), strict=True)
        state, words = int(codes[-1, -1, -1]), []
        for weight, low in symbols:
            if state >= weight * _FULL:
                words.append(state % _WORD)
                state //= _WORD
            state = state // weight * TOTAL + low + state % weight
        words += [state % _WORD, state // _WORD]
        return np.array(words, "<u4").tobytes().rstrip(b"\0")

    def decode(self, payload: bytes, shape: tuple[int, int, int]) -> Codes:
        """The inverse of ``encode``: int64 [n, rows, columns].

        Raises:
            TokenFileError: it is no payload of so many codes, of this prior.
        """
        _, rows, columns = shape
        words = np.frombuffer(payload + bytes(-len(payload) % 4), "<u4").tolist()

        def filled(state: int) -> int:
            while state < _WORD and words:
                state = state * _WORD + words.pop()
            return state

        state = filled(0)

        def pop(bounds: NDArray[np.uint16]) -> int:
            """The symbol on top, of those whose slots lie between ``bounds``."""
            nonlocal state
            rest, slot = divmod(state, TOTAL)
            symbol = int(bounds.searchsorted(slot, side="right")) - 1
            low, end = bounds[symbol : symbol + 2].tolist()
            state = filled(rest * (end - low) + slot - low)
            return symbol

        codes = np.empty(math.prod(shape), np.int64)
        known = np.full((rows + 1, columns + 1), BEYOND, np.uint8)  # of one square
        for place in range(len(codes) - 1):
            row, column = divmod(place % (rows * columns), columns)
            own = pop(self._group_bounds[known[row + 1, column], known[row, column + 1]])
            known[row + 1, column + 1] = own
            members, bounds = self._members[own]
            if not len(members):
                raise TokenFileError(ALTERED)
            codes[place] = members[pop(bounds)]
        if words or state >= len(self.group):
            raise TokenFileError(ALTERED)
        codes[-1] = state
        return codes.reshape(shape)

    @cached_property
    def _group_bounds(self) -> NDArray[np.uint16]:
        """[65, 65, 65]: where the slots of every group begin, and where the last ones end."""
        return _bounds(self.group_weights)

    @cached_property
    def _members(self) -> list[tuple[NDArray[np.intp], NDArray[np.uint16]]]:
        """For every group, its codes, and where their slots begin, and the last ones end."""
        members = [np.flatnonzero(self.group == group) for group in range(GROUPS)]
        return [(codes, _bounds(self.code_weights[codes])) for codes in members]

    @cached_property
    def _code_lows(self) -> NDArray[np.uint16]:
        """[K]: where the slots of every code begin, among those of its group."""
        lows = np.empty_like(self.code_weights)
        for codes, bounds in self._members:
            lows[codes] = bounds[:-1]
        return lows


def neighbours(group: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """[n, rows, columns] -> the groups to the left and above, ``BEYOND`` at the border."""
    around = np.pad(group, ((0, 0), (1, 0), (1, 0)), constant_values=BEYOND)
    return around[:, 1:, :-1], around[:, :-1, 1:]


def _bounds(weights: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """[..., n] -> [..., n + 1]: 0 and the running sums."""
    ends = weights.cumsum(axis=-1, dtype=np.uint16)
    return np.concatenate([np.zeros_like(ends[..., :1]), ends], axis=-1)
