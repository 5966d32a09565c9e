"""Reads whole files, up to a limit of their size."""

from pathlib import Path
from typing import IO

MAX_BYTES = 2**28  # the default limit for an image or another file
_CHUNK = 2**20
_FREE_BYTES = 2**26  # that data of any file may take in memory
_MOST_EXPANDED = 100  # times its bytes in the file that larger data may take


class TooLargeError(OSError):
    """A file has more bytes than the limit."""


def check_size(size: int, limit: int) -> None:
    """Raise TooLargeError if ``size`` is above ``limit``."""
    if size > limit:
        raise TooLargeError(None, f"more than the limit of {limit:,} bytes")


def expands_too_far(expanded: int, stored: int) -> bool:
    """Whether data takes far more bytes in memory, ``expanded``, than in its file, ``stored``."""
    return expanded > max(_FREE_BYTES, _MOST_EXPANDED * stored)


def read_at_most(file: IO[bytes], limit: int = MAX_BYTES) -> bytes:
    """Read an open file to its end.

    Raises:
        OSError: it cannot be read.
        TooLargeError: it has more than ``limit`` bytes; the rest is not read.
    """
    parts, size = [], 0
    while part := file.read(min(_CHUNK, limit + 1 - size)):
        parts.append(part)
        size += len(part)
        check_size(size, limit)
    return b"".join(parts)


def read_file(path: str | Path, limit: int = MAX_BYTES) -> bytes:
    """Read a local file; raises as ``read_at_most``."""
    try:
        with Path(path).open("rb") as file:
            return read_at_most(file, limit)
    except ValueError as error:  # of a name with a zero byte
        raise OSError(None, str(error)) from error


def read_text(file: str | Path | IO[bytes], limit: int = MAX_BYTES) -> str:
    """Read a local or an open file as UTF-8, with or without a byte order mark.

    Raises:
        OSError: as ``read_at_most``; or it is not UTF-8.
    """
    data = read_file(file, limit) if isinstance(file, str | Path) else read_at_most(file, limit)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OSError(None, f"not UTF-8 text: byte {error.start:,} is no part of it") from error
