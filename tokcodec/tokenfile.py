"""The token file, ``.tok``: one image, in a container that says what is in it.

Header and integrity can be read with nothing else at hand; only the tokens of an entropy-coded file
ask for the prior of its checkpoint. Integers are unsigned and little-endian.

======  ==========  ==========================================================================
offset  bytes       what
======  ==========  ==========================================================================
0       2           magic ``TK``
2       1           bits 4-7: version. Of version 1: bit 3: reserved, 0; bit 2: 1 if
                    entropy-coded; bits 0-1: fit (0 stretch, 1 crop, 2 pad, 3 tile). Of version
                    2: bit 3: 1 if entropy-coded; bits 0-2: fit (4 native, and as above)
3       4           first four bytes of the model's ``model_id`` (see ``tokcodec.checkpoint``)
7       2 + 2       width and height of the original after EXIF orientation, each >= 1
11      1           b, the bits a token, 1 to 32
12      1 to 4      n, the number of tokens: LEB128, shortest form
        ceil(nb/8)  the tokens, b bits each, least significant bit first, padded with zeros
        4           ``zlib.crc32`` of all before
======  ==========  ==========================================================================

Version 2 is written for the native fit, which version 1 cannot say, and for entropy-coded tokens;
all else is version 1.

Entropy-coded, the tokens take the bytes that ``Prior.encode`` gives (see
``tokcodec.coding.prior``), up to the checksum. They are shorter than the packed ones, but at
least a 16th of them (otherwise tokens are packed), and n is what width, height and fit ask for: the
time that a file takes to read, whatever it claims, is in proportion to its bytes. The coder's end
state tells a wrong prior, which would meet it once in some 2^50 files. Entropy-coded files of
version 1, which are read for good, have the checksum of the packed file instead of their own: only
with the prior can it be compared.

What is promised, and what that was tested against, stands in TOKEN_FILE.md.
"""

import base64
import contextlib
import math
import os
import struct
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from tokcodec.checkpoint import Header, check_fit, find_with_prior, read_prior
from tokcodec.coding.bitpack import MAX_BITS, Tokens, pack, packed_size, unpack
from tokcodec.coding.prior import ALTERED, Prior
from tokcodec.config.geometry import FITS, Fit
from tokcodec.errors import CheckpointError, Hint, ImageError, TokenFileError
from tokcodec.io.files import SUFFIX as SUFFIX
from tokcodec.io.files import write_atomically

MAGIC = b"TK"
MAX_TOKENS = (1 << 28) - 1  # four bytes of LEB128

_CODED = {1: 0b100, 2: 0b1000}  # of the flags, by version; below this bit stands the fit
_SHORTEST = 16  # times that entropy-coded tokens may be shorter than packed ones

_HEAD = struct.Struct("<2sB4sHHB")
_CRC = struct.Struct("<I")


@dataclass(frozen=True)
class TokenFile:
    """One image: what its file says.

    Attributes:
        model_id: the first 4 bytes of the model's ``model_id``.
        width, height: of the original after EXIF orientation, in pixels.
        fit: how the image was fitted to the model's square.
        bits: bits a token, b.
        num_tokens: how many, n.
        payload: the tokens as bytes.
        entropy_coded: whether a prior was used for them, which made them shorter.
        version: of the layout.
        checksum: the last four bytes.
    """

    model_id: bytes
    width: int
    height: int
    fit: Fit
    bits: int
    num_tokens: int
    payload: bytes
    entropy_coded: bool
    version: int
    checksum: int

    def __repr__(self) -> str:
        form = ", entropy-coded" if self.entropy_coded else ""
        return (
            f"<TokenFile {self.width}x{self.height}, {self.fit}: {self.num_tokens} tokens of "
            f"{self.bits} bits{form}, {self.file_bytes} bytes, model {self.model_id.hex()}>"
        )

    @classmethod
    def packed(
        cls, tokens: Tokens, bits: int, model_id: bytes, width: int, height: int, fit: Fit
    ) -> Self:
        """Of int64 [n] tokens, tile by tile, packed.

        Raises:
            ValueError: a token does not fit ``bits``, or a file cannot say something of it.
        """
        return cls._sealed(tokens, bits, model_id, width, height, fit, pack(tokens, bits), False)

    @classmethod
    def of(
        cls,
        header: Header,
        tokens: Tokens,
        width: int,
        height: int,
        fit: Fit,
        prior: Prior | None = None,
    ) -> Self:
        """Of tokens [n, N] that a checkpoint gave for the n tiles of an image; entropy-coded
        with ``prior``, if that makes them shorter.

        Raises:
            ValueError: the prior has no such token, or they do not fill its tiles.
        """
        bits, model_id = header.config.quantizer.bits, bytes.fromhex(header.model_id[:8])
        flat = tokens.reshape(-1)
        if prior:
            given = len(flat) if fit != "tile" else None
            _, shape = header.config.place(fit, (width, height), given)
            entropy_coded = prior.encode(flat.reshape(-1, *shape))
            if len(entropy_coded) < packed_size(len(flat), bits) <= _SHORTEST * len(entropy_coded):
                return cls._sealed(flat, bits, model_id, width, height, fit, entropy_coded, True)
        return cls.packed(flat, bits, model_id, width, height, fit)

    @classmethod
    def _sealed(
        cls,
        tokens: Tokens,
        bits: int,
        model_id: bytes,
        width: int,
        height: int,
        fit: Fit,
        payload: bytes,
        entropy_coded: bool,
    ) -> Self:
        if len(model_id) != 4:
            raise ValueError("model_id must be the first 4 bytes of it")
        if not (1 <= width <= 0xFFFF and 1 <= height <= 0xFFFF):
            raise ValueError("width and height must be from 1 to 65535")
        if tokens.ndim != 1 or not 1 <= len(tokens) <= MAX_TOKENS:
            raise ValueError(f"a token file holds from 1 to {MAX_TOKENS} tokens")
        version = 2 if entropy_coded or fit == "native" else 1
        count = len(tokens)
        file = cls(model_id, width, height, fit, bits, count, payload, entropy_coded, version, 0)
        file = replace(file, checksum=zlib.crc32(file._head() + payload))
        vars(file)["tokens"] = tokens  # known already
        return file

    @cached_property
    def tokens(self) -> Tokens:
        """int64 [n], tile by tile; of an entropy-coded file with the prior of the bundled or
        cached checkpoint that it is of.

        Raises:
            TokenFileError: as ``tokens_with``.
        """
        return self.tokens_with(None)

    def tokens_with(self, header: Header | None) -> Tokens:
        """``tokens``, of an entropy-coded file with the prior of this checkpoint, if it is its own.

        Raises:
            TokenFileError: entropy-coded with a prior that is not at hand, or damaged.
        """
        if not self.entropy_coded:
            return unpack(self.payload, self.num_tokens, self.bits)
        if "tokens" in vars(self):
            return self.tokens
        try:
            header = find_with_prior(self.model_id, header)
            check_fit(header, self.fit)
            prior = read_prior(header)
            given = self.num_tokens if self.fit != "tile" else None
            placement, shape = header.config.place(self.fit, (self.width, self.height), given)
        except (CheckpointError, ImageError) as error:
            raise TokenFileError(error.reason, name=error.name, hint=error.hint) from error
        shapes = (placement.num_tiles, *shape)
        count, bits = math.prod(shapes), header.config.quantizer.bits
        if (self.num_tokens, self.bits) != (count, bits):
            raise TokenFileError(
                f"damaged: {self.num_tokens} tokens of {self.bits} bits, not {count} of {bits}"
            )
        tokens = prior.decode(self.payload, shapes)  # type: ignore[arg-type]
        if prior.encode(tokens) != self.payload:
            raise TokenFileError(ALTERED, hint=Hint.NAME_WEIGHTS)
        tokens = tokens.reshape(-1)
        if self.version == 1:
            packed = replace(self, payload=pack(tokens, bits), entropy_coded=False)
            if zlib.crc32(packed._head() + packed.payload) != self.checksum:
                raise TokenFileError(ALTERED, hint=Hint.NAME_WEIGHTS)
        return tokens

    def as_packed(self) -> Self:
        """The same image, its tokens packed.

        Raises:
            TokenFileError: as ``tokens``.
        """
        return self.packed(self.tokens, self.bits, self.model_id, self.width, self.height, self.fit)

    @property
    def payload_bits(self) -> int:
        """Bits of the tokens alone, without those that fill the last byte up when packed."""
        return 8 * len(self.payload) if self.entropy_coded else self.num_tokens * self.bits

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole file: header, tokens and checksum."""
        return len(self.to_bytes())

    def to_bytes(self) -> bytes:
        """The whole file."""
        return self._head() + self.payload + _CRC.pack(self.checksum)

    def to_text(self) -> str:
        """The whole file in base64url (RFC 4648, section 5), unpadded: as text it survives."""
        return base64.urlsafe_b64encode(self.to_bytes()).decode().rstrip("=")

    def _head(self) -> bytes:
        entropy_coded = self.entropy_coded * _CODED[self.version]
        flags = self.version << 4 | entropy_coded | FITS.index(self.fit)
        head = _HEAD.pack(MAGIC, flags, self.model_id, self.width, self.height, self.bits)
        return head + _leb128(self.num_tokens)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parses a whole file, and nothing but a whole file; or its text, with any white space.

        Raises:
            TokenFileError: another kind of file, a newer version, truncated, damaged, or with
                bytes behind its end. Damage to the tokens of an entropy-coded file of version 1
                is told by ``tokens`` alone.
        """
        if not data.startswith(MAGIC):
            data = _from_text(data)
        if not data.startswith(MAGIC):
            raise TokenFileError("not a token file, nor the text of one")
        version = data[2] >> 4 if len(data) > 2 else 1
        if version not in _CODED:
            raise TokenFileError(f"version {version}: needs a newer tokcodec")
        if len(data) < _HEAD.size + 1 + _CRC.size:
            raise TokenFileError("truncated in its header")
        _, flags, model_id, width, height, bits = _HEAD.unpack_from(data)
        entropy_coded = bool(flags & _CODED[version])
        number = flags & 0b1111 ^ entropy_coded * _CODED[version]
        native = number < len(FITS) and FITS[number] == "native"
        if number >= len(FITS) or not (native or entropy_coded if version == 2 else not native):
            raise TokenFileError(f"version {version}, flags {flags & 15}: needs a newer tokcodec")
        count, start = _read_leb128(data, _HEAD.size)
        if not 1 <= bits <= MAX_BITS:
            raise TokenFileError(f"damaged: {bits} bits a token")
        if not (width and height and count):
            raise TokenFileError(f"damaged: {width}x{height} pixels in {count} tokens")
        payload, end = data[start : -_CRC.size], len(data) - _CRC.size
        size = packed_size(count, bits)
        if entropy_coded and not len(payload) < size <= _SHORTEST * len(payload):
            raise TokenFileError(
                f"damaged: {count} tokens of {bits} bits, entropy-coded in {len(payload)} bytes"
            )
        if not entropy_coded and len(payload) < size:
            raise TokenFileError(
                f"truncated or damaged: {count} tokens of {bits} bits need "
                f"{start + size + _CRC.size} bytes, it has {len(data)}"
            )
        if not entropy_coded and len(payload) > size:
            raise TokenFileError(f"{len(payload) - size} bytes behind its end")
        (checksum,) = _CRC.unpack_from(data, end)
        if (version == 2 or not entropy_coded) and checksum != zlib.crc32(data[:end]):
            raise TokenFileError("damaged: its checksum does not match")
        file = cls(
            model_id,
            width,
            height,
            FITS[number],
            bits,
            count,
            payload,
            entropy_coded,
            version,
            checksum,
        )
        if not entropy_coded:
            file.tokens  # noqa: B018 (refuses padding that is not zeros)
        return file

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a file.

        Raises:
            TokenFileError: it cannot be read, or as ``from_bytes``; with its name.
        """
        try:
            return cls.from_bytes(Path(path).read_bytes())
        except OSError as error:
            raise TokenFileError(f"cannot read: {error.strerror}", name=os.fspath(path)) from error
        except TokenFileError as error:
            raise error.named(os.fspath(path)) from error

    def save(self, path: str | os.PathLike[str], text: bool = False) -> int:
        """Writes the file, whole or not at all, over what is there; gives the number of bytes.

        Args:
            path: of the file.
            text: write it as ``to_text``.

        Raises:
            OutputError: the file system refused.
        """
        data = self.to_text().encode() if text else self.to_bytes()
        write_atomically(Path(path), lambda file: file.write(data))
        return len(data)


def check_tokens(tokens: Tokens, codebook_size: int) -> None:
    """Refuses tokens that the codebook does not have.

    Raises:
        TokenFileError: a token is K or more.
    """
    largest = int(np.max(tokens, initial=0))
    if largest >= codebook_size:
        raise TokenFileError(f"damaged: token {largest} of a codebook of {codebook_size}")


def _from_text(data: bytes) -> bytes:
    """What base64url stands for; empty if it is none."""
    text = b"".join(data.split()).rstrip(b"=")
    with contextlib.suppress(ValueError):
        return base64.b64decode(text + b"=" * (-len(text) % 4), b"-_", validate=True)
    return b""


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
    raise TokenFileError("damaged: its count of tokens does not end")
