"""The token file, ``.tok``: one picture; packed, readable to the last code without its model.

Integers are unsigned and little-endian.

======  ==========  ==========================================================================
offset  bytes       what
======  ==========  ==========================================================================
0       2           magic ``TK``
2       1           bits 4-7: version. Of version 1: bit 3: reserved, 0; bit 2: 1 if
                    entropy-coded; bits 0-1: fit (0 stretch, 1 crop, 2 pad, 3 tile). Of version
                    2: bit 3: 1 if entropy-coded; bits 0-2: fit (4 native, and as above)
3       4           first four bytes of the model's ``code_id`` (see ``tokcodec.checkpoint``)
7       2 + 2       width and height of the original after EXIF orientation, each >= 1
11      1           b, the bits a code, 1 to 32
12      1 to 4      n, the number of codes: LEB128, shortest form
        ceil(nb/8)  the codes, b bits each, least significant bit first, padded with zeros
        4           ``zlib.crc32`` of all before
======  ==========  ==========================================================================

Version 2 is written for the native fit alone, which version 1 cannot say.

Entropy-coded, the codes take the bytes that ``Prior.encode`` gives (see ``tokcodec.prior``), up to
the checksum. That is of the packed file in version 1, so that a wrong prior does not pass, and of
the bytes as they stand in version 2, where the coder's end state tells a wrong prior. They are
shorter than the packed ones, but at least a 16th of them (otherwise codes are packed), and n is
what width, height and fit ask for: the time that a file takes to read, whatever it claims, is in
proportion to its bytes.
"""

import math
import os
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from tokcodec.bitpack import MAX_BITS, Codes, pack, packed_size, unpack
from tokcodec.checkpoint import Header, find_with_prior, read_prior
from tokcodec.errors import CheckpointError, PictureError, TokenFileError
from tokcodec.files import write_atomically
from tokcodec.geometry import FITS, Fit
from tokcodec.prior import ALTERED, Prior

MAGIC = b"TK"
SUFFIX = ".tok"
MAX_CODES = (1 << 28) - 1  # four bytes of LEB128

_CODED = {1: 0b100, 2: 0b1000}  # of the flags, by version; below this bit stands the fit
_SHORTEST = 16  # times that entropy-coded codes may be shorter than packed ones

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
        prior: of the model, to entropy-code the codes with where that makes them shorter, which
            must then be as many of as many bits as the model has; None to pack them.
        code_shape: rows and columns of the codes of a square; only the prior asks for them.
    """

    codes: Codes
    bits: int
    code_id: bytes
    width: int
    height: int
    fit: Fit
    prior: Prior | None = None
    code_shape: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        header: Header,
        codes: Codes,
        width: int,
        height: int,
        fit: Fit,
        prior: Prior | None = None,
    ) -> Self:
        """Of codes [n, N] that a checkpoint gave for the n squares of a picture."""
        config = header.config
        shape = config.place(fit, width, height)[1] if prior else ()
        code_id = bytes.fromhex(header.code_id[:8])
        bits = config.quantizer.bits
        return cls(codes.reshape(-1), bits, code_id, width, height, fit, prior, shape)

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
        return 2 if self.fit == "native" else 1

    @property
    def entropy_coded(self) -> bool:
        """Whether the file is shorter for its prior."""
        return self._coded is not None

    @property
    def payload_bits(self) -> int:
        """Bits of the codes alone, without those that fill the last byte up when packed."""
        return len(self.codes) * self.bits if self._coded is None else 8 * len(self._coded)

    @property
    def payload_bytes(self) -> int:
        """Bytes of the codes alone."""
        return (self.payload_bits + 7) // 8

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole file: header, codes and checksum."""
        count = len(_leb128(len(self.codes)))
        return _HEAD.size + count + self.payload_bytes + _CRC.size

    @cached_property
    def _coded(self) -> bytes | None:
        """The entropy-coded payload; None where the file has a packed one."""
        if self.prior is None:
            return None
        coded = self.prior.encode(self.codes.reshape(-1, *self.code_shape))
        packed = packed_size(len(self.codes), self.bits)
        return coded if len(coded) < packed <= _SHORTEST * len(coded) else None

    def to_bytes(self) -> bytes:
        """The whole file.

        Raises:
            ValueError: a code does not fit ``bits``, or ``prior`` has no such code, or they do not
                fill its squares.
        """
        packed = self._head(coded=False) + pack(self.codes, self.bits)
        data = packed if self._coded is None else self._head(coded=True) + self._coded
        return data + _CRC.pack(zlib.crc32(packed if self.version == 1 else data))

    def _head(self, coded: bool) -> bytes:
        flags = self.version << 4 | coded * _CODED[self.version] | FITS.index(self.fit)
        head = _HEAD.pack(MAGIC, flags, self.code_id, self.width, self.height, self.bits)
        return head + _leb128(len(self.codes))

    @classmethod
    def from_bytes(cls, data: bytes, header: Header | None = None) -> Self:
        """Parses a whole file, and nothing but a whole file.

        Args:
            header: a checkpoint whose prior may be needed; without it, or if it is another
                model's, the bundled and cached ones are looked through.

        Raises:
            TokenFileError: another kind of file, a newer version, truncated, damaged, or with
                bytes behind its end; entropy-coded with a prior that is not at hand.
        """
        if data[:2] != MAGIC:
            raise TokenFileError("not a token file (it does not begin with TK)")
        version = data[2] >> 4 if len(data) > 2 else 1
        if version not in _CODED:
            raise TokenFileError(f"version {version}: needs a newer tokcodec")
        if len(data) < _HEAD.size + 1 + _CRC.size:
            raise TokenFileError("truncated in its header")
        _, flags, code_id, width, height, bits = _HEAD.unpack_from(data)
        coded = bool(flags & _CODED[version])
        number = flags & 0b1111 ^ coded * _CODED[version]
        if number >= len(FITS) or (FITS[number] == "native") != (version == 2):
            raise TokenFileError(f"version {version}, flags {flags & 15}: needs a newer tokcodec")
        fit = FITS[number]
        count, start = _read_leb128(data, _HEAD.size)
        if not 1 <= bits <= MAX_BITS:
            raise TokenFileError(f"damaged: {bits} bits a code")
        if not (width and height and count):
            raise TokenFileError(f"damaged: {width}x{height} pixels in {count} codes")
        payload, end = data[start : -_CRC.size], len(data) - _CRC.size
        size = packed_size(count, bits)
        if coded:
            if not len(payload) < size <= _SHORTEST * len(payload):
                raise TokenFileError(
                    f"damaged: {count} codes of {bits} bits, entropy-coded in {len(payload)} bytes"
                )
            try:
                header = find_with_prior(code_id, header)
                prior = read_prior(header)
                placement, shape = header.config.place(fit, width, height)
            except (CheckpointError, PictureError) as error:
                raise TokenFileError(str(error)) from error
            shapes = (placement.num_squares, *shape)
            asked = (math.prod(shapes), header.config.quantizer.bits)
            if (count, bits) != asked:
                raise TokenFileError(
                    f"damaged: {count} codes of {bits} bits, not {asked[0]} of {asked[1]}"
                )
            codes = prior.decode(payload, shapes).reshape(-1)  # type: ignore[arg-type]
            whole = cls(codes, bits, code_id, width, height, fit, prior, shape)
            if whole.to_bytes() != data:
                raise TokenFileError(ALTERED)
            return whole
        if len(payload) < size:
            raise TokenFileError(
                f"truncated or damaged: {count} codes of {bits} bits need "
                f"{start + size + _CRC.size} bytes, it has {len(data)}"
            )
        if len(payload) > size:
            raise TokenFileError(f"{len(payload) - size} bytes behind its end")
        if _CRC.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
            raise TokenFileError("damaged: its checksum does not match")
        return cls(unpack(payload, count, bits), bits, code_id, width, height, fit)

    @classmethod
    def load(cls, path: str | os.PathLike[str], header: Header | None = None) -> Self:
        """Reads a file.

        Args:
            header: as for ``from_bytes``.

        Raises:
            TokenFileError: it cannot be read, or as ``from_bytes``; with its name.
        """
        try:
            return cls.from_bytes(Path(path).read_bytes(), header)
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
    for index, byte in enumerate(data[start : start + 4]):
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if index and not byte:
                raise TokenFileError("damaged: its count is not in the shortest form")
            return number, start + index + 1
    raise TokenFileError("damaged: its count of codes does not end")
