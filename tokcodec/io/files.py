"""Files on disk: found in a stable order, and written so that a reader never sees half of one."""

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Set
from functools import cache
from pathlib import Path
from typing import IO

from tokcodec.errors import ArgumentError, FullDiskError, Hint, OutputError, TokcodecError

SUFFIX = ".tok"  # of token files
TEMPORARY = ".tokcodec-"  # how names of files begin that are being written
_STALE = 3600  # seconds after which a temporary file belongs to no process

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
            raise TokcodecError(f"cannot read: {error.strerror}", name=folder) from error
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
    stat.S_IFDIR: "links to folders",
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
    """Whether two paths, also by links, lead to one existing file."""
    try:
        return os.path.samefile(str(one), str(other))  # noqa: PTH121 (URLs, too)
    except (OSError, ValueError):
        return False


def refuse_remote(output: str | Path | None) -> None:
    """
    Raises:
        ArgumentError: it is a URL, to which only ``tokenize`` writes.
    """
    if output and re.match(r"\w+:/", str(output)):
        raise ArgumentError(f"{output} is a URL; name a path")


def write_atomically(path: Path, write: Write, durable: bool = False) -> None:
    """Writes a file so that it is either as it was or whole, whatever goes wrong.

    What goes to a device or a pipe (``is_stream``) goes there when it is whole.

    Args:
        path: the file; missing parent folders are made.
        write: fills it.
        durable: as of ``replacement``.

    Raises:
        FullDiskError, OutputError: as ``replacement``.
    """
    if not is_stream(path):
        with replacement(path, durable) as file:
            write(file)
        return
    with output_errors(path), tempfile.TemporaryFile() as whole:
        write(whole)
        whole.seek(0)
        with path.open("ab") as stream:
            shutil.copyfileobj(whole, stream)


@contextlib.contextmanager
def replacement(path: Path, durable: bool = False) -> Iterator[IO[bytes]]:
    """A temporary file in the same folder that replaces ``path`` when the block ends well.

    It gets the mode of the file that it replaces. The first write of a process to a folder removes
    the stale temporary files there, see ``sweep``.

    Args:
        path: the file; missing parent folders are made.
        durable: sync the folder, too, without which a power cut may take the name back.

    Raises:
        FullDiskError: no space is left.
        OutputError: the file system refused otherwise (no permission, a folder in the way).
    """
    temporary = path.with_name(TEMPORARY + secrets.token_hex(8))
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep_once(path.parent.absolute())
        try:
            with open(temporary, "xb", opener=_open_new) as file:
                with contextlib.suppress(FileNotFoundError):
                    os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            if durable:
                _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _open_new(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL | os.O_NOFOLLOW, 0o666)


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
