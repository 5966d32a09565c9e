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
TEMPORARY = ".tokcodec-"  # prefix of the names of files that are being written
_NOT_FOLDERS = {SUFFIX, ".txt", ".html", ".htm", ".json", ".csv", ".svg", ".safetensors"}
_STALE = 3600  # seconds after which a temporary file belongs to no process
_READER_SECONDS = 5.0  # to wait until a program opens a pipe for reading

Write = Callable[[IO[bytes]], object]  # fills a file


def is_stream(path: Path) -> bool:
    """Whether a path must be written to and not replaced: a device, a pipe, or a file that is open
    already (``/dev/stdout``)."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    is_open = str(path).startswith(("/dev/std", "/dev/fd/", "/proc/"))
    return is_open or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def same_file(one: str | Path, other: str | Path) -> bool:
    """Whether two paths lead to the same existing file, also through links."""
    try:
        return os.path.samefile(str(one), str(other))  # noqa: PTH121 (URLs, too)
    except (OSError, ValueError):
        return False


def refuse_remote(output: str | Path | None) -> None:
    """Raise ArgumentError for a URL, to which only ``tokenize`` and ``export`` write."""
    if output and re.match(r"\w+:/", str(output)):
        raise ArgumentError(f"{output} is a URL; name a path")


def refuse_file_name(folder: Path) -> None:
    """Raise ArgumentError if the folder does not exist and is named like a file."""
    if folder.suffix.lower() in _NOT_FOLDERS and not folder.exists():
        raise ArgumentError(f"{folder} is named like a file; name a folder")


def write_atomically(path: Path, write: Write, durable: bool = False) -> None:
    """Write a file that ``write`` fills; see ``writing``."""
    with writing(path, durable) as file:
        write(file)


@contextlib.contextmanager
def writing(path: Path, durable: bool = False, sync: bool = True) -> Iterator[IO[bytes]]:
    """Write a file so that it is either as it was or complete, whatever goes wrong in the block.

    A temporary file in the same folder replaces ``path`` when the block ends well, and gets the
    mode of the file that it replaces. The first write of a process to a folder removes stale
    temporary files there, see ``sweep``. A device or a pipe (``is_stream``) is written to at the
    end; it is an error if no program opens a pipe for reading within five seconds.

    Args:
        path: the file; missing parent folders are made.
        durable: sync the folder, too, without which a power cut may undo the renaming.
        sync: sync the file, without which a power cut may leave it empty. It takes milliseconds,
            too many for each of a million files.

    Raises:
        FullDiskError: no space is left.
        OutputError: the file system refused otherwise (no permission, a folder in the way).
    """
    if is_stream(path):
        with output_errors(path), tempfile.TemporaryFile() as whole:
            yield cast(IO[bytes], whole)
            whole.seek(0)
            with open(path, "ab", opener=_open_stream) as stream:
                shutil.copyfileobj(whole, stream)
        return
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

    It is opened for writing, as network file systems require for locks.

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
    """Raise errors of the file system as ``FullDiskError`` or ``OutputError``."""
    try:
        yield
    except OSError as error:
        reason = f"cannot write: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FullDiskError(f"{reason}; free some", name=path) from error
        raise OutputError(reason, name=path, hint=Hint.OTHER_OUTPUT) from error


def sweep(folder: Path, alone: bool = False) -> None:
    """Remove temporary files of killed processes: those not written to for an hour, or all if no
    other process writes to the folder (``alone``)."""
    for path in folder.glob(TEMPORARY + "*"):
        with contextlib.suppress(OSError):  # gone already, or someone else's
            if alone or time.time() - path.stat().st_mtime >= _STALE:
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
