"""Files on disk: found in a stable order, and written so that a reader never sees half of one."""

import contextlib
import errno
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Set
from functools import cache
from pathlib import Path
from typing import IO

from tokcodec.errors import WINDOWS, FullDiskError, OutputError, TokcodecError
from tokcodec.io.remote import is_remote, listed, reason_of

if sys.platform == "win32":
    raise ImportError(WINDOWS)
import fcntl  # for locks, which Windows has not

SUFFIX = ".tok"  # of token files
TEMPORARY = ".tokcodec-"  # how names of files begin that are being written


Write = Callable[[IO[bytes]], object]  # fills a file


def find_files(
    source: Path,
    extensions: Set[str],
    follow: bool = False,
    skipped: Counter[str] | None = None,
) -> Iterator[Path]:
    """The files below a folder whose lower-case names end in one of these, in a stable order: those
    of a folder before those of its folders, both sorted.

    Hidden files and folders are left out. A link to a file is a file.

    Args:
        source: the folder.
        extensions: with their dots.
        follow: into links to folders, too, each folder once.
        skipped: counts what else lies there, by extension or kind.

    Raises:
        TokcodecError: a folder cannot be read.
    """
    skipped = Counter() if skipped is None else skipped
    endings = tuple(extensions)
    seen: set[tuple[int, int]] = set()
    todo = [str(source)]
    while todo:
        folder = todo.pop()
        try:
            found = os.stat(folder)  # noqa: PTH116 (of thousands)
            with os.scandir(folder) as entries:
                shown = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            raise TokcodecError(f"{folder}: cannot read: {error.strerror}") from error
        if (found.st_dev, found.st_ino) in seen:
            continue
        seen.add((found.st_dev, found.st_ino))
        below = []
        for entry in sorted(shown, key=lambda entry: entry.name):
            kind = _kind(entry)
            if kind == stat.S_IFDIR and (follow or not entry.is_symlink()):
                below.append(entry.path)
            elif kind in _NO_FILES:
                skipped[_NO_FILES[kind]] += 1
            elif entry.name.lower().endswith(endings):
                yield Path(entry.path)
            else:
                skipped[os.path.splitext(entry.name)[1].lower() or "no extension"] += 1  # noqa: PTH122
        todo += reversed(below)


_NO_FILES = {
    stat.S_IFDIR: "links to folders (--follow)",
    stat.S_IFIFO: "pipes",
    stat.S_IFSOCK: "sockets",
    stat.S_IFCHR: "devices",
    stat.S_IFBLK: "devices",
}


def _kind(entry: "os.DirEntry[str]") -> int:
    """Of what it is, or of what a link leads to; nothing's where that cannot be told, as reading
    will say."""
    try:
        # What the folder says itself is asked first: to look at every file takes longer.
        if entry.is_file():
            return stat.S_IFREG
        return stat.S_IFDIR if entry.is_dir() else stat.S_IFMT(entry.stat().st_mode)
    except OSError:
        return 0


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
    """Whether two paths, also by links, lead to one file that is there."""
    try:
        return os.path.samefile(str(one), str(other))  # noqa: PTH121 (URLs, too)
    except (OSError, ValueError):
        return False


def is_dataset(path: Path) -> bool:
    """Whether a path looks like a token dataset: a Parquet file, or a folder of shards.

    Raises:
        TokcodecError: a store cannot be reached.
    """
    if path.suffix == ".parquet":
        return True
    try:
        return bool((is_remote(path) or path.is_dir()) and listed(path, "shard-*.parquet"))
    except OSError as error:
        raise TokcodecError(f"{path}: cannot reach it: {reason_of(error)}") from error


def write_atomically(
    path: Path, write: Write, durable: bool = False, index: tuple[Path, Write] | None = None
) -> None:
    """Lets ``write`` fill a temporary file beside ``path``, syncs it and renames it into place.
    To a device or a pipe (``is_stream``) it goes when it is whole.

    Missing parent folders are made. Whatever goes wrong, ``path`` is either as it was or whole;
    with an index it may be gone.
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
        if is_stream(path):
            with tempfile.TemporaryFile() as whole:
                write(whole)
                whole.seek(0)
                with path.open("ab") as stream:
                    shutil.copyfileobj(whole, stream)
            return
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
                with contextlib.suppress(OSError):  # some file systems know no locks
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
        # Locked, gone already, someone else's, or on a file system without locks: it stays.
        with contextlib.suppress(OSError), path.open("ab") as file:
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
