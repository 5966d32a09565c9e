"""The token file, ``.tok``: one image. TOKEN_FILE.md is its specification.

The header says how large the image is and how its tokens stand in rows and columns, and the
checksum covers every byte, so a file is inspected and verified without its checkpoint. Only the
tokens of an entropy-coded file need one, for its prior.
"""

import base64
import binascii
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Self, cast

import numpy as np

from tokcodec.checkpoint import Header, find_with_prior, read_prior
from tokcodec.coding.bitpack import Tokens, pack, packed_size, unpack
from tokcodec.coding.prior import ALTERED, Prior
from tokcodec.config.geometry import Fit
from tokcodec.errors import CheckpointError, Hint, TokenFileError, counted
from tokcodec.io.files import SUFFIX as SUFFIX
from tokcodec.io.files import write_atomically
from tokcodec.io.remote import read_bytes, reason_of

ID_BYTES = 2  # of a model_id that a file holds
MAX_TOKENS = 1 << 24

# Reading takes time in proportion to the number of tokens, so a file that claims more than this
# must have a byte of payload for every ``_TOKENS_PER_BYTE`` tokens.
_FREE_TOKENS, _TOKENS_PER_BYTE = 4096, 16

_FORMS = (0xB6, 0xB7)  # the first byte of a packed file, and of an entropy-coded one
_FITS = ("aspect", "stretch", "crop", "pad", "tile", "native")  # by their number in a file
_CRC_BYTES = 2
_PREFIX = "tok:"  # of a message
_START = re.compile(rb"tok:(?=\W*t)", re.IGNORECASE)  # all files begin with t in base64url
_WORD = re.compile(rb"[A-Za-z0-9_-]+")
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_LONGEST = 1 << 14  # characters of a message among other words
_MAX_EDGE = 0xFFFF  # of an image in pixels, of a grid in tokens, of a canvas in tiles


@dataclass(frozen=True)
class TokenFile:
    """One image: what its file says.

    Attributes:
        model_id: the first 2 bytes of the model's ``model_id``.
        width, height: of the original after EXIF orientation, in pixels.
        fit: how the image was fitted to the model's input size.
        bits: bits per token, b.
        rows, columns: the grid of tokens of a tile; tokens in one dimension are one row.
        tiles: rows and columns of tiles; (1, 1) for every fit but ``tile``.
        payload: the tokens as bytes.
        entropy_coded: whether the payload was coded with a prior, or packed.
    """

    model_id: bytes
    width: int
    height: int
    fit: Fit
    bits: int
    rows: int
    columns: int
    tiles: tuple[int, int]
    payload: bytes
    entropy_coded: bool

    def __repr__(self) -> str:
        form = ", entropy-coded" if self.entropy_coded else ""
        tiles = f" in {self.tiles[0]}x{self.tiles[1]} tiles" if self.fit == "tile" else ""
        return (
            f"<TokenFile {self.width}x{self.height}, {self.fit}: {self.rows}x{self.columns} "
            f"tokens of {self.bits} bits{tiles}{form}, {counted(self.file_bytes, 'byte')}, "
            f"model {self.model_id.hex()}>"
        )

    @classmethod
    def packed(
        cls,
        tokens: Tokens,
        bits: int,
        model_id: bytes,
        width: int,
        height: int,
        fit: Fit,
        tiles: tuple[int, int] = (1, 1),
    ) -> Self:
        """A file of packed tokens.

        Args:
            tokens: int64 [n, rows, columns] of n tiles, row by row; or [n, N] without rows.
            bits: bits per token.
            model_id: its first 2 bytes.
            width, height: of the original.
            fit: how it was fitted.
            tiles: rows and columns of the n tiles.

        Raises:
            ValueError: a token needs more than ``bits`` bits, or a field is out of range.
        """
        shape = _grid(tokens, tiles)
        payload = pack(tokens.reshape(-1), bits)
        return cls._checked(
            cls(model_id, width, height, fit, bits, *shape[1:], tiles, payload, False),
            tokens,
        )

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
        """A file of the tokens that a checkpoint gave for an image, entropy-coded with ``prior``
        where that makes it shorter.

        Args:
            header: of the checkpoint.
            tokens, width, height, fit: as of ``packed``.
            prior: of the checkpoint; None packs the tokens.

        Raises:
            ValueError: the codebook has no such token, or they do not fill the image's tiles.
        """
        size = header.config.quantizer.codebook_size
        if np.max(check_integers(tokens), initial=0) >= size or np.min(tokens, initial=0) < 0:
            raise ValueError(f"tokens must be from 0 to {size - 1:,}")
        bits, model_id = header.config.quantizer.bits, bytes.fromhex(header.model_id)[:ID_BYTES]
        tiles = (1, 1)
        if fit == "tile":
            columns, rows = header.config.place(fit, (width, height))[0].grid
            tiles = (rows, columns)
        if prior:
            shape = _grid(tokens, tiles)
            payload = prior.encode(tokens.reshape(shape))
            if _may_be_entropy_coded(tokens.size, bits, len(payload)):
                return cls._checked(
                    cls(model_id, width, height, fit, bits, *shape[1:], tiles, payload, True),
                    tokens,
                )
        return cls.packed(tokens, bits, model_id, width, height, fit, tiles)

    @classmethod
    def _checked(cls, file: Self, tokens: Tokens) -> Self:
        """The file, which knows its tokens, if a file can say all that it holds."""
        if len(file.model_id) != ID_BYTES:
            raise ValueError(f"model_id must be the first {ID_BYTES} bytes of it")
        edges = (file.width, file.height, file.rows, file.columns, *file.tiles)
        if not all(1 <= edge <= _MAX_EDGE for edge in edges):
            raise ValueError(f"sizes must be from 1 to {_MAX_EDGE}")
        if file.fit not in _FITS:
            raise ValueError(f"fit must be one of {', '.join(_FITS)}, not {file.fit!r}")
        if not file.fit == "tile" and file.tiles != (1, 1):
            raise ValueError(f"the fit {file.fit} has one tile")
        if file.num_tokens > MAX_TOKENS:
            raise ValueError(f"a token file holds up to {MAX_TOKENS:,} tokens")
        vars(file)["tokens"] = tokens.reshape(-1)  # known already
        return file

    @property
    def num_tokens(self) -> int:
        """Tokens of all tiles, n."""
        return self.tiles[0] * self.tiles[1] * self.rows * self.columns

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the tokens: tiles, rows, columns."""
        return self.tiles[0] * self.tiles[1], self.rows, self.columns

    @cached_property
    def tokens(self) -> Tokens:
        """int64 [n], tile by tile and row by row. Those of an entropy-coded file are decoded with
        the prior of the bundled or cached checkpoint that has its ``model_id``.

        Raises:
            TokenFileError: as ``tokens_with``.
        """
        return self.tokens_with(None)

    @property
    def grid(self) -> Tokens:
        """``tokens`` in rows and columns, int64 [tiles, rows, columns].

        Raises:
            TokenFileError: as ``tokens_with``.
        """
        return self.tokens.reshape(self.shape)

    def tokens_with(self, header: Header | None) -> Tokens:
        """``tokens``; those of an entropy-coded file decoded with the prior of this checkpoint, if
        it has the file's ``model_id``.

        Raises:
            TokenFileError: it is entropy-coded with a prior that is neither given, bundled nor
                cached, or with another one than that, or damaged.
        """
        if not self.entropy_coded:
            return unpack(self.payload, self.num_tokens, self.bits)
        if "tokens" in vars(self):
            return self.tokens
        try:
            header = find_with_prior(self.model_id, header)
            prior = read_prior(header)
        except CheckpointError as error:
            raise TokenFileError(error.reason, name=error.name, hint=error.hint) from error
        if self.bits != header.config.quantizer.bits:
            raise TokenFileError(
                f"damaged: tokens of {self.bits} bits, of a model with tokens of "
                f"{header.config.quantizer.bits} bits"
            )
        tokens = prior.decode(self.payload, self.shape)
        if prior.encode(tokens) != self.payload:
            raise TokenFileError(ALTERED, hint=Hint.NAME_WEIGHTS)
        return tokens.reshape(-1)

    def as_packed(self) -> Self:
        """The same image, its tokens packed.

        Raises:
            TokenFileError: as ``tokens``.
        """
        return self.packed(
            self.grid, self.bits, self.model_id, self.width, self.height, self.fit, self.tiles
        )

    @property
    def payload_bits(self) -> int:
        """Bits of the tokens alone, without those that fill up the last byte when packed."""
        return 8 * len(self.payload) if self.entropy_coded else self.num_tokens * self.bits

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole file: header, payload and checksum."""
        return len(self._head()) + len(self.payload) + _CRC_BYTES

    def to_bytes(self) -> bytes:
        """The whole file."""
        body = self._head() + self.payload
        return body + _checksum(body)

    def to_text(self) -> str:
        """A message: ``tok:`` and the whole file in base64url (RFC 4648, section 5), unpadded."""
        return _PREFIX + base64.urlsafe_b64encode(self.to_bytes()).decode().rstrip("=")

    def _head(self) -> bytes:
        numbers = [self.width, self.height, self.rows, self.columns]
        if self.fit == "tile":
            numbers += self.tiles
        start = [_FORMS[self.entropy_coded], _FITS.index(self.fit) << 5 | self.bits - 1]
        return bytes(start) + self.model_id + b"".join(map(_leb128, numbers))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parses a whole file, and nothing but a whole file; or a text with one message.

        Raises:
            TokenFileError: another kind of file, truncated, damaged, or with bytes after its end;
                or a text with several messages.
        """
        if not is_token_file(data):
            found = list(cls.find(data))
            if len(found) > 1:
                raise TokenFileError(f"holds {len(found):,} messages, not one")
            if isinstance(found[0], TokenFileError):
                raise found[0]
            return found[0]
        body = data[:-_CRC_BYTES]
        if len(body) < 2 + ID_BYTES or data[-_CRC_BYTES:] != _checksum(body):
            raise TokenFileError("truncated or damaged: its checksum does not match")
        number, bits = body[1] >> 5, (body[1] & 0b11111) + 1
        if number >= len(_FITS):
            raise TokenFileError(f"fit {number}: needs a newer tokcodec")
        fit = cast(Fit, _FITS[number])
        reader = _Leb128Reader(body, 2 + ID_BYTES)
        width, height, rows, columns = (reader.read() for _ in range(4))
        tiles = (reader.read(), reader.read()) if fit == "tile" else (1, 1)
        payload, model_id = body[reader.place :], body[2 : 2 + ID_BYTES]
        entropy_coded = bool(_FORMS.index(data[0]))
        file = cls(model_id, width, height, fit, bits, rows, columns, tiles, payload, entropy_coded)
        file._check_payload()
        return file

    @classmethod
    def find(cls, text: bytes) -> Iterator[Self | TokenFileError]:
        """The messages in a text, in order; an error for each one that is damaged.

        Words around a message, and quotation marks, line breaks and the like in it, are ignored. A
        message ends where its checksum matches.

        Raises:
            TokenFileError: there are none.

        >>> message = b"> " + token_file.to_text().encode()
        >>> list(TokenFile.find(message)) == [token_file]
        True
        """
        _, *parts = _START.split(text)
        if not parts:
            raise TokenFileError("not a token file, nor a text with a message (tok:...)")
        for part in parts:
            error: TokenFileError | None = None
            for data in _candidates(part):
                try:
                    yield cls.from_bytes(data)
                    break
                except TokenFileError as found:
                    error = error or found
            else:
                yield error or TokenFileError("truncated or damaged: a message without content")

    def _check_payload(self) -> None:
        """
        Raises:
            TokenFileError: the payload is not one of that number of tokens.
        """
        count, size = self.num_tokens, packed_size(self.num_tokens, self.bits)
        if count > MAX_TOKENS:
            raise TokenFileError(f"{count:,} tokens: a token file holds up to {MAX_TOKENS:,}")
        if self.entropy_coded:
            if not _may_be_entropy_coded(count, self.bits, len(self.payload)):
                raise TokenFileError(
                    f"damaged: {counted(count, 'token')} of {self.bits} bits, entropy-coded in "
                    f"{counted(len(self.payload), 'byte')}"
                )
        elif len(self.payload) != size:
            raise TokenFileError(
                f"damaged: {counted(count, 'token')} of {self.bits} bits take "
                f"{counted(size, 'byte')}, not {len(self.payload):,}"
            )
        else:
            self.tokens  # noqa: B018 (refuses padding that is not zeros)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a file, local or at a URL.

        Raises:
            TokenFileError: it cannot be read, or as ``from_bytes``; with its name.
        """
        try:
            return cls.from_bytes(read_bytes(str(path)))
        except OSError as error:
            raise TokenFileError(f"cannot read: {reason_of(error)}", name=path) from error
        except TokenFileError as error:
            raise error.named(path) from error

    def save(self, path: str | os.PathLike[str], text: bool = False) -> int:
        """Writes the file, whole or not at all, over an existing one; returns the number of bytes.

        Args:
            path: of the file.
            text: write it as ``to_text``.

        Raises:
            OutputError: the file system refused.
        """
        data = self.to_text().encode() if text else self.to_bytes()
        write_atomically(Path(path), lambda file: file.write(data))
        return len(data)


def is_token_file(start: bytes) -> bool:
    """Whether a file that starts with these bytes is a token file, and not the text of one."""
    return bool(start) and start[0] in _FORMS


def check_tokens(tokens: Tokens, codebook_size: int) -> None:
    """Refuses tokens that the codebook does not have.

    Raises:
        TokenFileError: a token is K or more.
    """
    largest = int(np.max(tokens, initial=0))
    if largest >= codebook_size:
        raise TokenFileError(f"damaged: token {largest:,} of a codebook of {codebook_size:,}")


def check_integers(tokens: object) -> Tokens:
    """The tokens, which are an array of integers.

    Raises:
        TypeError: they are no array.
        ValueError: they are not integers; floats and booleans are not rounded.
    """
    if not isinstance(tokens, np.ndarray):
        raise TypeError(f"expected tokens in an array, not {type(tokens).__name__}")
    if tokens.dtype.kind not in "iu":
        raise ValueError(f"expected tokens of an integer type, not {tokens.dtype}")
    return tokens


def _grid(tokens: Tokens, tiles: tuple[int, int]) -> tuple[int, int, int]:
    """Tiles, rows and columns of tokens [n, rows, columns] or [n, N].

    Raises:
        TypeError: no array.
        ValueError: not integers, or another number of dimensions or of tiles.
    """
    check_integers(tokens)
    if tokens.ndim not in (2, 3) or len(tokens) != tiles[0] * tiles[1]:
        raise ValueError(
            f"expected tokens of {tiles[0]}x{tiles[1]} tiles, [n, rows, columns] or [n, N], "
            f"not {list(tokens.shape)}"
        )
    rows, columns = tokens.shape[1:] if tokens.ndim == 3 else (1, tokens.shape[1])
    return len(tokens), rows, columns


def _may_be_entropy_coded(count: int, bits: int, size: int) -> bool:
    """Whether a payload of ``size`` bytes is shorter than the packed one, and long enough to be
    read in time in proportion to it."""
    return size < packed_size(count, bits) and count <= _FREE_TOKENS + _TOKENS_PER_BYTE * size


def _checksum(body: bytes) -> bytes:
    return binascii.crc_hqx(body, 0xFFFF).to_bytes(_CRC_BYTES, "little")


def _candidates(part: bytes) -> Iterator[bytes]:
    """What the message at the beginning of this text may be: all of its characters together, or
    those up to the end of one of its words."""
    words = _WORD.findall(part.translate(_URL_SAFE))
    ends = list(accumulate(map(len, words)))
    text = b"".join(words)
    for end in (len(text), *(end for end in ends[:-1] if end <= _LONGEST)):
        for shown in dict.fromkeys((text[:end], text[:end].rstrip(b"-_"))):
            if len(shown) % 4 != 1:
                yield base64.urlsafe_b64decode(shown + b"=" * (-len(shown) % 4))


def _leb128(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


class _Leb128Reader:
    """Numbers from 1 to 65535 in bytes, one after the other, from ``place`` on."""

    def __init__(self, data: bytes, place: int) -> None:
        self.data, self.place = data, place

    def read(self) -> int:
        """
        Raises:
            TokenFileError: it is 0 or too large, does not end, or is not in the shortest form.
        """
        number = 0
        for index, byte in enumerate(self.data[self.place : self.place + 3]):
            number |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if not 1 <= number <= _MAX_EDGE or (index and not byte):
                    break
                self.place += index + 1
                return number
        raise TokenFileError("damaged: a size in its header is none from 1 to 65535")
