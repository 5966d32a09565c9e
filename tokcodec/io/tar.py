"""Reads tar archives once from front to back, and strictly: any visible damage is an error.

``tarfile`` parses the headers. Its ``TarFile`` is not used: it takes a damaged header for the end
of the archive, ignores what follows the end marker, and does not limit the memory of names, pax
records and maps of sparse files.

An archive may be plain or compressed by gzip, bzip2 or xz. Only the compressed ones have a checksum
of contents, long names and pax records.
"""

import io
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

LINK = "a link in the tar, not a file"

_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 2**18
_SMALL_CHUNK = 2**13  # of compressed bytes; small, as a damaged chunk is lost as a whole
_MAX_EXTENDED = 2**16  # bytes of a long name, or of the records of a pax header
_MAX_XZ_MEMORY = 2**28  # the largest preset takes a quarter of it
_WITHOUT_CONTENT = b"123456"
_MAGIC = {b"\x1f\x8b\x08": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}
_TEXT = ("utf-8", "surrogateescape")
_RECORD = re.compile(rb"(\d{1,5}) ([^=\n]+)=")


@dataclass(frozen=True)
class Member:
    """A member that is not a directory.

    Attributes:
        name: its name; bytes that are not UTF-8 are surrogates.
        size: the bytes of its content according to its header.
        problem: why its content cannot be read; None if it can.
        read: returns the content; call it once, before taking the next member. Raises as
            ``members``.
    """

    name: str
    size: int
    problem: str | None
    read: Callable[[], bytes]


def members(file: IO[bytes]) -> Iterator[Member]:
    """Read an archive to the end of its file, in bounded memory except for ``Member.read``.

    Raises:
        OSError: the archive is damaged or cut here, or something follows its end marker.
    """
    stream = _Stream(_unpacked(file))
    shared: dict[str, str] = {}  # records of a pax header for all members that follow
    own: dict[str, str] = {}  # records for the next member only
    while any(block := stream.read(_BLOCK)):
        place = f"the header at byte {stream.offset - len(block):,}"
        header = _parse_header(block, place)
        if header.type in b"LKxXg":
            if header.size > _MAX_EXTENDED:
                raise OSError(f"{place} announces a name or records of {header.size:,} bytes")
            content = stream.read_exactly(header.size)
            stream.skip(-header.size % _BLOCK)
            if header.type == b"L":
                own["path"] = content.partition(b"\0")[0].decode(*_TEXT)
            elif header.type != b"K":  # the target of a link
                (shared if header.type == b"g" else own).update(_parse_records(content, place))
            continue
        records, own = shared | own, {}
        name = records.get("GNU.sparse.name") or records.get("path") or header.name
        size = int(records.get("size", header.size))
        problem = None if header.isreg() else LINK
        if header.type == b"S" or any(keyword.startswith("GNU.sparse.") for keyword in records):
            problem = "a sparse file, which is not unpacked"
        has_more_map = header.type == b"S" and block[482]
        while has_more_map:
            has_more_map = stream.read_exactly(_BLOCK)[504]
        end = stream.offset
        if header.type not in _WITHOUT_CONTENT:
            end += size + -size % _BLOCK
        if not header.isdir():
            yield Member(name, size, problem, partial(stream.read_exactly, size))
        stream.skip(end - stream.offset)
    if block + stream.read(_BLOCK) != bytes(2 * _BLOCK):
        raise OSError(f"no end marker (two blocks of zeros) before byte {stream.offset:,}")
    while rest := stream.read(_CHUNK):
        if rest.strip(b"\0"):
            raise OSError(f"something follows its end marker, before byte {stream.offset:,}")


def _parse_header(block: bytes, place: str) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, *_TEXT)
    except tarfile.HeaderError as error:
        raise OSError(f"{place} is damaged or cut: {error}") from error
    if header.size < 0:
        raise OSError(f"{place} is damaged: negative size")
    if block[257:265] == tarfile.GNU_MAGIC:  # GNU tar keeps times in the place of the prefix
        header.name = block[:100].partition(b"\0")[0].decode(*_TEXT)
    return header


def _parse_records(content: bytes, place: str) -> dict[str, str]:
    """The records of a pax header, each of which is ``LENGTH KEYWORD=VALUE\\n``."""
    records = {}
    content = content.rstrip(b"\0")
    start = 0
    while start < len(content):
        match = _RECORD.match(content, start)
        end = start + int(match[1]) if match else 0
        if not match or end <= match.end() or content[end - 1 : end] != b"\n":
            raise OSError(f"{place} is followed by damaged pax records")
        records[match[2].decode(*_TEXT)] = content[match.end() : end - 1].decode(*_TEXT)
        start = end
    if not re.fullmatch("[0-9]{1,20}", records.get("size", "0")):
        raise OSError(f"{place} is followed by a pax size that is not a number")
    return records


class _Stream:
    """Reads from chunks of bytes; ``offset`` is that of the next byte."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.offset = 0
        self._chunks = chunks
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Read ``size`` bytes or all that are left; takes no memory for bytes that are missing."""
        data = io.BytesIO()
        while size > 0 and (self._rest or self._next_chunk()):
            count = data.write(self._rest[:size])
            self._rest = self._rest[count:]
            self.offset += count
            size -= count
        return data.getvalue()

    def read_exactly(self, size: int) -> bytes:
        data = self.read(size)
        if len(data) < size:
            raise OSError(f"cut inside a member, at byte {self.offset:,}")
        return data

    def skip(self, size: int) -> None:
        while size > 0:
            size -= len(self.read_exactly(min(size, _CHUNK)))

    def _next_chunk(self) -> memoryview:
        self._rest = memoryview(next(self._chunks, b""))
        return self._rest


def _unpacked(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the bytes of an archive; raises OSError if its compression is damaged or cut."""
    data = file.read(_SMALL_CHUNK)
    name = next((name for magic, name in _MAGIC.items() if data.startswith(magic)), "")
    while data and not name:
        yield data
        data = file.read(_CHUNK)
    while data:  # there may be several streams, one after the other
        decompressor = _decompressor(name)
        while not decompressor.eof:
            try:
                unpacked = decompressor.decompress(data, _SMALL_CHUNK)
            except Exception as error:  # of zlib, bz2 or lzma
                raise OSError(f"its {name} stream is damaged: {error}") from error
            if unpacked:
                yield unpacked
            data = getattr(decompressor, "unconsumed_tail", b"")  # others keep it themselves
            if not unpacked and not data and not decompressor.eof:
                data = file.read(_SMALL_CHUNK)
                if not data:
                    raise OSError(f"its {name} stream is cut")
        data = decompressor.unused_data.lstrip(b"\0")  # streams may be padded
        while not data and (more := file.read(_SMALL_CHUNK)):
            data = more.lstrip(b"\0")


def _decompressor(name: str) -> Any:
    if name == "gzip":
        return zlib.decompressobj(wbits=31)
    if name == "bzip2":
        import bz2  # not every Python was built with bz2 and lzma

        return bz2.BZ2Decompressor()
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_XZ_MEMORY)
