"""The prior of a checkpoint, and entropy coding with it. TOKEN_FILE.md specifies both exactly.

The prior gives the probability of each token from its neighbours, its position in the grid and the
size of the grid. The codebook is divided into groups; a token is coded as two symbols, its group
and its place in the group. The weights of the symbols are integers that add up to ``TOTAL``, and
are computed in integers, so that every machine reads a payload as it was written.

The coder is the range variant of asymmetric numeral systems (Duda, arXiv 1311.2540, section 2.3).
It codes into one integer, the state: a symbol whose ``weight`` slots of ``TOTAL`` begin at ``low``
makes it ``state // weight * TOTAL + low + state % weight``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokcodec.coding.bitpack import Tokens
from tokcodec.errors import CheckpointError, Hint, TokenFileError

GROUPS = 64
TOTAL = 1 << 15
START = 1 << 8  # of the state, plus the rank of the last token; below it, bytes are missing
WIDTH = 32  # channels of the vector of a neighbour
HIDDEN = 128
# Rows and columns relative to a token, of tokens that are decoded before it, see ``_waves``.
NEIGHBOURS = (
    (0, -1), (-1, -1), (-1, 0), (-1, 1),
    (0, -2), (-2, 0), (-1, -2), (-2, -1), (-2, 1), (-2, 2),
)  # fmt: skip
_REACH = 2  # rows and columns to the farthest neighbour
SIZES = 32  # classes of grids, by half powers of 2 of their number of tokens
BANDS = 16  # classes of rows, and of columns
PREFIX = "prior."
ALTERED = "damaged, or entropy-coded with another prior"
# The fractional bits of the fixed-point numbers of a prior; for ``powers``, those of its index.
PLACES = {
    "vectors": 5,
    "layer": 6,
    "size_bias": 11,
    "row_bias": 11,
    "column_bias": 11,
    "hidden": 4,
    "group_scores": 5,
    "group_bias": 9,
    "token_scores": 5,
    "token_bias": 9,
    "powers": 6,
}
HIDDEN_MOST = 127
_AT_ONCE = 1 << 14  # tokens whose weights are in memory together
_LEAST = 1 << 24  # the smallest state that is full; the limit is 256 times as much
_FULL = (_LEAST << 8) // TOTAL  # a symbol needs a state below this many times its weight

Ends = NDArray[np.integer[Any]]  # ends of the slots of symbols, which begin where others end


@dataclass(frozen=True, eq=False)
class Prior:
    """A feed-forward network in integers (Bengio et al., JMLR 3, 2003, section 2), and the coder.

    The vectors of the ``NEIGHBOURS`` are the input of one layer, whose bias depends on the position
    of the token and the size of the grid. The products of its outputs and a vector of each group,
    and of each token in the group, are their scores. A weight is a power of 2 of the score, scaled
    so that all weights add up to ``TOTAL``.

    Attributes:
        group: uint8 [K], the group of each token.
        vectors: int8 [K + 1, 32], the vectors of tokens as neighbours; the last one is that of a
            neighbour outside of the grid.
        layer: int8 [10 * 32, 128]; its outputs are clipped to 0 to 127.
        size_bias: int16 [32, 128], by the number of tokens of the grid, see ``size_of``.
        row_bias, column_bias: int16 [16, 128], by the position in the grid, see ``band_of``.
        group_scores, group_bias: int8 [64, 128] and int16 [64]; scores are in bits.
        token_scores, token_bias: int8 [K, 128] and int16 [K].
        powers: uint16 [n], the weight for each difference from the highest score; the last one is
            also that of all larger differences.

    All are fixed-point numbers with ``PLACES`` fractional bits. Products have as many as their
    biases, and are shifted to those of what uses them.

    Raises:
        CheckpointError: a table has another type, shape or value.
    """

    group: NDArray[np.uint8]
    vectors: NDArray[np.int8]
    layer: NDArray[np.int8]
    size_bias: NDArray[np.int16]
    row_bias: NDArray[np.int16]
    column_bias: NDArray[np.int16]
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
        _check(self.size_bias, np.int16, SIZES, HIDDEN)
        _check(self.row_bias, np.int16, BANDS, HIDDEN)
        _check(self.column_bias, np.int16, BANDS, HIDDEN)
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

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> "Prior":
        """The prior among the tensors of a checkpoint.

        Raises:
            CheckpointError: a table is missing or damaged.
        """
        names = [field.name for field in fields(cls)]
        if missing := [name for name in names if PREFIX + name not in tensors]:
            raise CheckpointError(f"its prior lacks {missing[0]}")
        return cls(*(tensors[PREFIX + name] for name in names))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The tables by their names in a checkpoint."""
        return {PREFIX + field.name: getattr(self, field.name) for field in fields(self)}

    def encode(self, tokens: Tokens) -> bytes:
        """Encode tokens int64 [n, rows, columns] to a payload.

        If n is 1, -1 is a position without a token.

        Raises:
            ValueError: there are no tokens, or one is outside of the codebook.
        """
        n, rows, columns = tokens.shape
        there = tokens[0] >= 0 if n == 1 else np.ones((rows, columns), bool)
        known = tokens[:, there]
        if not (known.size and 0 <= known.min() <= known.max() < len(self.group)):
            raise ValueError(f"tokens must be from 0 to {len(self.group) - 1}, and at least one")
        tokens = np.where(there, tokens, len(self.group))
        order = np.concatenate(_waves(there))
        flat = tokens.reshape(n, -1)[:, order].reshape(-1)
        around = neighbours(tokens, len(self.group)).reshape(n, rows * columns, -1)[:, order]
        biases = self._biases(rows, columns)
        # Begin and end of the slots of the group of each token, and of the token in its group.
        spans = np.empty((len(flat), 2, 2), np.int64)
        for start in range(0, len(flat), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            places = order[np.arange(start, min(part.stop, len(flat))) % len(order)]
            contexts = self.contexts(around.reshape(len(flat), -1)[part], biases(places))
            spans[part] = self._token_spans(contexts, flat[part])
        # From the last token, whose rank the state begins with, to the first.
        rank = int((self._ranked(contexts[-1]) == flat[-1]).argmax())
        state, out = START + rank, bytearray()
        for low, end in spans.reshape(-1, 2)[-3::-1].tolist():
            weight = end - low
            while state >= weight * _FULL:
                out.append(state & 0xFF)
                state >>= 8
            state = state // weight * TOTAL + low + state % weight
        while state:
            out.append(state & 0xFF)
            state >>= 8
        return bytes(reversed(out))  # so that the beginning of a cut file can be read

    def _token_spans(self, contexts: NDArray[np.int32], tokens: Tokens) -> NDArray[np.int64]:
        """Begin and end of the slots of tokens [m]: [m, 2, 2], for the group and for the token."""
        spans = np.empty((len(tokens), 2, 2), np.int64)
        group = self.group[tokens].astype(np.intp)
        spans[:, 0] = _spans(self.group_ends(contexts), group)
        for number in np.flatnonzero(np.bincount(group)).tolist():
            here = group == number
            spans[here, 1] = _spans(
                self.token_ends(number, contexts[here]), self._ranks[tokens[here]]
            )
        return spans

    def decode(
        self,
        payload: bytes,
        shape: tuple[int, int, int],
        *,
        there: NDArray[np.bool_] | None = None,
        partial: bool = False,
    ) -> Tokens:
        """The inverse of ``encode``: int64 [n, rows, columns].

        Args:
            payload: the bytes.
            shape: the shape of the tokens.
            there: if n is 1, whether each position, [rows, columns], has a token; all if None.
            partial: read a payload that is cut or altered as far as possible, and return -1 for
                the tokens after that.

        Raises:
            TokenFileError: the payload was not written with this shape and prior.
        """
        n, rows, columns = shape
        rest = list(reversed(payload))

        def filled(state: int) -> int:
            while state < _LEAST and rest:
                state = state << 8 | rest.pop()
            return state

        state = filled(0)

        def pop(ends: Ends) -> int:
            """Take the next symbol off the state."""
            nonlocal state
            if partial and state < _LEAST:  # its lower bits are missing
                raise TokenFileError(ALTERED, hint=Hint.NAME_WEIGHTS)
            turns, slot = divmod(state, TOTAL)
            symbol = int(ends.searchsorted(slot, side="right"))
            low = int(ends[symbol - 1]) if symbol else 0
            state = filled(turns * (int(ends[symbol]) - low) + slot - low)
            if state < START:
                raise TokenFileError(ALTERED, hint=Hint.NAME_WEIGHTS)
            return symbol

        wide = columns + 2 * _REACH
        steps = np.array([row * wide + column for row, column in NEIGHBOURS])
        biases = self._biases(rows, columns)
        waves = _waves(np.ones((rows, columns), bool) if there is None else there)
        known = np.full((n, (rows + _REACH) * wide), len(self.group))  # tiles and their borders

        def read() -> None:
            left = n * sum(map(len, waves))
            for tile in known:
                for wave in waves:
                    places = (wave // columns + _REACH) * wide + wave % columns + _REACH
                    contexts = self.contexts(tile.take(places[:, None] + steps), biases(wave))
                    group_ends = self.group_ends(contexts)
                    for place, context, ends in zip(
                        places.tolist(), contexts, group_ends, strict=True
                    ):
                        left -= 1
                        if left:
                            group = pop(ends)
                            candidates, rank = self._members[group], -1
                            if len(candidates):
                                rank = pop(self.token_ends(group, context))
                        else:
                            candidates, rank = self._ranked(context), state - START
                        if not 0 <= rank < len(candidates) or (rest and not left):
                            raise TokenFileError(ALTERED, hint=Hint.NAME_WEIGHTS)
                        tile[place] = candidates[rank]

        try:
            read()
        except TokenFileError:
            if not partial:
                raise
        tokens = known.reshape(n, rows + _REACH, wide)[:, _REACH:, _REACH:-_REACH].copy()
        tokens[tokens == len(self.group)] = -1
        return tokens

    def _biases(self, rows: int, columns: int) -> Callable[[NDArray[np.intp]], NDArray[np.int32]]:
        """A function that returns the biases [m, 128] of the layer at positions [m] of a grid."""
        down = self.row_bias[band_of(np.arange(rows), rows)].astype(np.int32)
        down += self.size_bias[size_of(rows, columns)]
        across = self.column_bias[band_of(np.arange(columns), columns)].astype(np.int32)
        return lambda places: down[places // columns] + across[places % columns]

    def contexts(self, around: Tokens, biases: NDArray[np.int32]) -> NDArray[np.int32]:
        """The outputs [..., 128] of the layer.

        ``around`` has the neighbours [..., 10] of each token, K outside of the grid; ``biases`` are
        [..., 128].
        """
        vectors = self._vectors.take(around, axis=0).reshape(*around.shape[:-1], -1)
        sums = _product(vectors, self._layer) + biases
        sums >>= PLACES["size_bias"] - PLACES["hidden"]
        hidden: NDArray[np.int32] = np.minimum(np.maximum(sums, 0), HIDDEN_MOST)
        return hidden

    def group_ends(self, contexts: NDArray[np.int32]) -> Ends:
        """The ends [..., 64] of the slots of all groups."""
        return self._ends(_product(contexts, self._group_scores) + self.group_bias)

    def token_ends(self, group: int, contexts: NDArray[np.int32]) -> Ends:
        """The ends [..., members] of the slots of all tokens of a group."""
        scores, bias = self._token_scores[group]
        return self._ends(_product(contexts, scores) + bias)

    def _ranked(self, context: NDArray[np.int32]) -> Tokens:
        """All tokens, the likeliest first. The weight of a token is the product of the slots of its
        group and of the token in the group."""
        slots = np.diff(self.group_ends(context), prepend=0)
        weights = np.empty(len(self.group), np.int64)
        for group, members in enumerate(self._members):
            if len(members):
                ends = self.token_ends(group, context)
                weights[members] = slots[group] * np.diff(ends, prepend=0)
        ranked: Tokens = (-weights).argsort(kind="stable")
        return ranked

    def _ends(self, scores: NDArray[np.int32]) -> Ends:
        """The ends of the slots of symbols with these scores, [..., n]."""
        behind = scores.max(axis=-1, keepdims=True) - scores
        behind >>= PLACES["token_bias"] - PLACES["powers"]
        ends: Ends = self.powers.take(behind, mode="clip").cumsum(axis=-1, dtype=np.int64)
        count = scores.shape[-1]
        ends = ends * (TOTAL - count) // ends[..., -1:]
        ends += np.arange(1, count + 1)  # at least one slot for each symbol
        return ends

    @cached_property
    def _members(self) -> list[NDArray[np.intp]]:
        """The tokens of each group."""
        return [np.flatnonzero(self.group == group) for group in range(GROUPS)]

    @cached_property
    def _ranks(self) -> NDArray[np.intp]:
        """[K]: the place of each token in its group."""
        ranks = np.empty(len(self.group), np.intp)
        for members in self._members:
            ranks[members] = np.arange(len(members))
        return ranks

    @cached_property
    def _vectors(self) -> NDArray[np.int32]:
        return self.vectors.astype(np.int32)

    @cached_property
    def _layer(self) -> NDArray[np.float32]:
        return self.layer.astype(np.float32)

    @cached_property
    def _group_scores(self) -> NDArray[np.float32]:
        return self.group_scores.T.astype(np.float32)

    @cached_property
    def _token_scores(self) -> list[tuple[NDArray[np.float32], NDArray[np.int16]]]:
        """For each group, the vectors [128, members] and biases [members] of its tokens."""
        return [
            (self.token_scores[members].T.astype(np.float32), self.token_bias[members])
            for members in self._members
        ]


def _waves(there: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """The positions of tokens in the order in which they are decoded.

    The tokens of a wave are not neighbours of each other; they are ordered from top to bottom.
    """
    rows, columns = there.shape
    turns = np.add.outer(2 * np.arange(rows), np.arange(columns)).reshape(-1)
    order = turns.argsort(kind="stable")
    order = order[there.reshape(-1)[order]]
    return np.split(order, np.flatnonzero(np.diff(turns[order])) + 1)


def size_of(rows: int, columns: int) -> int:
    """The index into ``size_bias``: floor(2 log2(tokens)), or the last one."""
    return min(((rows * columns) ** 2).bit_length() - 1, SIZES - 1)


def band_of(places: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """The index into ``row_bias`` or ``column_bias`` for rows or columns of a grid."""
    return places * BANDS // count


def neighbours(tokens: Tokens, beyond: int) -> Tokens:
    """The ``NEIGHBOURS`` [n * rows * columns, 10] of tokens [n, rows, columns]; ``beyond`` outside
    of the grid."""
    _, rows, columns = tokens.shape
    border = ((0, 0), (_REACH, 0), (_REACH, _REACH))
    around = np.pad(tokens, border, constant_values=beyond)
    shifted = [
        around[:, row : row + rows, column : column + columns]
        for row, column in np.add(NEIGHBOURS, _REACH).tolist()
    ]
    return np.stack(shifted, axis=-1).reshape(-1, len(NEIGHBOURS))


def _product(a: NDArray[np.int32], b: NDArray[np.float32]) -> NDArray[np.int32]:
    """The matrix product of integers, which NumPy computes faster as floats.

    It is exact, because all sums are below 2**24: of 320 products of int8, or 128 of int8 and
    numbers up to 127.
    """
    return (a.astype(np.float32) @ b).astype(np.int32)


def _check(tensor: NDArray[Any], dtype: type, *shape: int) -> None:
    if tensor.dtype != dtype or tensor.shape != shape:
        raise CheckpointError("its prior has tables of another type or shape")


def _spans(ends: Ends, symbols: NDArray[np.intp]) -> NDArray[np.int64]:
    """Begin and end of the slots of m symbols, [m, 2], from all ends [m, n] or [n]."""
    rows = np.arange(len(symbols))
    ends = np.broadcast_to(ends, (len(symbols), ends.shape[-1]))
    lows = np.where(symbols > 0, ends[rows, symbols - 1], 0)
    return np.stack([lows, ends[rows, symbols]], axis=-1)
