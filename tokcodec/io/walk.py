"""Lists the files of a folder on disk in a stable order."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Set
from pathlib import Path

from tokcodec.errors import TokcodecError


def find_files(
    source: Path,
    extensions: Set[str],
    follow: bool = False,
    skipped: Counter[str] | None = None,
) -> Iterator[Path]:
    """List the files below a folder that have one of these extensions, in a stable order.

    The files of a folder come before those of its subfolders; both are sorted by name. Hidden files
    and folders are left out. A link to a file counts as a file.

    Args:
        source: the folder.
        extensions: in lower case, with their dots.
        follow: follow links to folders; each folder is listed once.
        skipped: counts the other files, by extension or kind.

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
    """The type of a file or of the target of a link; 0 if unknown, so that reading fails later."""
    try:
        # The folder knows the types of most entries, which saves a call of stat for each.
        if entry.is_file():
            return stat.S_IFREG
        return stat.S_IFDIR if entry.is_dir() else stat.S_IFMT(entry.stat().st_mode)
    except OSError:
        return 0
