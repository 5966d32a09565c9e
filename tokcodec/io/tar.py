"""Tars, read once from front to back, and strictly: what is cut, damaged or left over is an error.

``tarfile`` takes a header that it cannot read for the end of the tar, and so a cut one. Where it
reads a stream, it looks at no checksum of gzip. It allocates whatever a header asks for.

Read are the formats of POSIX.1-2001 (ustar, pax) and of GNU tar, as they are or in gzip, bzip2 or
xz. Only these have a checksum of contents, of long names and of pax records.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

MAX_BYTES = 2**28  # of an image, unless told otherwise
LINK = "a link in the tar, not a file"

_BLOCK = 512
_CHUNK = 2**18
_SMALL_CHUNK = 2**13  # of what is compressed, as what is unpacked together with damage is gone
_MAX_EXTENDED = 2**16  # bytes of a long name, or of the records of a pax header
_MAX_MEMORY = 2**28  # of xz, whose largest preset takes a quarter of it
_FILES = b"0\x007"
_WITHOUT_CONTENT = b"123456"
_MAGIC = {b"\x1f\x8b\x08": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}


@dataclass(frozen=True)
class Member:
    """A member that is no directory.

    Attributes:
        name: bytes that are no UTF-8 are surrogates.
        size: of its content in bytes, at the word of its header.
        problem: why there is no content to be read; None if there is.
        read: gives the content, once, and before the next member is asked for; raises as
            ``members``.
    """

    name: str
    size: int
    problem: str | None
    read: Callable[[], bytes]


def members(file: IO[bytes]) -> Iterator[Member]:
    """Reads a tar to the end of its file. Memory is bounded, but for what ``Member.read`` gives.

    Raises:
        OSError: it is damaged or cut here, or goes on behind its end marker.
    """
    stream = _Stream(_unpacked(file))
    shared: dict[bytes, bytes] = {}  # of the pax header for all that follow
    own: dict[bytes, bytes] = {}  # of those for the next member alone
    while any(header := stream.read(_BLOCK)):
        place = f"the header at byte {stream.offset - len(header):,}"
        kind, size = header[156:157], _number(header[124:136])
        if len(header) < _BLOCK or not _has_its_checksum(header) or size is None:
            raise OSError(f"{place} is damaged or cut")
        if kind in b"LKxXg":
            if size > _MAX_EXTENDED:
                raise OSError(f"{place} announces a name or pax records of {size:,} bytes")
            content = stream.exactly(size)
            stream.skip(-size % _BLOCK)
            if kind == b"L":
                own[b"path"] = _text(content)
            elif kind != b"K":  # a target of a link, which is not followed
                records = _parse(content)
                if records is None:
                    raise OSError(f"{place} is followed by damaged pax records")
                (shared if kind == b"g" else own).update(records)
            continue
        records, own = shared | own, {}
        if b"size" in records:
            size = _decimal(records[b"size"])
            if size is None:
                raise OSError(f"{place} follows a pax size that is no number")
        name = records.get(b"path") or _name(header)
        problem = None if kind in _FILES else LINK
        if kind == b"S" or any(keyword.startswith(b"GNU.sparse.") for keyword in records):
            name = records.get(b"GNU.sparse.name") or name
            problem = "a sparse file, which is not unpacked"
        more = kind == b"S" and header[482]
        while more:  # blocks of the map of a sparse file
            more = stream.exactly(_BLOCK)[504]
        # Before POSIX, a directory was a file whose name ends in a slash.
        is_directory = kind == b"5" or (kind == b"\0" and name.endswith(b"/"))
        stored = 0 if is_directory or kind in _WITHOUT_CONTENT else size
        end = stream.offset + stored + -stored % _BLOCK
        if not is_directory:
            text = name.decode("utf-8", "surrogateescape")
            yield Member(text, size, problem, partial(stream.exactly, size))
        stream.skip(end - stream.offset)
    if own:
        raise OSError(f"a long name or pax header before byte {stream.offset:,} has no member")
    if header + stream.read(_BLOCK) != bytes(2 * _BLOCK):
        raise OSError(f"no end marker (two blocks of zeros) before byte {stream.offset:,}")
    while chunk := stream.read(_CHUNK):
        if chunk.strip(b"\0"):
            raise OSError(f"goes on behind its end marker, before byte {stream.offset:,}")


class _Stream:
    """Reads from chunks of bytes; ``offset`` is that of the next byte."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.offset = 0
        self._chunks = chunks
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        """So many bytes, or all that are left; takes the memory of those that there are."""
        taken = io.BytesIO()
        while size > 0:
            if not self._rest:
                self._rest = memoryview(next(self._chunks, b""))
                if not self._rest:
                    break
            count = taken.write(self._rest[:size])
            self._rest = self._rest[count:]
            self.offset += count
            size -= count
        return taken.getvalue()

    def exactly(self, size: int) -> bytes:
        data = self.read(size)
        if len(data) < size:
            raise OSError(f"cut inside a member, at byte {self.offset:,}")
        return data

    def skip(self, size: int) -> None:
        while size > 0:
            size -= len(self.exactly(min(size, _CHUNK)))


def _unpacked(file: IO[bytes]) -> Iterator[bytes]:
    """The bytes of a tar, however it is compressed; raises OSError where that is damaged."""
    data = file.read(_SMALL_CHUNK)
    name = next((name for magic, name in _MAGIC.items() if data.startswith(magic)), "")
    if not name:
        while data:
            yield data
            data = file.read(_CHUNK)
    while data:  # a stream of several
        decompressor = _decompressor(name)
        while not decompressor.eof:
            try:
                out = decompressor.decompress(data, _SMALL_CHUNK)
            except Exception as error:  # of zlib, bz2 or lzma
                raise OSError(f"its {name} stream is damaged: {error}") from error
            if out:
                yield out
            data = getattr(decompressor, "unconsumed_tail", b"")  # others keep it themselves
            if not out and not data and not decompressor.eof:
                data = file.read(_SMALL_CHUNK)
                if not data:
                    raise OSError(f"its {name} stream is cut")
        data = decompressor.unused_data.lstrip(b"\0")
        while not data and (more := file.read(_SMALL_CHUNK)):
            data = more.lstrip(b"\0")


def _decompressor(name: str) -> Any:
    # Not every Python was built with all of them.
    if name == "gzip":
        import zlib

        return zlib.decompressobj(wbits=31)
    if name == "bzip2":
        import bz2

        return bz2.BZ2Decompressor()
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_MEMORY)


def _has_its_checksum(header: bytes) -> bool:
    """The sum of its bytes, the field of the sum itself as blanks; signed in some old tars."""
    expected = _number(header[148:156])
    blank = header[:148] + b" " * 8 + header[156:]
    return expected == sum(blank) or expected == sum(memoryview(blank).cast("b"))


def _number(field: bytes) -> int | None:
    """Octal digits, or GNU's base 256 behind a set bit; None if neither, or negative."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = _text(field).strip(b" ")
    return None if digits.strip(b"01234567") else int(digits or b"0", 8)


def _decimal(digits: bytes) -> int | None:
    return int(digits) if digits.isdigit() and len(digits) <= 20 else None


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _name(header: bytes) -> bytes:
    name, prefix = _text(header[:100]), _text(header[345:500])
    # GNU tar, whose magic has a blank there, keeps times in the place of the prefix.
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _parse(content: bytes) -> dict[bytes, bytes] | None:
    """The records of a pax header, each ``LENGTH KEYWORD=VALUE\\n``; None where they are not."""
    records = {}
    content = content.rstrip(b"\0")
    while content:
        length = _decimal(content[:21].partition(b" ")[0])
        record, content = content[:length], content[length:]
        keyword, equals, value = record.partition(b" ")[2].partition(b"=")
        if not length or len(record) < length or not equals or not value.endswith(b"\n"):
            return None
        records[keyword] = value[:-1]
    return records
