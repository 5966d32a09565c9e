"""Lists the images of files, folders, globs, WebDataset tars and Parquet files, local or at URLs.

Listing does not read images. It returns batches: some files, one tar, or some rows of a Parquet
file. A batch can be read several times, and yields the same records each time.
"""

import glob
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tokcodec.errors import DatasetError, Hint
from tokcodec.inputs.parquet import PARQUET_SUFFIX, Rows, row_ranges
from tokcodec.inputs.records import TEXT_SUFFIXES, Files, printable
from tokcodec.inputs.webdataset import TAR_SUFFIXES, Tar
from tokcodec.io.files import SUFFIX
from tokcodec.io.find import ABSENT, Stamp, expand_braces, find, is_one_file, stamp_of
from tokcodec.io.imagefile import extensions
from tokcodec.io.read import MAX_BYTES, read_text
from tokcodec.io.remote import is_remote, reason_of

_DECODED = (".png", ".jpg", ".webp")  # what decode writes
_MOST_KINDS = 8  # of what was skipped, by name
_NO_TEXTS: Mapping[str, Any] = {}
Batch = Files | Tar | Rows


@dataclass
class Selection:
    """Selects files in folders, and counts the others.

    Attributes:
        include: globs, one of which must match the path below the source, if there are any. ``*``
            also matches ``/``.
        exclude: globs, none of which may match the path.
        follow: follow links to folders.
        skipped: the number of other files in folders, by extension or kind.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    follow: bool = False
    skipped: Counter[str] = field(default_factory=Counter)

    def takes(self, below: str, is_text: bool = False) -> bool:
        """Whether a path below the source is selected; ``include`` does not apply to texts."""

        def fits(globs: Sequence[str]) -> bool:
            return any(fnmatchcase(below, pattern) for pattern in globs)

        included = is_text or not self.include or fits(self.include)
        return included and not fits(self.exclude)

    def told(self) -> str | None:
        """One line about skipped files, except inputs of other commands; None if there are none."""
        inputs = {*extensions(), SUFFIX, PARQUET_SUFFIX}
        counts = Counter({what: n for what, n in self.skipped.items() if what not in inputs})
        if not counts:
            return None
        most = counts.most_common(_MOST_KINDS)
        if others := counts.total() - sum(number for _, number in most):
            most.append(("others", others))
        kinds = ", ".join(f"{what} ({number:,})" for what, number in most)
        return f"skipped in folders: {kinds}"


def list_inputs(
    sources: Sequence[str],
    listed: Sequence[str] = (),
    size: int | None = None,
    label: str | None = None,
    text_columns: Sequence[str] = (),
    without: Sequence[Path] = (),
    max_bytes: int = MAX_BYTES,
    selection: Selection | None = None,
    with_texts: bool = False,
) -> list[Batch]:
    """List all images of the sources in a stable order: files, then tars and Parquet files.

    A file of several sources is listed once.

    Args:
        sources: folders, globs, image files, tars and Parquet files, local or URLs for fsspec; with
            braces for several sources.
        listed: names of more image files; these names are their keys.
        size, label, text_columns, max_bytes: see ``gather``.
        without: files and folders of the output, whose Parquet files are not inputs.
        selection, with_texts: see ``expand``.

    Raises:
        DatasetError: a source does not exist, has no images, or cannot be listed; or an image is in
            a folder of the output.
    """
    selection = selection or Selection()
    stamps: list[Stamp] = []
    texts: dict[str, dict[str, Stamp]] = {}
    excluded = tuple(str(path.absolute()) for path in without)
    for source in (name for given in sources for name in expand_braces(given)):
        found = []
        for own in expand(source, selection=selection, with_texts=with_texts):
            if not own.path.startswith(tuple(path + "/" for path in excluded)):
                found += [own] if own.path not in excluded else []
            elif not own.path.lower().endswith((PARQUET_SUFFIX, *TEXT_SUFFIXES)):
                raise DatasetError(
                    "is an input in the folder of the output", name=own, hint=Hint.OTHER_OUTPUT
                )
        if with_texts and len(found) > 1:
            found = _apart_from_texts(found, texts, selection.skipped)
        if all(own.mtime == ABSENT for own in found):
            raise DatasetError(_why_empty(source), name=source)
        stamps += found
    for name in listed:
        if _is_container(name, None):
            raise DatasetError("lists hold images; give tars and Parquet as sources", name=name)
        stamps.append(stamp_of(name, "", name))
    return gather(stamps, size, label, text_columns, max_bytes=max_bytes, texts=texts)


def _apart_from_texts(
    found: Sequence[Stamp], texts: dict[str, dict[str, Stamp]], skipped: Counter[str]
) -> list[Stamp]:
    """The images among the files of a source. Texts are added to ``texts`` by the path of their
    image and by column; texts without an image are counted as skipped."""

    def is_text(stamp: Stamp) -> bool:
        return stamp.path.lower().endswith(TEXT_SUFFIXES)

    images = [stamp for stamp in found if not is_text(stamp)]
    if len(images) == len(found):
        return images
    by_stem: dict[str, list[str]] = {}
    for stamp in images:
        by_stem.setdefault(posixpath.splitext(stamp.path)[0], []).append(stamp.path)
    for stamp in filter(is_text, found):
        stem, suffix = posixpath.splitext(stamp.path)
        for path in by_stem.get(stem, ()):
            texts.setdefault(path, {}).setdefault(suffix[1:].lower(), stamp)
        if stem not in by_stem:
            skipped[suffix.lower()] += 1
    return images


def _why_empty(source: str) -> str:
    """Why a source has no images."""
    if is_remote(source):
        return "there are no images at this URL"
    if Path(source).is_dir():
        return "there are no images in this folder"
    if Path(source).exists():
        return "is part of the output"
    return "no file matches" if glob.has_magic(source) else "no such file or folder"


def read_list(file: str | Path | IO[bytes]) -> list[str]:
    """Read a list of names, one on each line of a text file; raises DatasetError if that fails."""
    try:
        text = read_text(file)
    except OSError as error:
        name = file if isinstance(file, str | Path) else "standard input"
        raise DatasetError(f"cannot read as text: {reason_of(error)}", name=name) from error
    return [line for line in (line.rstrip("\r") for line in text.split("\n")) if line]


def expand(
    source: str,
    kinds: Set[str] | None = None,
    selection: Selection | None = None,
    with_texts: bool = False,
) -> Iterator[Stamp]:
    """List the files of a source in a stable order.

    A single file is listed even if it is missing; reading it fails later. Hidden files in folders
    are left out, and so are images that ``decode`` wrote next to their token files (``a.jpg.png``
    next to ``a.jpg.tok``).

    Args:
        source: a folder, a glob, a file, a tar or a Parquet file; a path, or a URL for fsspec;
            ``{000..099}`` and ``{a,b}`` stand for several.
        kinds: extensions, in lower case, of the files to look for in folders and tars. If None,
            images, and Parquet files that hold images.
        selection: selects some of the files, and counts the others.
        with_texts: also list ``.txt`` and ``.json`` files in folders, and next to local images.

    Raises:
        DatasetError: a store cannot be reached.
    """
    selection = selection or Selection()
    alone = is_one_file(source)
    wanted = extensions() | {PARQUET_SUFFIX} if kinds is None else kinds
    beside = TEXT_SUFFIXES if with_texts else ()
    names = expand_braces(source)
    for found in chain.from_iterable(
        find(name, wanted | {*TAR_SUFFIXES}, selection.follow, selection.skipped, beside)
        for name in names
    ):
        if kinds is None and not alone:
            if found.path.lower().endswith(SUFFIX):
                continue  # a glob stands for the images next to token files
            if not found.is_remote and _is_decoded(Path(found.path)):
                selection.skipped["decoded images next to their token files"] += 1
                continue
        if selection.takes(found.below, found.path.lower().endswith(beside)):
            yield found


def _is_decoded(path: Path) -> bool:
    # It has two extensions: photo.png next to photo.tok may be the image that was encoded.
    extension = Path(path.stem).suffix.lower()
    return (
        extension != ""
        and extension in extensions()
        and path.suffix.lower() in _DECODED
        and path.with_suffix(SUFFIX).exists()
    )


def names_one_file(source: str, kinds: Set[str] | None = None) -> bool:
    """Whether a source is one local input, not a tar or Parquet file. It need not exist."""
    return is_one_file(source) and not _is_container(source, kinds)


def gather(
    stamps: Iterable[Stamp],
    size: int | None = None,
    label: str | None = None,
    text_columns: Sequence[str] = (),
    kinds: Set[str] | None = None,
    max_bytes: int = MAX_BYTES,
    texts: Mapping[str, Mapping[str, Stamp]] | None = None,
) -> list[Batch]:
    """Group files into batches: first plain files, then tars and Parquet files, each file once.

    Args:
        stamps: the files.
        size: the number of images in a batch of files or rows; all if None.
        label: the column of labels in Parquet files; if None, ``label`` if there is one.
        text_columns: further columns of Parquet files that become columns of the rows.
        kinds: see ``expand``.
        max_bytes: the most bytes of an image, or of all images of one key in a tar. Larger images
            fail, and are not read if their size is known before.
        texts: the texts next to images, by the path of the image and by column.

    Raises:
        DatasetError: a Parquet file cannot be read, or has no such columns.
    """
    batches: list[Batch] = []
    files: list[Stamp] = []
    once: dict[str, Stamp] = {}
    for stamp in stamps:
        once.setdefault(stamp.path, stamp)
    for stamp in _apart(list(once.values())):
        key = printable(stamp.below)
        if stamp.path.lower().endswith(TAR_SUFFIXES):
            batches.append(Tar((stamp,), key, None, kinds, max_bytes))
        elif _is_container(stamp.path, kinds):
            batches.extend(row_ranges(stamp, key, size, label, text_columns, max_bytes))
        else:
            files.append(stamp)
    whole: list[Batch] = []
    size = size or max(1, len(files))
    for first in range(0, len(files), size):
        found = tuple(files[first : first + size])
        beside = tuple((texts or _NO_TEXTS).get(stamp.path, _NO_TEXTS) for stamp in found)
        whole.append(Files(found, beside, max_bytes))
    return whole + batches


def _apart(stamps: list[Stamp]) -> list[Stamp]:
    """Give files different names.

    The name of a file is its path below its source. If two local files would have the same name,
    the names of all local files are their paths below the folder that holds all sources. Names from
    lists and URLs do not change.
    """
    local = [stamp for stamp in stamps if stamp.base and not stamp.is_remote]
    if len({stamp.below for stamp in local}) == len(local):
        return stamps
    absolute = {base: os.path.abspath(base) for base in {stamp.base for stamp in local}}  # noqa: PTH100
    above = os.path.commonpath(absolute.values())
    given = above if any(map(os.path.isabs, absolute)) else os.path.relpath(above)
    moved = {base: PurePosixPath(os.path.relpath(path, above)) for base, path in absolute.items()}
    return [
        replace(stamp, base=given, below=str(moved[stamp.base] / stamp.below))
        if stamp.base in moved and not stamp.is_remote
        else stamp
        for stamp in stamps
    ]


def count(batches: Iterable[Batch]) -> int | None:
    """The number of records; None if there are tars, which must be read to count them."""
    counts = [None if isinstance(batch, Tar) else len(batch) for batch in batches]
    known = [number for number in counts if number is not None]
    return sum(known) if len(known) == len(counts) else None


def _is_container(path: str, kinds: Set[str] | None) -> bool:
    return path.lower().endswith((*TAR_SUFFIXES, PARQUET_SUFFIX) if kinds is None else TAR_SUFFIXES)
