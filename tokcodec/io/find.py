"""Finds the files of a source: a folder, a glob or a file; local, or a URL for fsspec."""

import glob
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tokcodec.errors import DatasetError, without_credentials
from tokcodec.io.remote import file_system, is_http, is_remote, reason_of, retried
from tokcodec.io.walk import find_files

ABSENT = "absent"  # the mtime of a file that is not there
_MOST_NAMES, _MOST_BRACES = 1_000_000, 50  # of a name with braces
_NUMBERS = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.(-?\d{1,18}))?")
_LETTERS = re.compile(r"([a-zA-Z])\.\.([a-zA-Z])(?:\.\.(-?\d{1,18}))?")
_CHANGED = ("ETag", "etag", "mtime", "LastModified", "last_modified", "created")


@dataclass(frozen=True)
class Stamp:
    """The location of a file, and what shows whether it has changed.

    Attributes:
        path: its absolute path, or URL.
        size: its size in bytes.
        mtime: its time of modification in nanoseconds; for remote files the time or tag of the
            store.
        base: the folder or URL of its source; empty for a file of a list.
        below: its path below that, or its name in the list.
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
    def written_at(self) -> int | None:
        """When it was written, in nanoseconds; None if that is not known."""
        known = self.mtime not in ("", ABSENT) and not self.is_remote
        return int(self.mtime) if known else None


def stamp_of(path: str, base: str, below: str) -> Stamp:
    """The stamp of a local file, or of a URL in a list, for which no request is made. A missing
    file fails when it is read."""
    if is_remote(path):
        return Stamp(path, 0, "", base, without_credentials(below))
    absolute = str(Path(path).absolute())
    try:
        found = Path(path).stat()
        return Stamp(absolute, found.st_size, str(found.st_mtime_ns), base, below)
    except (OSError, ValueError):
        return Stamp(absolute, 0, ABSENT, base, below)


def is_one_file(source: str) -> bool:
    """Whether a source is the path of one local file, which need not exist."""
    if is_remote(source) or os.path.isdir(source):  # noqa: PTH112 (False if it is too long)
        return False
    return _exists(source) or not (glob.has_magic(source) or next(_expanded(source)) != source)


def expand_braces(source: str) -> list[str]:
    """Expand the braces of a source as bash does, unless a local file or folder has that name.

    Raises:
        DatasetError: there are more than a million names, or too many braces.

    >>> expand_braces("s3://bucket/{train,val}-{08..10}.tar")[:4]
    ['s3://bucket/train-08.tar', 's3://bucket/train-09.tar', 's3://bucket/train-10.tar', \
's3://bucket/val-08.tar']
    """
    if _exists(source):
        return [source]
    too_many = source.count("{") > _MOST_BRACES
    names = [] if too_many else list(islice(_expanded(source), _MOST_NAMES + 1))
    if too_many or len(names) > _MOST_NAMES:
        raise DatasetError(f"its braces name more than {_MOST_NAMES:,} files", name=source)
    return names


def _exists(source: str) -> bool:
    """Whether a source is an existing local path; False if it is too long for one."""
    return not is_remote(source) and os.path.exists(source)  # noqa: PTH110


def _expanded(text: str) -> Iterator[str]:
    braces = [place for place, character in enumerate(text) if character == "{"]
    for start in braces if len(braces) <= _MOST_BRACES else ():
        parts = _alternatives(text[start:])
        inner = text[start + 1 : start + 1 + len(",".join(parts))]
        options: Iterator[str] | None
        if len(parts) > 1:
            options = (option for part in parts for option in _expanded(part))
        else:
            options = _range(inner)
        if options is None:
            continue
        for option in options:
            for rest in _expanded(text[start + len(inner) + 2 :]):
                yield text[:start] + option + rest
        return
    yield text


def _alternatives(text: str) -> list[str]:
    """The content of the braces that a text begins with, split at the commas outside of inner
    braces; empty if the first brace is not closed."""
    depth, begin, parts = 0, 1, []
    for place, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if character in ",}" and depth == (character == ","):
            parts.append(text[begin:place])
            begin = place + 1
        if not depth:
            return parts
    return []


def _range(text: str) -> Iterator[str] | None:
    """The numbers or letters from one to another: ``000..099``, ``1..9..2``, ``a..e``."""
    if not (match := _NUMBERS.fullmatch(text) or _LETTERS.fullmatch(text)):
        return None
    first, last, step = match.groups()
    is_number = match.re is _NUMBERS
    begin, end = (int(first), int(last)) if is_number else (ord(first), ord(last))
    sign = 1 if begin <= end else -1
    values = range(begin, end + sign, sign * (abs(int(step or 1)) or 1))
    if not is_number:
        return map(chr, values)
    padded = any(re.match("-?0.", number) for number in (first, last))
    width = max(len(first), len(last)) if padded else 0
    return (f"{value:0{width}}" for value in values)


def find(
    source: str,
    endings: Set[str],
    follow: bool = False,
    skipped: Counter[str] | None = None,
    beside: tuple[str, ...] = (),
) -> Iterator[Stamp]:
    """Find the files of a source in a stable order; a single local file even if it is missing.

    Hidden files in folders are left out.

    Args:
        source: a folder, a glob or a file; a path or a URL.
        endings: endings, in lower case, of the files to take in local folders and at URLs.
        follow, skipped: see ``walk.find_files``.
        beside: further endings; next to a local file, or the files of a glob, these are taken if
            they have the same name up to the extension.

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
        # If asked whether a file is a folder, a web server sends the whole file.
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
    """A URL or a path in a store, in lower case and without a query."""
    return without_credentials(url).lower()


def _fixed_parts(parts: tuple[str, ...]) -> list[str]:
    """The folders of a glob up to the first with a wildcard."""
    fixed = []
    for part in parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return fixed
