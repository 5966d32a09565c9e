"""Reads and writes at URLs, mainly object stores, through fsspec and universal_pathlib.

What fails for a while is tried again; final failures are an ``OSError`` of one line.
"""

import contextlib
import errno
import io
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeVar, cast
from urllib.parse import urlsplit

from tokcodec.errors import OutputError
from tokcodec.io.read import MAX_BYTES, TooLargeError, check_size, read_file

T = TypeVar("T")

_REMEDY = "URLs need pip install 'tokcodec[remote]', s3:// 'tokcodec[s3]', gs:// gcsfs"
_PAUSES = (0.2, 1.0, 4.0)  # seconds between tries; each times a half to one and a half
_SECONDS = 120.0  # the time limit for a whole answer of a web server
_SLOWEST = 1000  # the lowest rate for an archive in bytes per second, after _SECONDS of waiting
_MAX_PAGE = 2**24  # bytes of a page with links to files
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")
_FINAL = (
    FileExistsError,
    FileNotFoundError,
    ImportError,
    PermissionError,
    TooLargeError,
    TypeError,
    ValueError,
)


def is_remote(path: str | Path) -> bool:
    return "://" in str(path)


def location(name: str) -> Path:
    """The path, or for a URL an object that behaves like one.

    Raises:
        OutputError: the URL is invalid, or the package for such URLs is not installed.
    """
    if not is_remote(name):
        return Path(name)
    try:
        from upath import UPath

        urlsplit(name)  # raises now what UPath would raise later
        return cast(Path, UPath(name, **_options(name)))
    except (ImportError, ValueError) as error:
        raise OutputError(f"{name}: {reason_of(error)}") from error


def file_system(url: str, timed: bool = True) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it.

    Args:
        url: the URL.
        timed: limit the answer of a web server to ``_SECONDS``; False if it may take hours.
    """
    import fsspec

    return cast(tuple[Any, str], fsspec.core.url_to_fs(url, **_options(url, timed)))


def is_http(url: str) -> bool:
    """Whether a URL is of a web server, whose answers are less reliable than those of a store."""
    return url.lower().startswith(("http://", "https://"))


def _options(url: str, timed: bool = True) -> dict[str, Any]:
    # A second look must see what was written since the first.
    options: dict[str, Any] = {"use_listings_cache": False}
    if is_http(url):
        import aiohttp

        timeout = aiohttp.ClientTimeout(
            total=_SECONDS if timed else None, sock_connect=10, sock_read=30
        )
        options["client_kwargs"] = {"timeout": timeout, "response_class": _bounded_response()}
    elif url.startswith("s3"):
        # s3fs retries by itself, and so do we; retries of botocore within those are too many.
        options["config_kwargs"] = {"retries": {"total_max_attempts": 1}}
    return options


@cache  # one class, so that fsspec shares one session for equal options
def _bounded_response() -> type:
    """An aiohttp response that reads no more than fsspec asked for, even if a server ignores the
    range. Requests without a range are for pages with links to files."""
    import aiohttp

    class Response(aiohttp.ClientResponse):
        async def read(self) -> bytes:
            if self._body is None:
                asked = _RANGE.fullmatch(self.request_info.headers.get("Range", ""))
                limit = int(asked[2]) - int(asked[1]) + 1 if asked else _MAX_PAGE
                data = bytearray()
                async for part in self.content.iter_any():
                    data += part
                    if len(data) > limit:
                        self.close()
                        if not asked:
                            raise ValueError(f"a page of more than {limit:,} bytes")
                        break
                self._body = bytes(data[:limit])
            return self._body

    return Response


def retried(act: Callable[[], T]) -> T:
    """Return the result of ``act``, which is tried up to four times; raises OSError if all fail."""
    for pause in (*_PAUSES, None):
        try:
            return act()
        except Exception as error:  # the many stores behind fsspec have many kinds of errors
            # s3fs raises EINVAL if the condition of a request does not hold.
            invalid = isinstance(error, OSError) and error.errno == errno.EINVAL
            if pause is None or invalid or isinstance(error, _FINAL):
                if isinstance(error, OSError) and error.strerror:
                    raise
                kind = type(error) if isinstance(error, FileNotFoundError) else OSError
                raise kind(None, reason_of(error)) from error
            time.sleep(pause * (0.5 + random.random()))
    raise AssertionError


def reason_of(error: BaseException) -> str:
    """The reason of an error in one line; for a missing package also what to install."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        reason = "no answer, or not all of it, in time"
    elif isinstance(error, FileNotFoundError):
        reason = "not found"
    line = str(reason).splitlines()[0]
    return f"{line}; {_REMEDY}" if isinstance(error, ImportError) else line


def read_bytes(path: str, limit: int = MAX_BYTES) -> bytes:
    """The bytes of a local file, or of a URL.

    Raises:
        OSError: they cannot be read.
        TooLargeError: there are more than ``limit``.
    """
    if not is_remote(path):
        return read_file(path, limit)

    def get() -> bytes:
        system, name = file_system(path)
        data = cast(bytes, system.cat_file(name, start=0, end=limit + 1))
        check_size(len(data), limit)
        return data

    return retried(get)


def open_input(path: str | Path) -> IO[bytes]:
    """Open a local file or a URL for reading; raises OSError if that fails."""
    return cast(IO[bytes], _Resumed(str(path))) if is_remote(path) else open(path, "rb")


class _Resumed(io.RawIOBase):
    """A remote file that is opened again at the same position when reading fails."""

    def __init__(self, path: str) -> None:
        self._path, self._at = path, 0
        self._received, self._waited = 0, 0.0  # bytes, and seconds
        self._file: Any = None
        self._ends: int | None = getattr(retried(self._opened), "size", None)

    def _opened(self) -> Any:
        if self._file is None:
            system, name = file_system(self._path, timed=False)
            self._file = system.open(name, "rb")
            try:
                self._file.seek(self._at)
            except ValueError:  # a stream, which only goes forward
                left = self._at
                while left and (skipped := self._file.read(min(left, 1 << 20))):
                    left -= len(skipped)
        return self._file

    def readinto(self, buffer: Any) -> int:
        def attempt() -> bytes:
            try:
                return cast(bytes, self._opened().read(len(buffer)))
            except Exception:
                self._forget()
                raise

        begun = time.monotonic()
        data = retried(attempt)
        self._waited += time.monotonic() - begun
        self._received += len(data)
        if self._waited > max(_SECONDS, self._received / _SLOWEST):
            raise OSError(None, f"comes slower than {_SLOWEST:,} bytes/s")
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._ends}[whence]
        if base is None:
            raise OSError(None, "the server does not tell its size")
        if base + offset != self._at:
            self._at = base + offset
            try:
                self._opened().seek(self._at)
            except ValueError:
                self._forget()
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._forget()
        super().close()

    def _forget(self) -> None:
        file, self._file = self._file, None
        with contextlib.suppress(Exception):  # of a connection that is broken
            if file is not None:
                file.close()


def is_file(url: str) -> bool:
    """Whether there is a file at a URL; raises OSError if the store does not answer."""

    def look() -> bool:
        system, name = file_system(url)
        try:
            return bool(system.info(name)["type"] != "directory")
        except FileNotFoundError:
            return False

    return retried(look)


@contextlib.contextmanager
def uploading(path: Path) -> Iterator[IO[bytes]]:
    """A temporary file that is uploaded when the block ends well: completely or not at all.

    An existing object is not replaced if the store supports conditional requests, as S3 does. If it
    has the same bytes, that counts as success: it may be from an earlier try.

    Raises:
        OutputError: the store refused, or holds another object of that name.
    """
    with tempfile.NamedTemporaryFile() as file:
        yield cast(IO[bytes], file)
        file.flush()

        def send() -> None:
            system, name = file_system(str(path))
            system.put_file(file.name, name, mode="create")

        try:
            retried(send)
        except OSError as error:
            try:
                same = retried(path.read_bytes) == Path(file.name).read_bytes()
            except OSError:
                raise OutputError(f"{path}: cannot write: {reason_of(error)}") from error
            if not same:
                raise OutputError(f"{path}: already exists, from another run") from error
