"""Files on disk: found in a stable order, and written so that a reader never sees half of one."""

import os
import secrets
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import BinaryIO

from tokcodec.errors import OutputError, TokcodecError

TEMPORARY = ".tokcodec-"  # how names of files begin that are being written


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
    """Whether a path looks like a token dataset: a Parquet file, or a folder of shards."""
    return path.suffix == ".parquet" or (path.is_dir() and any(path.glob("part-*.parquet")))


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Lets ``write`` fill a temporary file beside ``path``, syncs it and renames it into place.

    Missing parent folders are made. Whatever goes wrong, ``path`` is either as it was or whole.

    Raises:
        OutputError: the file system refused (no space, no permission, a folder in the way).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(TEMPORARY + secrets.token_hex(8))
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{path}: cannot write: {reason}; choose another -o") from error
