"""The files that a source names: a folder, a glob or a file; local, or a URL for fsspec."""

import glob
import posixpath
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokcodec.errors import DatasetError, without_credentials
from tokcodec.io.remote import file_system, is_http, is_remote, reason_of, retried
from tokcodec.io.walk import find_files

ABSENT = "absent"  # the mtime of a file that is not there
_CHANGED = ("ETag", "etag", "mtime", "LastModified", "last_modified", "created")


@dataclass(frozen=True)
class Stamp:
    """Where a file is, and what shows whether it has changed.

    Attributes:
        path: absolute, or a URL.
        size: in bytes.
        mtime: in nanoseconds; of remote files the time, or the tag, that their store gives.
        base: the folder or URL that its source names; empty for a file of a list.
        below: its path below that, or the name in the list.
    """

    path: str
    size: int
    mtime: str
    base: str
    below: str

    def __str__(self) -> str:
        if self.is_remote:
            return without_credentials(self.path)
        return str(Path(self.base, self.below))

    @property
    def is_remote(self) -> bool:
        """Whether its path is a URL."""
        return is_remote(self.path)

    @property
    def folder(self) -> Path | None:
        """The folder that it is in; None of a URL."""
        return None if self.is_remote else Path(self.path).parent

    @property
    def written_at(self) -> int | None:
        """When it was written, in nanoseconds; None where that is not known."""
        known = self.mtime not in ("", ABSENT) and not self.is_remote
        return int(self.mtime) if known else None


def stamp_of(path: str, base: str, below: str) -> Stamp:
    """The stamp of a local file, or of a URL of a list, whose store is not asked. A file that is
    not there fails when it is read."""
    if is_remote(path):
        return Stamp(path, 0, "", base, without_credentials(below))
    absolute = str(Path(path).absolute())
    try:
        found = Path(path).stat()
        return Stamp(absolute, found.st_size, str(found.st_mtime_ns), base, below)
    except (OSError, ValueError):
        return Stamp(absolute, 0, ABSENT, base, below)


def is_one_file(source: str) -> bool:
    """Whether a source is the path of a local file, there or not."""
    if is_remote(source) or Path(source).is_dir():
        return False
    return Path(source).exists() or not glob.has_magic(source)


def find(
    source: str,
    endings: Set[str],
    follow: bool = False,
    skipped: Counter[str] | None = None,
    beside: tuple[str, ...] = (),
) -> Iterator[Stamp]:
    """The files of a source in a stable order; a single local file even if it is not there.

    Hidden files in folders are left out.

    Args:
        source: a folder, a glob or a file; a path or a URL.
        endings: of the lower-case names that are taken in local folders and at URLs.
        follow, skipped: see ``walk.find_files``.
        beside: further endings; for a local glob or file those of the files beside it, which differ
            from it in their extension.

    Raises:
        TokcodecError: a folder cannot be read, or a store cannot be reached (``DatasetError``).
    """
    path = Path(source)
    if is_remote(source):
        yield from _at_url(source, (*endings, *beside))
    elif is_one_file(source):
        yield stamp_of(source, str(path.parent), path.name)
        for file in _beside(path, beside):
            yield stamp_of(str(file), str(path.parent), file.name)
    else:
        found: Iterator[Path]
        if path.is_dir():
            base, found = path, find_files(path, {*endings, *beside}, follow, skipped)
        else:
            base = Path(*_fixed_parts(path.parts))
            names = sorted(glob.glob(source, recursive=True))  # noqa: PTH207 (absolute patterns)
            files = (file for file in map(Path, names) if file.is_file())
            found = (own for file in files for own in (file, *_beside(file, beside)))
        for file in found:
            yield stamp_of(str(file), str(base), file.relative_to(base).as_posix())


def _beside(file: Path, endings: tuple[str, ...]) -> list[Path]:
    others = [file.with_suffix(ending) for ending in endings if file.suffix != ending]
    return [other for other in others if other.is_file()]


def _at_url(source: str, endings: tuple[str, ...]) -> Iterator[Stamp]:
    def look() -> tuple[Any, str, dict[str, dict[str, Any]]]:
        system, path = file_system(source)
        if "*" in path or "[" in path:
            base = "/".join(_fixed_parts(tuple(path.split("/"))))
            return system, base, system.glob(path, detail=True)
        # A web server sends a whole file where it is asked for the links in a folder's page.
        if not (is_http(source) and _name(path).endswith(endings)) and system.isdir(path):
            base = path.rstrip("/")
            files = system.find(path, detail=True)
            shown = (name for name in files if "/." not in "/" + posixpath.relpath(name, base))
            return system, base, {name: files[name] for name in shown}
        base = posixpath.dirname(without_credentials(path))
        return system, base, {path: system.info(path)} if system.exists(path) else {}

    try:
        system, base, found = retried(look)
    except (OSError, ImportError, TypeError, ValueError) as error:
        raise DatasetError(f"cannot reach it: {reason_of(error)}", name=source) from error
    for name in sorted(found):
        if _name(name).endswith(endings):
            facts = found[name]
            changed = next((str(facts[mark]) for mark in _CHANGED if mark in facts), "")
            shown = without_credentials(name)
            below = posixpath.relpath(shown, without_credentials(base)) if base else shown
            url = system.unstrip_protocol(name)
            yield Stamp(url, int(facts.get("size") or 0), changed, source, below)


def _name(url: str) -> str:
    """A URL, or a path in a store, in lower case and without a query."""
    return without_credentials(url).lower()


def _fixed_parts(parts: tuple[str, ...]) -> list[str]:
    """The folders of a glob up to the first with a wildcard."""
    fixed = []
    for part in parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return fixed
