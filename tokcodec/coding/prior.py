"""The prior of a checkpoint, and payloads that are entropy-coded with it. No torch.

The prior gives the probability of every token from its neighbours, its place in the grid and the
size of the grid. The codebook is divided into groups; a token is coded as its group and then as
itself, each by weights that are integers and add up to ``TOTAL``. All numbers on the way to them
are integers too, so a payload written on one machine is read on any other.

The coder is the range variant of asymmetric numeral systems (Duda, arXiv 1311.2540, section 2.3):
all that is coded is one integer, the state, and a symbol whose ``weight`` slots of ``TOTAL`` begin
at ``low`` makes it ``state // weight * TOTAL + low + state % weight``. TOKEN_FILE.md specifies the
prior and the coder exactly.
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
WIDTH = 32  # of the vector of a neighbour
HIDDEN = 64
NEIGHBOURS = ((0, -1), (-1, -1), (-1, 0), (-1, 1))  # of a token, in rows and columns from it
SIZES = 32  # classes of grids, by half powers of 2 of the number of their tokens
BANDS = 16  # classes of rows, and of columns
PREFIX = "prior."
ALTERED = "damaged, or entropy-coded with another prior"
# Binary places of the fixed-point numbers of a prior; of ``powers``, of its index.
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
_LEAST = 1 << 24  # of a state that is full; the most is 256 times as much
_FULL = (_LEAST << 8) // TOTAL  # times its weight, from which a symbol would make it too large

Ends = NDArray[np.integer[Any]]  # of the slots of symbols; each one's begin where the last's end


@dataclass(frozen=True, eq=False)
class Prior:
    """A feed-forward network in integers (Bengio et al., JMLR 3, 2003, section 2), and the coder.

    Vectors of the tokens to the left, above left, above and above right go through one layer,
    whose bias depends on the place of the token and the size of the grid. Its outputs are
    multiplied by a vector of every group, and of every token in the group, which gives their
    scores. A weight is a power of 2 of the score, scaled so that all add up to ``TOTAL``.

    Attributes:
        group: uint8 [K], the group of every token.
        vectors: int8 [K + 1, 32], of tokens as neighbours; the last one stands for what is
            outside of the grid.
        layer: int8 [4 * 32, 64]. Its outputs are clipped to 0 to 127.
        size_bias: int16 [32, 64], by the number of tokens of the grid, see ``size_of``.
        row_bias, column_bias: int16 [16, 64], by the place in the grid, see ``band_of``.
        group_scores, group_bias: int8 [64, 64] and int16 [64]; scores are in bits.
        token_scores, token_bias: int8 [K, 64] and int16 [K].
        powers: uint16 [n]: the weight for every difference from the highest score; the last one
            also for all larger differences.

    All are fixed-point numbers with the binary ``PLACES`` of their names, the index of ``powers``
    too. Products have the places of their biases, and are cut to those of what uses them.

    Raises:
        CheckpointError: the tables have other types, shapes or values.
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
            CheckpointError: there is none, or it is damaged.
        """
        names = [field.name for field in fields(cls)]
        if missing := [name for name in names if PREFIX + name not in tensors]:
            raise CheckpointError(f"its prior lacks {missing[0]}")
        return cls(*(tensors[PREFIX + name] for name in names))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The tables under their names in a checkpoint."""
        return {PREFIX + field.name: getattr(self, field.name) for field in fields(self)}

    def encode(self, tokens: Tokens) -> bytes:
        """int64 [n, rows, columns] -> the payload, shorter the likelier the tokens are.

        A single grid may have -1 at places that have no token.

        Raises:
            ValueError: there are no tokens, or the prior has no such ones.
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
        # Of every token its group, and it in its group: where their slots begin and end.
        spans = np.empty((len(flat), 2, 2), np.int64)
        for start in range(0, len(flat), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            places = order[np.arange(start, min(part.stop, len(flat))) % len(order)]
            contexts = self.contexts(around.reshape(len(flat), -1)[part], biases(places))
            spans[part] = self._token_spans(contexts, flat[part])
        # From the last to the first; the very last token is the state to begin with, plus TOTAL, so
        # that a smaller state means that bytes are missing.
        state, out = TOTAL + int(flat[-1]), bytearray()
        for low, end in spans.reshape(-1, 2)[-3::-1].tolist():
            weight = end - low
            while state >= weight * _FULL:
                out.append(state & 0xFF)
                state >>= 8
            state = state // weight * TOTAL + low + state % weight
        while state:
            out.append(state & 0xFF)
            state >>= 8
        return bytes(reversed(out))  # so that a file that is cut is read from its beginning

    def _token_spans(self, contexts: NDArray[np.int32], tokens: Tokens) -> NDArray[np.int64]:
        """Of tokens [m]: where the slots of the group of each, and of itself, begin and end,
        [m, 2, 2]."""
        spans = np.empty((len(tokens), 2, 2), np.int64)
        group = self.group[tokens].astype(np.intp)
        spans[:, 0] = _spans(self.group_ends(contexts), group)
        for number in np.unique(group):
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
            payload: what ``encode`` gave.
            shape: of the tokens.
            there: of a single grid, the places that have a token, [rows, columns]; all if None.
            partial: the end of the payload may be missing, or altered: read as far as it reaches.
                Tokens beyond are -1.

        Raises:
            TokenFileError: it is no payload of that shape, of this prior.
        """
        n, rows, columns = shape
        rest = list(reversed(payload))

        def filled(state: int) -> int:
            while state < _LEAST and rest:
                state = state << 8 | rest.pop()
            return state

        state = filled(0)

        def pop(ends: Ends) -> int:
            """The symbol on top."""
            nonlocal state
            if partial and state < _LEAST:  # its lower digits are missing
                raise TokenFileError(ALTERED, hint=Hint.NAME_WEIGHTS)
            turns, slot = divmod(state, TOTAL)
            symbol = int(ends.searchsorted(slot, side="right"))
            low = int(ends[symbol - 1]) if symbol else 0
            state = filled(turns * (int(ends[symbol]) - low) + slot - low)
            if state < TOTAL:
                raise TokenFileError(ALTERED, hint=Hint.NAME_WEIGHTS)
            return symbol

        wide = columns + 2
        steps = np.array([row * wide + column for row, column in NEIGHBOURS])
        biases = self._biases(rows, columns)
        waves = _waves(np.ones((rows, columns), bool) if there is None else there)
        known = np.full((n, (rows + 1) * wide), len(self.group))  # tiles and their borders

        def read() -> None:
            """Reads all tokens but the last, which is left as the state."""
            left = n * sum(map(len, waves))
            for tile in known:
                for wave in waves:
                    places = (wave // columns + 1) * wide + wave % columns + 1
                    contexts = self.contexts(tile.take(places[:, None] + steps), biases(wave))
                    group_ends = self.group_ends(contexts)
                    for place, context, ends in zip(
                        places.tolist(), contexts, group_ends, strict=True
                    ):
                        left -= 1
                        if not left:
                            return
                        group = pop(ends)
                        members = self._members[group]
                        if not len(members):
                            raise TokenFileError(ALTERED, hint=Hint.NAME_WEIGHTS)
                        tile[place] = members[pop(self.token_ends(group, context))]

        last = -1
        try:
            read()
            if rest or not 0 <= state - TOTAL < len(self.group):
                raise TokenFileError(ALTERED, hint=Hint.NAME_WEIGHTS)
            last = state - TOTAL
        except TokenFileError:
            if not partial:
                raise
        tokens = known.reshape(n, rows + 1, wide)[:, 1:, 1:-1].copy()
        tokens[tokens == len(self.group)] = -1
        tokens[-1].reshape(-1)[waves[-1][-1]] = last
        return tokens

    def _biases(self, rows: int, columns: int) -> Callable[[NDArray[np.intp]], NDArray[np.int32]]:
        """What gives the biases of the layer, [m, 64], for places [m] in a grid, row by row."""
        down = self.row_bias[band_of(np.arange(rows), rows)].astype(np.int32)
        down += self.size_bias[size_of(rows, columns)]
        across = self.column_bias[band_of(np.arange(columns), columns)].astype(np.int32)
        return lambda places: down[places // columns] + across[places % columns]

    def contexts(self, around: Tokens, biases: NDArray[np.int32]) -> NDArray[np.int32]:
        """Tokens of the ``NEIGHBOURS`` of tokens, [..., 4], K outside of the grid, and biases
        [..., 64] -> the outputs of the layer, [..., 64]."""
        vectors = self._vectors.take(around, axis=0).reshape(*around.shape[:-1], -1)
        sums = _product(vectors, self._layer) + biases
        sums >>= PLACES["size_bias"] - PLACES["hidden"]
        hidden: NDArray[np.int32] = np.minimum(np.maximum(sums, 0), HIDDEN_MOST)
        return hidden

    def group_ends(self, contexts: NDArray[np.int32]) -> Ends:
        """[..., 64] -> where the slots of every group end, [..., 64]."""
        return self._ends(_product(contexts, self._group_scores) + self.group_bias)

    def token_ends(self, group: int, contexts: NDArray[np.int32]) -> Ends:
        """[..., 64] -> where the slots of every token of a group end, [..., members]."""
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


def _waves(there: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """The places of a grid that have a token, in the order in which they are decoded: waves of
    tokens that are no neighbours, each from top to bottom."""
    rows, columns = there.shape
    turns = np.add.outer(2 * np.arange(rows), np.arange(columns)).reshape(-1)
    order = turns.argsort(kind="stable")
    order = order[there.reshape(-1)[order]]
    return np.split(order, np.flatnonzero(np.diff(turns[order])) + 1)


def size_of(rows: int, columns: int) -> int:
    """The index of ``size_bias``: floor(2 log2(tokens)), or the last one."""
    return min(((rows * columns) ** 2).bit_length() - 1, SIZES - 1)


def band_of(places: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """The index of ``row_bias`` or ``column_bias`` of rows or columns of that many."""
    return places * BANDS // count


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
