"""The token file, ``.tok``: one picture, readable to the last code without its model.

Integers are unsigned and little-endian.

======  ==========  ==========================================================================
offset  bytes       what
======  ==========  ==========================================================================
0       2           magic ``TK``
2       1           bits 4-7: version, 1; bits 2-3: reserved, 0; bits 0-1: fit (0 stretch,
                    1 crop, 2 pad, 3 tile)
3       4           first four bytes of the ``code_id``
7       2 + 2       width and height of the original after EXIF orientation, each >= 1
11      1           b, the bits a code, 1 to 32
12      1 to 4      n, the number of codes: LEB128, shortest form
        ceil(nb/8)  the codes, b bits each, least significant bit first, padded with zeros
        4           ``zlib.crc32`` of all before
======  ==========  ==========================================================================
"""

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from tokcodec.bitpack import MAX_BITS, Codes, pack, packed_size, unpack
from tokcodec.config import Fit
from tokcodec.errors import TokenFileError
from tokcodec.files import write_atomically
from tokcodec.geometry import FITS

MAGIC = b"TK"
VERSION = 1
SUFFIX = ".tok"
MAX_CODES = (1 << 28) - 1  # four bytes of LEB128

_HEAD = struct.Struct("<2sB4sHHB")
_CRC = struct.Struct("<I")


@dataclass(frozen=True, eq=False)
class TokenFile:
    """The codes of one picture and what it takes to show it again.

    Attributes:
        codes: int64 [n], square by square.
        bits: bits a code, b.
        code_id: the first 4 bytes of the model's ``code_id``.
        width, height: of the original after EXIF orientation, in pixels.
        fit: how the picture was fitted to the model's square.
    """

    codes: Codes
    bits: int
    code_id: bytes
    width: int
    height: int
    fit: Fit

    def __post_init__(self) -> None:
        if len(self.code_id) != 4:
            raise ValueError("code_id must be the first 4 bytes of it")
        if not (1 <= self.width <= 0xFFFF and 1 <= self.height <= 0xFFFF):
            raise ValueError("width and height must be from 1 to 65535")
        if self.codes.ndim != 1 or not 1 <= len(self.codes) <= MAX_CODES:
            raise ValueError(f"a token file holds from 1 to {MAX_CODES} codes")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenFile) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        return hash(self.to_bytes())

    @property
    def version(self) -> int:
        return VERSION

    @property
    def payload_bytes(self) -> int:
        """Bytes of the packed codes alone."""
        return packed_size(len(self.codes), self.bits)

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole file: header, codes and checksum."""
        count = len(_leb128(len(self.codes)))
        return _HEAD.size + count + self.payload_bytes + _CRC.size

    def to_bytes(self) -> bytes:
        """The whole file.

        Raises:
            ValueError: a code does not fit ``bits``.
        """
        flags = VERSION << 4 | FITS.index(self.fit)
        head = _HEAD.pack(MAGIC, flags, self.code_id, self.width, self.height, self.bits)
        data = head + _leb128(len(self.codes)) + pack(self.codes, self.bits)
        return data + _CRC.pack(zlib.crc32(data))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parses a whole file, and nothing but a whole file.

        Raises:
            TokenFileError: another kind of file, a newer version, truncated, damaged, or with
                bytes behind its end.
        """
        if data[:2] != MAGIC:
            raise TokenFileError("not a token file (it does not begin with TK)")
        if len(data) > 2 and (data[2] >> 4 != VERSION or data[2] & 0b1100):
            raise TokenFileError(
                f"version {data[2] >> 4}, flags {data[2] >> 2 & 3}: needs a newer tokcodec"
            )
        if len(data) < _HEAD.size + 1 + _CRC.size:
            raise TokenFileError("truncated in its header")
        _, flags, code_id, width, height, bits = _HEAD.unpack_from(data)
        count, start = _read_leb128(data, _HEAD.size)
        if not 1 <= bits <= MAX_BITS:
            raise TokenFileError(f"damaged: {bits} bits a code")
        end = start + packed_size(count, bits)
        if len(data) < end + _CRC.size:
            raise TokenFileError(
                f"truncated or damaged: {count} codes of {bits} bits need "
                f"{end + _CRC.size} bytes, it has {len(data)}"
            )
        if len(data) > end + _CRC.size:
            raise TokenFileError(f"{len(data) - end - _CRC.size} bytes behind its end")
        if _CRC.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
            raise TokenFileError("damaged: its checksum does not match")
        if not (width and height and count):
            raise TokenFileError(f"damaged: {width}x{height} pixels in {count} codes")
        codes = unpack(data[start:end], count, bits)
        return cls(codes, bits, code_id, width, height, FITS[flags & 3])

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a file.

        Raises:
            TokenFileError: it cannot be read, or as ``from_bytes``; with its name.
        """
        try:
            return cls.from_bytes(Path(path).read_bytes())
        except OSError as error:
            raise TokenFileError(f"{os.fspath(path)}: cannot read: {error.strerror}") from error
        except TokenFileError as error:
            raise TokenFileError(f"{os.fspath(path)}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file, whole or not at all, over what is there.

        Raises:
            OutputError: the file system refused.
        """
        data = self.to_bytes()
        write_atomically(Path(path), lambda file: file.write(data))


def check_codes(codes: Codes, codebook_size: int) -> None:
    """Refuses codes that the codebook does not have.

    Raises:
        TokenFileError: a code is K or more.
    """
    largest = int(np.max(codes, initial=0))
    if largest >= codebook_size:
        raise TokenFileError(f"damaged: code {largest} of a codebook of {codebook_size}")


def _leb128(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_leb128(data: bytes, start: int) -> tuple[int, int]:
    """The number and the offset behind it."""
    number = 0
    for place, byte in enumerate(data[start : start + 4]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            if place and not byte:
                raise TokenFileError("damaged: its count is not in the shortest form")
            return number, start + place + 1
    raise TokenFileError("damaged: its count of codes does not end")
