"""Pack tokens: b bits per token, least significant bit first."""

import numpy as np
from numpy.typing import NDArray

from tokcodec.errors import TokenFileError, counted

MAX_BITS = 32
_AT_ONCE = 1 << 16  # tokens whose bits are in memory together; a multiple of 8

Tokens = NDArray[np.int64]


def packed_size(count: int, bits: int) -> int:
    """The number of bytes of ``count`` tokens of ``bits`` bits, ⌈n·b/8⌉."""
    return (count * bits + 7) // 8


def padding(data: bytes, bits: int) -> int:
    """The bits of the last byte after ``bits`` bits of data, which must be 0."""
    return data[-1] >> bits % 8 if bits % 8 else 0


def pack(tokens: Tokens, bits: int) -> bytes:
    """Pack integers [n] in [0, 2**bits) to ⌈n·b/8⌉ bytes, padded with zero bits.

    Raises:
        ValueError: a token is out of range, or ``bits`` is not from 1 to 32.
    """
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"bits must be from 1 to {MAX_BITS}, not {bits}")
    tokens = np.asarray(tokens)
    if tokens.size and not (int(tokens.min()) >= 0 and int(tokens.max()) < 1 << bits):
        raise ValueError(f"tokens must be from 0 to {(1 << bits) - 1:,} to fit {bits} bits")
    places, packed = np.arange(bits, dtype=np.uint64), bytearray()
    for start in range(0, len(tokens), _AT_ONCE):
        part = tokens[start : start + _AT_ONCE].astype(np.uint64)
        planes = part[:, None] >> places & np.uint64(1)
        packed += np.packbits(planes.astype(np.uint8), bitorder="little").tobytes()
    return bytes(packed)


def unpack(data: bytes, count: int, bits: int) -> Tokens:
    """The inverse of ``pack``: int64 [count].

    Raises:
        TokenFileError: a padding bit is set.
        ValueError: ``data`` is not ``packed_size(count, bits)`` bytes long.
    """
    if len(data) != packed_size(count, bits):
        raise ValueError(
            f"{counted(count, 'token')} of {bits} bits are not {counted(len(data), 'byte')}"
        )
    if padding(data, count * bits):
        raise TokenFileError("a padding bit is set")
    return unpack_first(data, count, bits)


def unpack_first(data: bytes, count: int, bits: int) -> Tokens:
    """The first ``count`` tokens of longer data, int64 [count]."""
    array, weights = np.frombuffer(data, np.uint8), np.int64(1) << np.arange(bits, dtype=np.int64)
    tokens = np.empty(count, np.int64)
    for start in range(0, count, _AT_ONCE):
        part = tokens[start : start + _AT_ONCE]
        flat = array[start * bits // 8 :]
        planes = np.unpackbits(flat, count=len(part) * bits, bitorder="little")
        part[:] = planes.reshape(-1, bits).astype(np.int64) @ weights
    return tokens
