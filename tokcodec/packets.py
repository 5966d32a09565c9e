"""Packets: an image in numbered parts, each of which decodes to all of it, but more coarsely.

The tokens of a packet lie evenly over the grid, so that missing tokens have known neighbours.
TOKEN_FILE.md specifies packets; this module knows which tokens are in which packet, the parity
packet, and how missing tokens are filled.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_PACKETS = 15
_LENGTH_BYTES = 2  # of the length of a payload in a parity packet
MOST_BYTES = (1 << 8 * _LENGTH_BYTES) - 1  # of a payload that parity can restore
_NEAREST = 6  # known tokens that a missing one is filled from, at most
_REACH = 2  # times the squared distance of the nearest one, up to which others count
_FARTHEST = 16  # rows and columns from a missing token, in which those are looked for

Tokens = NDArray[Any]  # int64


@dataclass(frozen=True)
class Packets:
    """The packets of an image that are there.

    Attributes:
        count: the packets of the image, without parity.
        image: tells images apart: the CRC-16 of the packed tokens of all packets.
        payloads: of those that are there, by their number from 0, in order; the number of parity
            is ``count``.
    """

    count: int
    image: int
    payloads: tuple[tuple[int, bytes], ...]

    @property
    def numbers(self) -> list[int]:
        """Of the packets that are there, without parity."""
        return [number for number, _ in self.payloads if number < self.count]

    @property
    def has_parity(self) -> bool:
        """Whether the packet of parity is there."""
        return any(number == self.count for number, _ in self.payloads)

    @property
    def is_complete(self) -> bool:
        """Whether they are all there, or parity and all but one."""
        return len(self.payloads) >= self.count

    def restored(self) -> "Packets":
        """With the one packet that is lost, if parity is there; otherwise as they are."""
        there = dict(self.payloads)
        lost = [number for number in range(self.count) if number not in there]
        known = [there[number] for number in range(self.count) if number in there]
        if len(lost) != 1 or not self.has_parity or max(map(len, known), default=0) > MOST_BYTES:
            return self
        framed = _xor(_frame(payload) for payload in known)
        sealed = _xor([framed, there[self.count]])
        length = int.from_bytes(sealed[:_LENGTH_BYTES], "little")
        there[lost[0]] = sealed[_LENGTH_BYTES:][:length]
        return Packets(self.count, self.image, tuple(sorted(there.items())))


def parity_of(payloads: list[bytes]) -> bytes:
    """The payload of the packet that restores any one of these."""
    return _xor(_frame(payload) for payload in payloads)


def _frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(_LENGTH_BYTES, "little") + payload


def _xor(parts: Iterable[bytes]) -> bytes:
    """The exclusive or of byte strings, as if zeros followed the shorter ones."""
    arrays = [np.frombuffer(part, np.uint8) for part in parts]
    result = np.zeros(max(map(len, arrays), default=0), np.uint8)
    for array in arrays:
        result[: len(array)] ^= array
    return result.tobytes()


@cache
def step_of(count: int) -> int:
    """The step from row to row of the lattice of a packet: the one from 0 to ``count - 1`` whose
    tokens lie the farthest apart; the smallest of several."""
    around = range(-count, count + 1)

    def apart(step: int) -> int:
        return min(
            x * x + y * y
            for x in around
            for y in around
            if (x or y) and (x + step * y) % count == 0
        )

    return max(range(count), key=lambda step: (apart(step), -step))


def packet_of(rows: int, columns: int, count: int) -> Tokens:
    """The number of the packet of each token of a grid, row by row: column + step · row, modulo
    ``count``."""
    numbers: Tokens = np.add.outer(step_of(count) * np.arange(rows), np.arange(columns)) % count
    return numbers.reshape(-1)


def packet_grids(grid: Tokens, count: int) -> list[Tokens]:
    """The tokens [rows, columns] of an image as the grids of its packets, whose rows are moved
    together to the left; -1 where a row is shorter than others."""
    rows, columns = grid.shape
    numbers = packet_of(rows, columns, count).reshape(rows, columns)
    grids = []
    for number in range(count):
        moved = [row[own == number] for row, own in zip(grid, numbers, strict=True)]
        packet = np.full((rows, max(map(len, moved))), -1)
        for target, row in zip(packet, moved, strict=True):
            target[: len(row)] = row
        grids.append(packet)
    return grids


def most_packets(rows: int, columns: int, wanted: int) -> int:
    """The largest number of packets, up to ``wanted``, none of which is empty in this grid."""
    rows, columns = min(rows, MOST_PACKETS), min(columns, MOST_PACKETS)  # beyond, they repeat
    return next(
        count
        for count in range(min(wanted, rows * columns, MOST_PACKETS), 0, -1)
        if len(np.unique(packet_of(rows, columns, count))) == count
    )


def fill_missing(
    grid: Tokens,
    lookup: Callable[[Tokens], NDArray[np.float32]],
    quantize: Callable[[NDArray[np.float32]], Tokens],
) -> Tokens:
    """The grid with a token for each one that is missing: the one whose vector is nearest to the
    mean of those of its nearest neighbours, weighted by the inverse of their squared distance.
    Where none is near, it is the mean of all that are known.

    Args:
        grid: int64 [rows, columns], -1 where a token is missing; at least one is there.
        lookup: gives the vectors [n, d] of tokens [n].
        quantize: gives the tokens [n] of vectors [n, d].
    """
    missing = np.argwhere(grid < 0)
    if not len(missing):
        return grid
    vectors = lookup(grid[grid >= 0])
    edge = _FARTHEST
    number = np.full(grid.shape, -1)  # of the vector of each known token
    number[grid >= 0] = np.arange(len(vectors))
    number = np.pad(number, edge, constant_values=-1)
    sums = np.zeros((len(missing), vectors.shape[1]))
    weights, found = np.zeros(len(missing)), np.zeros(len(missing), int)
    most = np.full(len(missing), 2 * edge**2)  # squared distance of those that count
    left = np.arange(len(missing))  # of the missing tokens, those with neighbours yet to be found
    steps = range(-edge, edge + 1)
    offsets = sorted((y * y + x * x, y, x) for y in steps for x in steps)
    for square, down, across in offsets[1:]:  # the first is the token itself
        left = left[(found[left] < _NEAREST) & (square <= most[left])]
        if not len(left):
            break
        near = number[missing[left, 0] + edge + down, missing[left, 1] + edge + across]
        here, near = left[near >= 0], near[near >= 0]
        sums[here] += vectors[near] / square
        weights[here] += 1 / square
        first = here[found[here] == 0]
        most[first] = _REACH * square
        found[here] += 1
    sums[found == 0], weights[found == 0] = vectors.mean(axis=0), 1
    filled = grid.copy()
    filled[grid < 0] = quantize((sums / weights[:, None]).astype(np.float32))
    return filled
