"""Packets: numbered parts of an image, each of which decodes to a coarser image.

The tokens of a packet are spread evenly over the grid, so that missing tokens have known
neighbours. This module decides which tokens are in which packet, computes the parity packet, and
fills missing tokens. TOKEN_FILE.md specifies packets.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_PACKETS = 15
# For each number of packets, the step of a packet from row to row. It is the smallest of the steps
# that maximize the least distance between two tokens of a packet.
_STEPS = (0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 5, 4, 4)
_LENGTH_BYTES = 2  # of the length of a payload in a parity packet
MOST_BYTES = (1 << 8 * _LENGTH_BYTES) - 1  # of a payload that parity can restore
_NEAREST = 6  # the most known tokens that a missing one is filled from
_REACH = 2  # known tokens farther than this many times the least squared distance do not count
_FARTHEST = 16  # the most rows and columns between a missing token and those

Tokens = NDArray[Any]  # int64


@dataclass(frozen=True)
class Packets:
    """The packets of an image that were received.

    Attributes:
        count: number of packets of the image, without parity.
        image: the CRC-16 of all tokens of the image, packed; identifies the image.
        payloads: number, from 0, and payload of each packet, in order; the number of the parity
            packet is ``count``.
    """

    count: int
    image: int
    payloads: tuple[tuple[int, bytes], ...]

    @property
    def numbers(self) -> list[int]:
        """The numbers of the packets, without parity."""
        return [number for number, _ in self.payloads if number < self.count]

    @property
    def has_parity(self) -> bool:
        """Whether the parity packet was received."""
        return any(number == self.count for number, _ in self.payloads)

    @property
    def is_complete(self) -> bool:
        """Whether all packets are known, or all but one and parity."""
        return len(self.payloads) >= self.count

    def restored(self) -> "Packets":
        """The same packets, and the missing one if only one is missing and parity is known."""
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
    """The payload of the parity packet, which restores any one of these."""
    return _xor(_frame(payload) for payload in payloads)


def _frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(_LENGTH_BYTES, "little") + payload


def _xor(parts: Iterable[bytes]) -> bytes:
    """The exclusive or of byte strings, the shorter ones padded with zeros."""
    arrays = [np.frombuffer(part, np.uint8) for part in parts]
    result = np.zeros(max(map(len, arrays), default=0), np.uint8)
    for array in arrays:
        result[: len(array)] ^= array
    return result.tobytes()


def packet_of(rows: int, columns: int, count: int) -> Tokens:
    """The packet number of each token of a grid, row by row."""
    numbers: Tokens = np.add.outer(_STEPS[count - 1] * np.arange(rows), np.arange(columns)) % count
    return numbers.reshape(-1)


def packet_grids(grid: Tokens, count: int) -> list[Tokens]:
    """Split the tokens of an image, [rows, columns], into the grids of its packets.

    The tokens of a packet are moved to the left of each row; -1 fills the shorter rows.
    """
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
    """The largest number of packets, at most ``wanted``, of which none is empty."""
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
    """Fill missing tokens.

    The vector of a missing token is the mean of those of its nearest known neighbours, weighted by
    the inverse of their squared distances; if none is near, the mean of all known ones. The
    quantizer gives the token.

    Args:
        grid: int64 [rows, columns], -1 where a token is missing; at least one is known.
        lookup: returns the vectors [n, d] of tokens [n].
        quantize: returns the tokens [n] of vectors [n, d].
    """
    missing = np.argwhere(grid < 0)
    if not len(missing):
        return grid
    vectors = lookup(grid[grid >= 0])
    edge = _FARTHEST
    number = np.full(grid.shape, -1)  # index of the vector of each known token
    number[grid >= 0] = np.arange(len(vectors))
    number = np.pad(number, edge, constant_values=-1)
    sums = np.zeros((len(missing), vectors.shape[1]))
    weights, found = np.zeros(len(missing)), np.zeros(len(missing), int)
    most = np.full(len(missing), 2 * edge**2)  # the largest squared distance that counts
    left = np.arange(len(missing))  # the missing tokens that need more neighbours
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
