"""The prior of a checkpoint, and payloads that are entropy-coded with it. No torch.

The prior says how likely a token is beside its neighbours. The codebook is divided into groups; a
token is coded as its group and then as itself, each among weights that are integers and add up to
``TOTAL``. So are all numbers on the way to them: a payload is read on any machine as it was
written on another. A prior has one of two forms: ``NeuralPrior``, which is what is made now, and
``CountedPrior``, the former one.

The coder is the range variant of asymmetric numeral systems (Duda, arXiv 1311.2540, section 2.3):
all that is coded so far is one integer, the state, and a symbol whose ``weight`` slots of
``TOTAL`` begin at ``low`` makes it ``state // weight * TOTAL + low + state % weight``. The state
begins as the last code itself; the other tokens follow from the last to the first, of each the
token in its group and then its group. Tiles follow each other, and in them tokens by their turns.
Whenever the state would outgrow 64 bits, its lower 32 move to the payload, little-endian, and so
do in the end its lower and then its upper half; zero bytes at the end of the payload are cut off.
An entropy coder's usual floating-point tables would not be the same everywhere, and a usual start
would cost two of the 26 bytes of 16 tokens.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokcodec.coding.bitpack import Tokens
from tokcodec.errors import CheckpointError, Hint, TokenFileError

GROUPS = 64
BEYOND = GROUPS  # stands for the group of a neighbour beyond the border
TOTAL = 1 << 15
WIDTH = 32  # of the vector of a neighbour
HIDDEN = 64
NEIGHBOURS = ((0, -1), (-1, -1), (-1, 0), (-1, 1))  # of a token, in rows and columns from it
PREFIX = "prior."
ALTERED = "damaged, or entropy-coded with another prior"
# Binary places of the fixed-point numbers of a neural prior; of ``powers``, of its index.
PLACES = {
    "vectors": 5,
    "layer": 6,
    "layer_bias": 11,
    "hidden": 4,
    "group_scores": 5,
    "group_bias": 9,
    "token_scores": 5,
    "token_bias": 9,
    "powers": 6,
}
HIDDEN_MOST = 127
_WORD = 1 << 32
_FULL = (1 << 64) // TOTAL  # of this many a weight, the state would outgrow 64 bits

Ends = NDArray[np.integer[Any]]  # of the slots of symbols; each one's begin where the last's end


@dataclass(frozen=True, eq=False)
class Prior(ABC):
    """What all forms share: groups of tokens, and the coder.

    Attributes:
        group: uint8 [K], the group of every token.
    """

    group: NDArray[np.uint8]

    @abstractmethod
    def turns(self, rows: int, columns: int) -> NDArray[np.intp]:
        """[rows, columns], when every token of a square has its turn; in the same turn stand tokens
        that are no neighbours, which go from above to below."""

    @abstractmethod
    def contexts(self, around: Tokens) -> NDArray[Any]:
        """Tokens of the ``NEIGHBOURS`` of tokens, [..., 4], K beyond the border -> what the prior
        makes of them, [..., n]."""

    @abstractmethod
    def group_ends(self, contexts: NDArray[Any]) -> Ends:
        """[..., n] -> where the slots of every group end, [..., 64]."""

    @abstractmethod
    def token_ends(self, group: int, contexts: NDArray[Any]) -> Ends:
        """[..., n] -> where the slots of every token of a group end, [..., members]; or [members],
        if the same for all."""

    @staticmethod
    def from_tensors(tensors: Mapping[str, NDArray[Any]]) -> "Prior":
        """The prior among the tensors of a checkpoint.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        form = CountedPrior if PREFIX + "token_weights" in tensors else NeuralPrior
        names = [field.name for field in fields(form)]
        if missing := [name for name in names if PREFIX + name not in tensors]:
            raise CheckpointError(f"its prior lacks {missing[0]}")
        return form(*(tensors[PREFIX + name] for name in names))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The tables under their names in a checkpoint."""
        return {PREFIX + field.name: getattr(self, field.name) for field in fields(self)}

    def encode(self, tokens: Tokens) -> bytes:
        """int64 [n, rows, columns] -> the payload, shorter the likelier the tokens are.

        Raises:
            ValueError: there are no tokens, or the prior has no such ones.
        """
        if not (tokens.size and 0 <= tokens.min() <= tokens.max() < len(self.group)):
            raise ValueError(f"tokens must be from 0 to {len(self.group) - 1}, and at least one")
        n, rows, columns = tokens.shape
        order = np.concatenate(self._waves(rows, columns))
        around = neighbours(tokens, len(self.group)).reshape(n, rows * columns, -1)
        contexts = self.contexts(around[:, order].reshape(tokens.size, -1))
        flat = tokens.reshape(n, -1)[:, order].reshape(-1)
        group = self.group[flat].astype(np.intp)
        # Of every token its group, and it in its group: where their slots begin and end.
        spans = np.empty((len(flat), 2, 2), np.int64)
        spans[:, 0] = _spans(self.group_ends(contexts), group)
        for number in np.unique(group):
            here = group == number
            spans[here, 1] = _spans(
                self.token_ends(number, contexts[here]), self._ranks[flat[here]]
            )
        # From the last to the first; the very last token is there already.
        state, words = int(flat[-1]), []
        for low, end in spans.reshape(-1, 2)[-3::-1].tolist():
            weight = end - low
            if state >= weight * _FULL:
                words.append(state % _WORD)
                state //= _WORD
            state = state // weight * TOTAL + low + state % weight
        words += [state % _WORD, state // _WORD]
        return np.array(words, "<u4").tobytes().rstrip(b"\0")

    def decode(self, payload: bytes, shape: tuple[int, int, int]) -> Tokens:
        """The inverse of ``encode``: int64 [n, rows, columns].

        Raises:
            TokenFileError: it is no payload of so many tokens, of this prior.
        """
        n, rows, columns = shape
        words = np.frombuffer(payload + bytes(-len(payload) % 4), "<u4").tolist()

        def filled(state: int) -> int:
            while state < _WORD and words:
                state = state * _WORD + words.pop()
            return state

        state = filled(0)

        def pop(ends: Ends) -> int:
            """The symbol on top."""
            nonlocal state
            rest, slot = divmod(state, TOTAL)
            symbol = int(ends.searchsorted(slot, side="right"))
            low = int(ends[symbol - 1]) if symbol else 0
            state = filled(rest * (int(ends[symbol]) - low) + slot - low)
            return symbol

        wide = columns + 2
        steps = np.array([row * wide + column for row, column in NEIGHBOURS])
        waves = [
            (wave // columns + 1) * wide + wave % columns + 1 for wave in self._waves(rows, columns)
        ]
        known = np.full((n, (rows + 1) * wide), len(self.group))  # tiles and their borders
        left = math.prod(shape)
        for tile in known:
            for wave in waves:
                contexts = self.contexts(tile.take(wave[:, None] + steps))
                group_ends = self.group_ends(contexts)
                for own, context, ends in zip(wave.tolist(), contexts, group_ends, strict=True):
                    left -= 1
                    if not left:
                        break
                    group = pop(ends)
                    members = self._members[group]
                    if not len(members):
                        raise TokenFileError(ALTERED, hint=Hint.NAME_WEIGHTS)
                    tile[own] = members[pop(self.token_ends(group, context))]
        if words or state >= len(self.group):
            raise TokenFileError(ALTERED, hint=Hint.NAME_WEIGHTS)
        tokens = known.reshape(n, rows + 1, wide)[:, 1:, 1:-1].copy()
        tokens[-1, -1, -1] = state
        return tokens

    def _waves(self, rows: int, columns: int) -> list[NDArray[np.intp]]:
        """The places in a square, row by row, whose turn it is, turn by turn."""
        turns = self.turns(rows, columns).reshape(-1)
        order = turns.argsort(kind="stable")
        return np.split(order, np.flatnonzero(np.diff(turns[order])) + 1)

    @cached_property
    def _members(self) -> list[NDArray[np.intp]]:
        """The tokens of every group."""
        return [np.flatnonzero(self.group == group) for group in range(GROUPS)]

    @cached_property
    def _ranks(self) -> NDArray[np.intp]:
        """[K]: how many tokens of its group are before every token."""
        ranks = np.empty(len(self.group), np.intp)
        for members in self._members:
            ranks[members] = np.arange(len(members))
        return ranks


@dataclass(frozen=True, eq=False)
class CountedPrior(Prior):
    """A table for the groups to the left and above, and one of the tokens in their groups.

    Attributes:
        group_weights: uint16 [65, 65, 64]: by the groups to the left and above (64: beyond the
            border), the weight of every group; each row adds up to ``TOTAL``.
        token_weights: uint16 [K]: the weight of every token; each group adds up to ``TOTAL``.

    Raises:
        CheckpointError: the tables are no such ones.
    """

    group_weights: NDArray[np.uint16]
    token_weights: NDArray[np.uint16]

    def __post_init__(self) -> None:
        _check(self.group, np.uint8, self.group.size)
        _check(self.group_weights, np.uint16, GROUPS + 1, GROUPS + 1, GROUPS)
        _check(self.token_weights, np.uint16, self.group.size)
        sums = np.bincount(self.group, self.token_weights)
        if (
            self.group.max(initial=0) >= GROUPS
            or not (self.group_weights.all() and self.token_weights.all())
            or (self.group_weights.sum(axis=-1) != TOTAL).any()
            or (sums[np.unique(self.group)] != TOTAL).any()
        ):
            raise CheckpointError(f"its prior has tables that do not add up to {TOTAL}")

    def turns(self, rows: int, columns: int) -> NDArray[np.intp]:
        return np.arange(rows * columns).reshape(rows, columns)

    def contexts(self, around: Tokens) -> NDArray[np.uint8]:
        return self._groups.take(around)

    def group_ends(self, contexts: NDArray[Any]) -> Ends:
        left, above = (contexts[..., NEIGHBOURS.index(step)] for step in ((0, -1), (-1, 0)))
        ends: Ends = self._group_ends[left, above]
        return ends

    def token_ends(self, group: int, contexts: NDArray[Any]) -> Ends:  # noqa: ARG002
        return self._token_ends[group]

    @cached_property
    def _groups(self) -> NDArray[np.uint8]:
        """[K + 1]: the group of every token, and beyond the border."""
        return np.append(self.group, np.uint8(BEYOND))

    @cached_property
    def _group_ends(self) -> Ends:
        return self.group_weights.cumsum(axis=-1, dtype=np.uint16)

    @cached_property
    def _token_ends(self) -> list[Ends]:
        return [self.token_weights[members].cumsum() for members in self._members]


@dataclass(frozen=True, eq=False)
class NeuralPrior(Prior):
    """A feed-forward network in integers (Bengio et al., JMLR 3, 2003, section 2).

    Vectors of the tokens to the left, above left, above and above right go through one layer;
    what comes out is multiplied with a vector of every group, and of every token in the group, for
    their scores. A weight is a power of 2 by the score, scaled to add up to ``TOTAL``.

    Attributes:
        vectors: int8 [K + 1, 32], of tokens as neighbours, and last of what is beyond the border.
        layer, layer_bias: int8 [4 * 32, 64] and int16 [64]. What comes out is cut to 0 to 127.
        group_scores, group_bias: int8 [64, 64] and int16 [64]; scores are in bits.
        token_scores, token_bias: int8 [K, 64] and int16 [K].
        powers: uint16 [n]: the weight of what is so far behind the likeliest; the last one also of
            all that is further behind.

    All are fixed-point numbers with the binary ``PLACES`` of their names, the index of ``powers``
    too. Products have those of their biases, and are cut to those of what they are looked up as.

    Raises:
        CheckpointError: the tables are no such ones.
    """

    vectors: NDArray[np.int8]
    layer: NDArray[np.int8]
    layer_bias: NDArray[np.int16]
    group_scores: NDArray[np.int8]
    group_bias: NDArray[np.int16]
    token_scores: NDArray[np.int8]
    token_bias: NDArray[np.int16]
    powers: NDArray[np.uint16]

    def __post_init__(self) -> None:
        size = self.group.size
        _check(self.group, np.uint8, size)
        _check(self.vectors, np.int8, size + 1, WIDTH)
        _check(self.layer, np.int8, len(NEIGHBOURS) * WIDTH, HIDDEN)
        _check(self.layer_bias, np.int16, HIDDEN)
        _check(self.group_scores, np.int8, GROUPS, HIDDEN)
        _check(self.group_bias, np.int16, GROUPS)
        _check(self.token_scores, np.int8, size, HIDDEN)
        _check(self.token_bias, np.int16, size)
        _check(self.powers, np.uint16, self.powers.size)
        if not (self.powers.size and self.powers.all()):
            raise CheckpointError("its prior has weights of 0")
        sizes = np.bincount(self.group, minlength=1)
        if len(sizes) > GROUPS or sizes.max() > TOTAL // 2:
            raise CheckpointError("its prior has groups that are too many or too large")

    def turns(self, rows: int, columns: int) -> NDArray[np.intp]:
        return np.add.outer(2 * np.arange(rows), np.arange(columns))

    def contexts(self, around: Tokens) -> NDArray[np.int32]:
        vectors = self._vectors.take(around, axis=0).reshape(*around.shape[:-1], -1)
        sums = _product(vectors, self._layer) + self.layer_bias
        sums >>= PLACES["layer_bias"] - PLACES["hidden"]
        hidden: NDArray[np.int32] = np.minimum(np.maximum(sums, 0), HIDDEN_MOST)
        return hidden

    def group_ends(self, contexts: NDArray[Any]) -> Ends:
        return self._ends(_product(contexts, self._group_scores) + self.group_bias)

    def token_ends(self, group: int, contexts: NDArray[Any]) -> Ends:
        scores, bias = self._token_scores[group]
        return self._ends(_product(contexts, scores) + bias)

    def _ends(self, scores: NDArray[np.int32]) -> Ends:
        """Scores [..., n] -> where their slots end."""
        behind = scores.max(axis=-1, keepdims=True) - scores
        behind >>= PLACES["token_bias"] - PLACES["powers"]
        ends: Ends = self.powers.take(behind, mode="clip").cumsum(axis=-1, dtype=np.int64)
        count = scores.shape[-1]
        ends = ends * (TOTAL - count) // ends[..., -1:]
        ends += np.arange(1, count + 1)  # a slot for everyone, however unlikely
        return ends

    @cached_property
    def _vectors(self) -> NDArray[np.int32]:
        return self.vectors.astype(np.int32)

    @cached_property
    def _layer(self) -> NDArray[np.int32]:
        return self.layer.astype(np.int32)

    @cached_property
    def _group_scores(self) -> NDArray[np.int32]:
        return self.group_scores.T.astype(np.int32)

    @cached_property
    def _token_scores(self) -> list[tuple[NDArray[np.int32], NDArray[np.int16]]]:
        """For every group, of its tokens the vectors [64, members] and biases [members]."""
        return [
            (self.token_scores[members].T.astype(np.int32), self.token_bias[members])
            for members in self._members
        ]


def neighbours(tokens: Tokens, beyond: int) -> Tokens:
    """[n, rows, columns] -> the ``NEIGHBOURS`` of every token, [n * rows * columns, 4]; ``beyond``
    at the border."""
    _, rows, columns = tokens.shape
    around = np.pad(tokens, ((0, 0), (1, 0), (1, 1)), constant_values=beyond)
    shifted = [
        around[:, 1 + row : 1 + row + rows, 1 + column : 1 + column + columns]
        for row, column in NEIGHBOURS
    ]
    return np.stack(shifted, axis=-1).reshape(-1, len(NEIGHBOURS))


def _product(a: NDArray[np.int32], b: NDArray[np.int32]) -> NDArray[np.int32]:
    """The matrix product; of integers, faster than ``a @ b``."""
    product: NDArray[np.int32] = np.einsum("...j,jk->...k", a, b)
    return product


def _check(tensor: NDArray[Any], dtype: type, *shape: int) -> None:
    if tensor.dtype != dtype or tensor.shape != shape:
        raise CheckpointError("its prior has tables of another type or shape")


def _spans(ends: Ends, symbols: NDArray[np.intp]) -> NDArray[np.int64]:
    """Of m symbols where their slots begin and end, [m, 2], by ends [m, n] or [n]."""
    rows = np.arange(len(symbols))
    ends = np.broadcast_to(ends, (len(symbols), ends.shape[-1]))
    lows = np.where(symbols > 0, ends[rows, symbols - 1], 0)
    return np.stack([lows, ends[rows, symbols]], axis=-1)
