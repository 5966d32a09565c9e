"""The token file, ``.tok``, which holds one image. TOKEN_FILE.md specifies it.

The header has the sizes of the image and of its grid of tokens, and the checksum covers every byte,
so files are inspected and verified without a checkpoint. Only the tokens of an entropy-coded file
need the checkpoint, for its prior.
"""

import binascii
import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray

from tokcodec.checkpoint import Header, find_with_prior, read_prior
from tokcodec.coding.bitpack import Tokens, pack, packed_size, padding, unpack, unpack_first
from tokcodec.coding.header import MOST, HeaderReader, height_number, leb128, shape_number
from tokcodec.coding.prior import ALTERED, Prior
from tokcodec.coding.text import find_messages, to_message
from tokcodec.config.geometry import Fit
from tokcodec.errors import CheckpointError, Hint, TokenFileError, counted
from tokcodec.io.files import write_atomically
from tokcodec.io.remote import read_bytes, reason_of
from tokcodec.packets import (
    MOST_BYTES,
    MOST_PACKETS,
    Packets,
    most_packets,
    packet_grids,
    packet_of,
    parity_of,
)

ID_BYTES = 2  # bytes of the model_id in a file
MAX_TOKENS = 1 << 24

# A file may have ``_FREE_TOKENS`` tokens, and ``_TOKENS_PER_BYTE`` for each byte of its payload, so
# that the time to read it is limited by its size.
_FREE_TOKENS, _TOKENS_PER_BYTE = 4096, 16

# The first byte if tokens are packed, and if they are entropy-coded.
_FORMS, _PACKET_FORMS = (0xB6, 0xB7), (0xB4, 0xB5)
_FITS = ("aspect", "stretch", "crop", "pad", "tile", "native")  # in the order of their numbers
_CRC_BYTES = 2
_PACKET_BYTES = 1 + _CRC_BYTES  # of the number and the image in the header of a packet


@dataclass(frozen=True)
class TokenFile:
    """The content of a token file: one image.

    Attributes:
        model_id: the first 2 bytes of the model's ``model_id``.
        width, height: size of the original after EXIF orientation, in pixels.
        fit: how the image was fitted to the model's input size.
        bits: bits per token, b.
        rows, columns: the grid of tokens of a tile; tokens without a grid are one row.
        tiles: rows and columns of tiles; (1, 1) except for the fit ``tile``.
        payload: the tokens as bytes; empty if there are packets.
        entropy_coded: whether the payload is entropy-coded with a prior, or packed.
        packets: the packets of an image that was split; None for a whole file.
        damaged: whether the checksum does not match, so that tokens may be missing.
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
    packets: Packets | None = None
    damaged: bool = False

    def __repr__(self) -> str:
        form = ", entropy-coded" if self.entropy_coded else ""
        if self.packets:
            form += f", packets {self.packets.numbers} of {self.packets.count}"
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
        prior: Prior | None = None,
    ) -> Self:
        """A file of packed tokens.

        Args:
            tokens: int64 [n, rows, columns] of n tiles, row by row; or [n, N] without rows.
            bits: bits per token.
            model_id: the first 2 bytes of the ``model_id``.
            width, height: of the original.
            fit: how the image was fitted.
            tiles: rows and columns of the n tiles.
            prior: entropy-code the tokens instead if that makes the file shorter.

        Raises:
            TypeError: a size is not an integer.
            ValueError: a token needs more than ``bits`` bits, or a field is out of range.
        """
        if len(model_id) != ID_BYTES:
            raise ValueError(f"model_id must have {ID_BYTES} bytes")
        if fit not in _FITS:
            raise ValueError(f"fit must be one of {', '.join(_FITS)}, not {fit!r}")
        if fit != "tile" and tiles != (1, 1):
            raise ValueError(f"the fit {fit} has one tile")
        shape = _grid(tokens, tiles)
        if not all(1 <= index(edge) <= MOST for edge in (width, height, *shape[1:], *tiles)):
            raise ValueError(f"sizes must be from 1 to {MOST}")
        payload = prior.encode(tokens.reshape(shape)) if prior else b""
        entropy_coded = bool(prior) and _may_be_entropy_coded(tokens.size, bits, len(payload))
        if not entropy_coded:
            payload = pack(tokens.reshape(-1), bits)
        file = cls(model_id, width, height, fit, bits, *shape[1:], tiles, payload, entropy_coded)
        vars(file)["tokens"] = tokens.reshape(-1)  # so that they are not read again
        return file

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
        """A file of the tokens of an image, entropy-coded with ``prior`` if that is shorter.

        Args:
            header: the checkpoint that encoded the image.
            tokens, width, height, fit: see ``packed``.
            prior: the prior of the checkpoint; None packs the tokens.

        Raises:
            ValueError: a token is outside of the codebook, or tokens do not fill the tiles.
        """
        size = header.config.quantizer.codebook_size
        if np.max(check_integers(tokens), initial=0) >= size or np.min(tokens, initial=0) < 0:
            raise ValueError(f"tokens must be from 0 to {size - 1:,}")
        bits, model_id = header.config.quantizer.bits, bytes.fromhex(header.model_id)[:ID_BYTES]
        tiles = (1, 1)
        if fit == "tile":
            columns, rows = header.config.place(fit, (width, height))[0].grid
            tiles = (rows, columns)
        return cls.packed(tokens, bits, model_id, width, height, fit, tiles, prior)

    @property
    def num_tokens(self) -> int:
        """Number of tokens of all tiles, n."""
        return self.tiles[0] * self.tiles[1] * self.rows * self.columns

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of tiles, rows and columns of the tokens."""
        return self.tiles[0] * self.tiles[1], self.rows, self.columns

    @cached_property
    def tokens(self) -> Tokens:
        """The tokens int64 [n], tile by tile and row by row.

        Those of an entropy-coded file are decoded with the prior of the bundled or cached
        checkpoint that has its ``model_id``.

        Raises:
            TokenFileError: see ``tokens_with``.
        """
        return self.tokens_with(None)

    @property
    def grid(self) -> Tokens:
        """``tokens`` as int64 [tiles, rows, columns]."""
        return self.tokens.reshape(self.shape)

    def tokens_with(self, header: Header | None, *, incomplete: bool = False) -> Tokens:
        """``tokens``, decoded with the prior of this checkpoint if it has the file's ``model_id``.

        Args:
            header: the checkpoint.
            incomplete: return -1 for missing tokens, if packets were lost or the file is damaged.

        Raises:
            TokenFileError: the file is damaged; it is entropy-coded with a prior that is neither
                given, bundled nor cached; or tokens are missing.
        """
        tokens = self._read_tokens(header)
        if not incomplete and (missing := int((tokens < 0).sum())):
            raise TokenFileError(
                f"incomplete: {missing:,} of {self.num_tokens:,} tokens are missing"
            )
        return tokens

    def _read_tokens(self, header: Header | None) -> Tokens:
        if "tokens" in vars(self):
            known: Tokens = vars(self)["tokens"]
            return known
        prior = self._prior(header) if self.entropy_coded else None
        if not self.packets:
            return self._decode(prior, self.payload, np.ones(self.shape, bool))
        packets, tokens = self.packets.restored(), np.full(self.num_tokens, -1)
        payloads = dict(packets.payloads)
        grids = packet_grids(np.arange(self.num_tokens).reshape(self.shape[1:]), packets.count)
        for number in packets.numbers:
            there = grids[number] >= 0
            self._check_size(int(there.sum()), payloads[number])  # parity may have restored it
            tokens[grids[number][there]] = self._decode(prior, payloads[number], there)
        whole = not self.damaged and (tokens >= 0).all()
        if whole and _crc(pack(tokens, self.bits)) != packets.image:
            raise TokenFileError("its packets are damaged, or of several images")
        return tokens

    def _prior(self, header: Header | None) -> Prior:
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
        return prior

    def _decode(self, prior: Prior | None, payload: bytes, there: NDArray[np.bool_]) -> Tokens:
        """Decode a payload to tokens int64 [n]; -1 for those after the end of a damaged one.

        Args:
            prior: the prior if the file is entropy-coded.
            payload: the payload of the file or of a packet.
            there: whether each position has a token: [tiles, rows, columns], or [rows, columns] of
                a packet.

        Raises:
            TokenFileError: the payload is damaged, and ``damaged`` is false.
        """
        count = int(there.sum())
        shape = there.reshape(-1, *there.shape[-2:]).shape
        mask = there if there.ndim == 2 else None
        if not prior:
            if not self.damaged:
                return unpack(payload, count, self.bits)
            whole = min(count, len(payload) * 8 // self.bits)
            tokens = np.full(count, -1)
            tokens[:whole] = unpack_first(payload, whole, self.bits)
            return tokens
        # The beginning of a damaged file may be a whole one of other tokens. Packets may be intact.
        if self.packets or not self.damaged:
            try:
                tokens = prior.decode(payload, shape, there=mask)
                if prior.encode(tokens) == payload:
                    return tokens.reshape(there.shape)[there]
                raise TokenFileError(ALTERED, hint=Hint.NAME_WEIGHTS)
            except (TokenFileError, ValueError):
                if not self.damaged:
                    raise
        payload = payload[:-_CRC_BYTES]  # which may be the checksum, or a part of it
        tokens = prior.decode(payload, shape, there=mask, partial=True)
        return tokens.reshape(there.shape)[there]

    def as_packed(self) -> Self:
        """The same image with packed tokens."""
        return self.packed(
            self.grid, self.bits, self.model_id, self.width, self.height, self.fit, self.tiles
        )

    def split(self, count: int, prior: Prior | None = None, parity: bool = False) -> Self:
        """Split the image into packets, which ``parts`` returns one by one.

        Args:
            count: the most packets; there are fewer if a packet would have no token.
            prior: entropy-code the tokens if that makes the packets shorter.
            parity: add a packet that restores any one of the others.

        Raises:
            TokenFileError: see ``tokens``.
            ValueError: the fit is ``tile``, ``count`` is less than 1, or a packet is too large for
                parity.
        """
        if self.fit == "tile" or count < 1:
            raise ValueError("an image is split into one packet or more, and without tiles")
        tokens, count = self.tokens, most_packets(self.rows, self.columns, count)
        numbers = packet_of(self.rows, self.columns, count)
        payloads = [pack(tokens[numbers == number], self.bits) for number in range(count)]
        coded = payloads
        if prior:
            grid = tokens.reshape(self.rows, self.columns)
            coded = [prior.encode(part[None]) for part in packet_grids(grid, count)]
        entropy_coded = sum(map(len, coded)) < sum(map(len, payloads)) and all(
            _may_be_packet(int((numbers == number).sum()), self.bits, len(own))
            and _is_readable(len(tokens) // count, len(own))
            for number, own in enumerate(coded)
        )
        payloads = coded if entropy_coded else payloads
        if parity and max(map(len, payloads)) > MOST_BYTES:
            raise ValueError(f"packets with parity hold up to {MOST_BYTES:,} bytes")
        if parity:
            payloads = [*payloads, parity_of(payloads)]
        packets = Packets(count, _crc(pack(tokens, self.bits)), tuple(enumerate(payloads)))
        file = replace(self, payload=b"", entropy_coded=entropy_coded, packets=packets)
        vars(file)["tokens"] = tokens
        return file

    def parts(self) -> "list[Self]":
        """Each packet as a file of its own; or the file itself if it was not split."""
        if not self.packets:
            return [self]
        return [
            replace(self, packets=replace(self.packets, payloads=(own,)))
            for own in self.packets.payloads
        ]

    @property
    def image_key(self) -> object:
        """Equal for packets of one image, damaged or not."""
        assert self.packets
        return replace(self, packets=replace(self.packets, payloads=()), damaged=False)

    @classmethod
    def join(cls, files: "Iterable[Self]") -> "list[Self]":
        """Join the packets of each image to one file; return the images in order.

        Damaged packets are left out if the others, or parity, suffice.
        """
        images: dict[object, list[Self]] = {}
        for number, file in enumerate(files):
            images.setdefault(file.image_key if file.packets else number, []).append(file)
        return [same[0] if len(same) == 1 else cls._joined(same) for same in images.values()]

    @classmethod
    def _joined(cls, files: list[Self]) -> Self:
        found: dict[bool, dict[int, bytes]] = {False: {}, True: {}}  # intact and damaged payloads
        for file in files:
            assert file.packets
            found[file.damaged] = dict(file.packets.payloads) | found[file.damaged]
            packets = replace(file.packets, payloads=tuple(sorted(found[False].items())))
        if found[True].keys() <= found[False].keys() or packets.is_complete:
            return replace(file, packets=packets, damaged=False)
        # With damaged packets, parity cannot restore another one.
        payloads = {n: own for n, own in (found[True] | found[False]).items() if n < packets.count}
        damaged = tuple(sorted(payloads.items())) or tuple(found[True].items())
        return replace(file, packets=replace(packets, payloads=damaged), damaged=True)

    @property
    def payload_bytes(self) -> int:
        """Bytes of the payload, or of the payloads of all packets."""
        packets = self.packets.payloads if self.packets else ()
        return len(self.payload) + sum(len(payload) for _, payload in packets)

    @property
    def payload_bits(self) -> int:
        """Bits of the payload, without the padding of packed tokens."""
        if self.entropy_coded or self.packets:
            return 8 * self.payload_bytes
        return self.num_tokens * self.bits

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole file, or of all packets: header, payload and checksum."""
        count, besides = 1, len(self._head()) + (0 if self.damaged else _CRC_BYTES)
        if self.packets:
            count, besides = len(self.packets.payloads), besides + _PACKET_BYTES
        return count * besides + self.payload_bytes

    def to_bytes(self) -> bytes:
        """The bytes of the file, or of its only packet; without a checksum if it is damaged.

        Raises:
            ValueError: there are several packets.
        """
        body, payload = self._head(), self.payload
        if self.packets:
            if len(self.packets.payloads) != 1:
                raise ValueError("several packets are several files: take the bytes of its parts")
            ((number, payload),) = self.packets.payloads
            body += bytes([number << 4 | self.packets.count - 1])
            body += self.packets.image.to_bytes(_CRC_BYTES, "little")
        body += payload
        return body if self.damaged else body + _crc(body).to_bytes(_CRC_BYTES, "little")

    def to_text(self) -> str:
        """A message: ``tok:`` and the file in base64url (RFC 4648, section 5) without padding; a
        line for each packet."""
        return "\n".join(to_message(part.to_bytes()) for part in self.parts())

    def _head(self) -> bytes:
        numbers = [shape_number(self.rows, self.columns)]
        if self.fit == "tile":
            numbers.append(shape_number(*self.tiles))
        rows, columns = self.tiles[0] * self.rows, self.tiles[1] * self.columns
        numbers += [self.width, height_number(self.height, self.width, rows, columns)]
        forms = _PACKET_FORMS if self.packets else _FORMS
        start = [forms[self.entropy_coded], _FITS.index(self.fit) << 5 | self.bits - 1]
        return bytes(start) + self.model_id + b"".join(map(leb128, numbers))

    @classmethod
    def from_bytes(cls, data: bytes, *, damaged: bool = False) -> Self:
        """Parse a token file, or a text with one message or with packets of one image.

        See ``find`` for texts with several messages.

        Args:
            data: the bytes.
            damaged: accept a file that is cut or altered, if its header can be read. The tokens
                that cannot be read are missing.

        Raises:
            TokenFileError: it is not a token file, truncated, damaged, or has bytes after its end;
                or a text has several messages.
        """
        found = cls.find(data, damaged=damaged)
        if len(found) > 1:
            raise TokenFileError(f"has {len(found):,} messages, not one")
        if isinstance(found[0], TokenFileError):
            raise found[0]
        return found[0]

    @classmethod
    def _read(cls, data: bytes, damaged: bool) -> Self:
        try:
            return cls._parse(data[:-_CRC_BYTES], data[-_CRC_BYTES:])
        except TokenFileError:
            if not damaged:
                raise
        return cls._parse(data, None)

    @classmethod
    def _parse(cls, body: bytes, checksum: bytes | None) -> Self:
        """Parse a file without its checksum; if that is None, the file is damaged."""
        damaged = checksum is None
        if len(body) < 2 + ID_BYTES or (
            checksum is not None and checksum != _crc(body).to_bytes(_CRC_BYTES, "little")
        ):
            hint = None if damaged else Hint.DAMAGED
            raise TokenFileError("truncated or damaged: its checksum does not match", hint=hint)
        number, bits = body[1] >> 5, (body[1] & 0b11111) + 1
        if number >= len(_FITS):
            raise TokenFileError(f"fit {number}: needs a newer tokcodec")
        fit = cast(Fit, _FITS[number])
        reader = HeaderReader(body, 2 + ID_BYTES)
        rows, columns = reader.shape()
        tiles = reader.shape() if fit == "tile" else (1, 1)
        width = reader.width()
        height = reader.height(width, tiles[0] * rows, tiles[1] * columns)
        payload, model_id = body[reader.place :], body[2 : 2 + ID_BYTES]
        entropy_coded, packets = bool(body[0] & 1), None
        if body[0] in _PACKET_FORMS:
            packets, payload = _packet(payload), b""
        file = cls(
            model_id, width, height, fit, bits, rows, columns, tiles, payload, entropy_coded,
            packets, damaged,
        )  # fmt: skip
        file._check_payload()
        return file

    @classmethod
    def find(cls, data: bytes, *, damaged: bool = False) -> "list[Self | TokenFileError]":
        """Parse a token file, or all messages in a text.

        A damaged message becomes an error. Packets of one image are joined, and come last. Words
        around a message, and quotation marks, line breaks and the like in it, are ignored. A
        message ends where its checksum matches.

        Args:
            data: the file or the text.
            damaged: see ``from_bytes``.

        Raises:
            TokenFileError: the file cannot be parsed, or the text has no message.

        >>> message = b"> " + token_file.to_text().encode()
        >>> list(TokenFile.find(message)) == [token_file]
        True
        """
        if is_token_file(data):
            return [cls._read(data, damaged)]
        found: list[Self | TokenFileError] = []
        packets = []
        for message, lengths in find_messages(data):
            file = cls._first(message, lengths, damaged)
            if isinstance(file, TokenFileError) or not file.packets:
                found.append(file)
            else:
                packets.append(file)
        if not (found or packets):
            raise TokenFileError("neither a token file nor a text with a message (tok:...)")
        return [*found, *cls.join(packets)]

    @classmethod
    def _first(cls, data: bytes, lengths: list[int], damaged: bool) -> Self | TokenFileError:
        """Parse the first of these lengths of ``data`` that is a file; or return an error."""
        whole = _matching(data, lengths)
        for length in (length for length in lengths if length in whole):
            with contextlib.suppress(TokenFileError):
                return cls._read(data[:length], damaged=False)
        try:
            return cls._read(data, damaged)
        except TokenFileError as error:
            return error.with_traceback(None)  # the traceback would keep the text in memory

    def _check_payload(self) -> None:
        """
        Raises:
            TokenFileError: the payload cannot have this number of tokens.
        """
        count, payload = self.num_tokens, self.payload
        if count > MAX_TOKENS:
            raise TokenFileError(f"{count:,} tokens: a token file holds up to {MAX_TOKENS:,}")
        if packets := self.packets:
            ((number, payload),) = packets.payloads
            grid = self.shape[1:]
            if self.fit == "tile" or most_packets(*grid, packets.count) != packets.count:
                raise TokenFileError("damaged: its grid cannot have these packets")
            if not _is_readable(count // packets.count, len(payload)):
                raise TokenFileError(
                    f"damaged: {counted(len(payload), 'byte')} of {counted(count, 'token')}"
                )
            if number == packets.count:
                return  # parity, which has no tokens
            count = int((packet_of(*grid, packets.count) == number).sum())
        self._check_size(count, payload)

    def _check_size(self, count: int, payload: bytes) -> None:
        """
        Raises:
            TokenFileError: this is not the payload of ``count`` tokens.
        """
        if self.damaged:
            if not _is_readable(count, len(payload)):
                raise TokenFileError("damaged: too few bytes are left")
            return
        if not self.entropy_coded:
            size = packed_size(count, self.bits)
            fits = len(payload) == size and not padding(payload, count * self.bits)
        else:
            may_be = _may_be_packet if self.packets else _may_be_entropy_coded
            fits = may_be(count, self.bits, len(payload))
        if not fits:
            form = "entropy-coded in" if self.entropy_coded else "in"
            raise TokenFileError(
                f"damaged: {counted(count, 'token')} of {self.bits} bits, {form} "
                f"{counted(len(payload), 'byte')}"
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, damaged: bool = False) -> Self:
        """Read a file, local or at a URL.

        Args:
            path: the file.
            damaged: see ``from_bytes``.

        Raises:
            TokenFileError: the file cannot be read, or see ``from_bytes``.
        """
        try:
            return cls.from_bytes(read_bytes(str(path)), damaged=damaged)
        except OSError as error:
            raise TokenFileError(f"cannot read: {reason_of(error)}", name=path) from error
        except TokenFileError as error:
            raise error.named(path) from error

    def save(self, path: str | os.PathLike[str], text: bool = False) -> int:
        """Write the file, whole or not at all; return the number of bytes.

        Args:
            path: the file, which is replaced if it exists.
            text: write ``to_text``.

        Raises:
            OutputError: the file cannot be written.
            ValueError: there are several packets, and ``text`` is false.
        """
        data = self.to_text().encode() if text else self.to_bytes()
        write_atomically(Path(path), lambda file: file.write(data))
        return len(data)


def is_token_file(start: bytes) -> bool:
    """Whether a file that starts with these bytes is a token file in binary form."""
    return bool(start) and start[0] in _FORMS + _PACKET_FORMS


def check_tokens(tokens: Tokens, codebook_size: int) -> None:
    """
    Raises:
        TokenFileError: a token is outside of the codebook.
    """
    largest = int(np.max(tokens, initial=0))
    if largest >= codebook_size:
        raise TokenFileError(f"damaged: token {largest:,} of a codebook of {codebook_size:,}")


def check_integers(tokens: object) -> Tokens:
    """Return the tokens if they are an array of integers.

    Raises:
        TypeError: they are not an array.
        ValueError: they are not integers. Floats are not rounded.
    """
    if not isinstance(tokens, np.ndarray):
        raise TypeError(f"expected tokens in an array, not {type(tokens).__name__}")
    if tokens.dtype.kind not in "iu":
        raise ValueError(f"expected tokens of an integer type, not {tokens.dtype}")
    return tokens


def _grid(tokens: Tokens, tiles: tuple[int, int]) -> tuple[int, int, int]:
    """Tiles, rows and columns of tokens [n, rows, columns] or [n, N].

    Raises:
        TypeError: they are not an array.
        ValueError: they are not integers, or have another number of dimensions or of tiles.
    """
    check_integers(tokens)
    if tokens.ndim not in (2, 3) or len(tokens) != tiles[0] * tiles[1]:
        raise ValueError(
            f"expected tokens of {tiles[0]}x{tiles[1]} tiles, [n, rows, columns] or [n, N], "
            f"not {list(tokens.shape)}"
        )
    if tokens.size > MAX_TOKENS:
        raise ValueError(f"a token file holds up to {MAX_TOKENS:,} tokens")
    rows, columns = tokens.shape[1:] if tokens.ndim == 3 else (1, tokens.shape[1])
    return len(tokens), rows, columns


def _may_be_entropy_coded(count: int, bits: int, size: int) -> bool:
    """Whether an entropy-coded payload may have ``size`` bytes: fewer than packed tokens, but not
    too few."""
    return size < packed_size(count, bits) and _is_readable(count, size)


def _may_be_packet(count: int, bits: int, size: int) -> bool:
    """The same for a packet. Single packets of an image may be longer than packed ones."""
    return size <= 2 * packed_size(count, bits) + 8 and _is_readable(count, size)


def _is_readable(count: int, size: int) -> bool:
    """Whether a payload of ``size`` bytes may have ``count`` tokens."""
    return count <= _FREE_TOKENS + _TOKENS_PER_BYTE * size


def _crc(data: bytes) -> int:
    return binascii.crc_hqx(data, 0xFFFF)


def _matching(data: bytes, lengths: list[int]) -> set[int]:
    """The lengths at which ``data`` ends with the checksum of the bytes before."""
    crc, done, found = _crc(b""), 0, set()
    for length in sorted(lengths):
        end = max(length - _CRC_BYTES, 0)
        crc, done = binascii.crc_hqx(data[done:end], crc), end
        if data[end:length] == crc.to_bytes(_CRC_BYTES, "little"):
            found.add(length)
    return found


def _packet(data: bytes) -> Packets:
    """Parse a packet from what follows the sizes in its header.

    Raises:
        TokenFileError: it is cut, or its number is not valid.
    """
    count = (data[0] & 0xF) + 1 if data else 0
    if len(data) < _PACKET_BYTES or not data[0] >> 4 <= count <= MOST_PACKETS:
        raise TokenFileError("damaged: the number of its packet is not valid")
    image = int.from_bytes(data[1:_PACKET_BYTES], "little")
    return Packets(count, image, ((data[0] >> 4, data[_PACKET_BYTES:]),))
