"""Writes files on disk so that a reader never sees half of one."""

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import IO, cast

from tokcodec.errors import ArgumentError, FullDiskError, Hint, OutputError

SUFFIX = ".tok"  # of token files
TEMPORARY = ".tokcodec-"  # how names of files begin that are being written
_NOT_FOLDERS = {SUFFIX, ".txt", ".html", ".htm", ".json", ".csv", ".svg", ".safetensors"}
_STALE = 3600  # seconds after which a temporary file belongs to no process
_READER_SECONDS = 5.0  # that a pipe is waited for until a program reads it

Write = Callable[[IO[bytes]], object]  # fills a file


def is_stream(path: Path) -> bool:
    """Whether what is written there is to go into what is there, and never to replace it: a device,
    a pipe, or what is open already (``/dev/stdout``), even if that is a file."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    is_open = str(path).startswith(("/dev/std", "/dev/fd/", "/proc/"))
    return is_open or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def same_file(one: str | Path, other: str | Path) -> bool:
    """Whether two paths, also by links, lead to one existing file."""
    try:
        return os.path.samefile(str(one), str(other))  # noqa: PTH121 (URLs, too)
    except (OSError, ValueError):
        return False


def refuse_remote(output: str | Path | None) -> None:
    """
    Raises:
        ArgumentError: it is a URL, to which only ``tokenize`` and ``export`` write.
    """
    if output and re.match(r"\w+:/", str(output)):
        raise ArgumentError(f"{output} is a URL; name a path")


def refuse_file_name(folder: Path) -> None:
    """
    Raises:
        ArgumentError: the folder is not there and would be called like a file.
    """
    if folder.suffix.lower() in _NOT_FOLDERS and not folder.exists():
        raise ArgumentError(f"{folder} is named like a file; name a folder")


def write_atomically(path: Path, write: Write, durable: bool = False) -> None:
    """Writes a file that ``write`` fills; see ``writing``."""
    with writing(path, durable) as file:
        write(file)


@contextlib.contextmanager
def writing(path: Path, durable: bool = False, sync: bool = True) -> Iterator[IO[bytes]]:
    """Writes a file so that it is either as it was or whole, whatever goes wrong in the block.

    What goes to a device or a pipe (``is_stream``) goes there when it is whole. A pipe that no
    program opens for reading within five seconds is an error.

    Args:
        path: the file; missing parent folders are made.
        durable, sync: as of ``replacement``.

    Raises:
        FullDiskError, OutputError: as ``replacement``.
    """
    if not is_stream(path):
        with replacement(path, durable, sync) as file:
            yield file
        return
    with output_errors(path), tempfile.TemporaryFile() as whole:
        yield cast(IO[bytes], whole)
        whole.seek(0)
        with open(path, "ab", opener=_open_stream) as stream:
            shutil.copyfileobj(whole, stream)


@contextlib.contextmanager
def replacement(path: Path, durable: bool = False, sync: bool = True) -> Iterator[IO[bytes]]:
    """A temporary file in the same folder that replaces ``path`` when the block ends well.

    It gets the mode of the file that it replaces. The first write of a process to a folder removes
    the stale temporary files there, see ``sweep``.

    Args:
        path: the file; missing parent folders are made.
        durable: sync the folder, too, without which a power cut may take the name back.
        sync: sync the file, without which a power cut may leave it empty. Takes milliseconds, too
            many for each of a million files.

    Raises:
        FullDiskError: no space is left.
        OutputError: the file system refused otherwise (no permission, a folder in the way).
    """
    temporary = path.with_name(TEMPORARY + secrets.token_hex(8))
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep_once(path.parent.absolute())
        try:
            with open(temporary, "xb", opener=_open_regular) as file:
                with contextlib.suppress(FileNotFoundError):
                    os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
                yield file
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            temporary.replace(path)
            if durable:
                _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def open_lock(path: Path) -> IO[bytes]:
    """Open a lock file, and create it if it is missing.

    It is opened for writing, which network file systems require of locks.

    Raises:
        OSError: the path is a link or not a regular file, or cannot be opened.
    """
    return open(path, "ab", opener=_open_regular)


def _open_regular(path: str, flags: int) -> int:
    # Others may be able to write to the folder: follow no link, and wait for no pipe.
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
    else:
        if stat.S_ISREG(os.fstat(file).st_mode):
            return file
        os.close(file)
    raise OSError(errno.EINVAL, f"{Path(path).name} is a link or not a regular file")


def _open_stream(path: str, flags: int) -> int:
    if not Path(path).is_fifo():
        return os.open(path, flags)
    end = time.monotonic() + _READER_SECONDS
    while True:
        try:
            file = os.open(path, flags | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > end:
                raise OSError(errno.ENXIO, "no program reads from this pipe") from error
            time.sleep(0.05)
        else:
            os.set_blocking(file, True)
            return file


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turns errors of the file system into ``FullDiskError`` and ``OutputError``."""
    try:
        yield
    except OSError as error:
        reason = f"cannot write: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FullDiskError(f"{reason}; free some", name=path) from error
        raise OutputError(reason, name=path, hint=Hint.OTHER_OUTPUT) from error


def sweep(folder: Path, older_than: float = _STALE) -> None:
    """Removes the temporary files of killed processes: those not written to for an hour, or for as
    many seconds as are given."""
    for path in folder.glob(TEMPORARY + "*"):
        with contextlib.suppress(OSError):  # gone already, or someone else's
            if time.time() - path.stat().st_mtime >= older_than:
                path.unlink()


@cache
def _sweep_once(folder: Path) -> None:
    sweep(folder)


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
