"""Files on disk: found in a stable order, and written so that a reader never sees half of one."""

import contextlib
import errno
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Set
from functools import cache
from pathlib import Path
from typing import IO

from tokcodec.errors import FullDiskError, OutputError, TokcodecError
from tokcodec.remote import is_remote, listed, reason_of

if sys.platform == "win32":
    raise ImportError("tokcodec runs on Linux and macOS; on Windows, use it in WSL")
import fcntl  # for locks, which Windows has not

TEMPORARY = ".tokcodec-"  # how names of files begin that are being written


Write = Callable[[IO[bytes]], object]  # fills a file


def find_files(source: Path, extensions: Set[str]) -> Iterator[Path]:
    """The files below a folder whose lower-case extension is one of these, in sorted order.

    Links to folders are followed, into each folder once.

    Raises:
        TokcodecError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise TokcodecError(f"{error.filename}: cannot read: {error.strerror}") from error

    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(source, onerror=refuse, followlinks=True):
        found = os.stat(parent)  # noqa: PTH116 (of thousands)
        if (found.st_dev, found.st_ino) in seen:
            folders.clear()
            continue
        seen.add((found.st_dev, found.st_ino))
        folders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in extensions:  # noqa: PTH122 (of thousands)
                yield Path(parent, name)


def is_dataset(path: Path) -> bool:
    """Whether a path looks like a token dataset: a Parquet file, or a folder of shards.

    Raises:
        TokcodecError: a store cannot be reached.
    """
    if path.suffix == ".parquet":
        return True
    try:
        return bool((is_remote(path) or path.is_dir()) and listed(path, "part-*.parquet"))
    except OSError as error:
        raise TokcodecError(f"{path}: cannot reach it: {reason_of(error)}") from error


def write_atomically(
    path: Path, write: Write, durable: bool = False, index: tuple[Path, Write] | None = None
) -> None:
    """Lets ``write`` fill a temporary file beside ``path``, syncs it and renames it into place.

    Missing parent folders are made. Whatever goes wrong, ``path`` is either as it was or whole.
    Temporary files of killed processes, as ``sweep`` finds them, go with the first write of a
    process to their folder.

    Args:
        path: the file.
        write: fills it.
        durable: sync the folder, too, without which a power cut may take the name back.
        index: a file in the same folder that belongs to this one, and what fills it. It takes its
            place before this one does, while there is none: so where this one is, the two belong
            together, and where it is not, the work is to be done again.

    Raises:
        FullDiskError: no space is left.
        OutputError: the file system refused otherwise (no permission, a folder in the way).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep_once(path.parent.absolute())
        files = [*([index] if index else []), (path, write)]
        with contextlib.ExitStack() as stack:
            written = []
            for name, fill in files:
                file = stack.enter_context(_temporary(path.parent))
                fill(file)
                file.flush()
                os.fsync(file.fileno())
                written.append((Path(file.name), name))
            if index:
                path.unlink(missing_ok=True)
            for temporary, name in written:
                temporary.replace(name)
        if durable:
            _sync(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        kind, remedy = (FullDiskError, "free some") if full else (OutputError, "choose another -o")
        raise kind(f"{path}: cannot write: {reason}; {remedy}") from error


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[IO[bytes]]:
    """A file that is gone behind it unless it was renamed. A lock on it says that its process is
    there."""
    while True:
        path = folder / (TEMPORARY + secrets.token_hex(8))
        try:
            with path.open("xb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if not path.exists():  # a sweep came before the lock
                    continue
                yield file
                return
        finally:
            path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Removes the temporary files of processes that are gone: the locks on theirs are, too."""
    for path in folder.glob(TEMPORARY + "*"):
        # Another process may be as fast.
        with contextlib.suppress(FileNotFoundError, BlockingIOError), path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
