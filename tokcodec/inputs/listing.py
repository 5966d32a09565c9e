"""What commands read: files, folders, globs, WebDataset tars, Parquet; local, or URLs for fsspec.

Listing reads no image. A listing is a sequence of ``Batch``es: files together, or one tar, or a
range of a Parquet file; a batch can be read again at any time and gives the same records.
"""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO

from tokcodec.errors import DatasetError
from tokcodec.image import extensions
from tokcodec.inputs.parquet import PARQUET_SUFFIX, Rows, row_ranges
from tokcodec.inputs.records import ABSENT, Files, Stamp, printable
from tokcodec.inputs.webdataset import TAR_SUFFIXES, Tar
from tokcodec.io.files import SUFFIX
from tokcodec.io.find import find, is_one_file, stamp_of
from tokcodec.io.read import MAX_BYTES, read_text
from tokcodec.io.remote import is_remote, reason_of

_DECODED = (".png", ".jpg", ".webp")  # what decode writes
_MOST_KINDS = 8  # of what was skipped, by name
Batch = Files | Tar | Rows


@dataclass
class Selection:
    """Which files of the sources are taken, and what those lie among.

    Attributes:
        include: globs, one of which fits the path below the source if there are any; ``*`` goes
            across folders.
        exclude: globs, none of which does.
        follow: into links to folders, too.
        skipped: what else lies in folders, counted by extension or kind.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    follow: bool = False
    skipped: Counter[str] = field(default_factory=Counter)

    def takes(self, below: str) -> bool:
        def fits(globs: Sequence[str]) -> bool:
            return any(fnmatchcase(below, pattern) for pattern in globs)

        return (not self.include or fits(self.include)) and not fits(self.exclude)

    def told(self) -> str | None:
        """One line on what was skipped, but for what is an input, if of another command."""
        inputs = {*extensions(), SUFFIX, PARQUET_SUFFIX}
        counts = Counter({what: n for what, n in self.skipped.items() if what not in inputs})
        if not counts:
            return None
        most = counts.most_common(_MOST_KINDS)
        if others := counts.total() - sum(number for _, number in most):
            most.append(("others", others))
        kinds = ", ".join(f"{what} {number:,}" for what, number in most)
        return f"skipped in folders, {counts.total():,}: {kinds}"


def list_inputs(
    sources: Sequence[str],
    listed: Sequence[str] = (),
    size: int | None = None,
    label: str | None = None,
    without: Sequence[Path] = (),
    max_bytes: int = MAX_BYTES,
    selection: Selection | None = None,
) -> list[Batch]:
    """All images of the sources, each file once, in a stable order: files, then tars and Parquet.

    Args:
        sources: folders, globs, image files, tars and Parquet files, local or URLs for fsspec.
        listed: further image files, by name; their keys are these names.
        size, label, max_bytes: see ``gather``.
        without: files, and folders, that are no inputs wherever they lie.
        selection: see ``expand``.

    Raises:
        DatasetError: a source is not there or empty, or cannot be listed.
    """
    stamps: list[Stamp] = []
    excluded = tuple(str(path.absolute()) for path in without)
    for source in sources:
        found = [
            own
            for own in expand(source, selection=selection)
            if own.path not in excluded
            and not own.path.startswith(tuple(path + "/" for path in excluded))
        ]
        if all(own.mtime == ABSENT for own in found):
            raise DatasetError(_why_empty(source), name=source)
        stamps += found
    for name in listed:
        if _is_container(name, None):
            raise DatasetError("lists hold images; give tars and Parquet as sources", name=name)
        stamps.append(stamp_of(name, "", name))
    return gather(stamps, size, label, max_bytes=max_bytes)


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
    """The names that a text file lists, one on each line.

    Raises:
        DatasetError: it cannot be read as text, or is too large.
    """
    try:
        text = read_text(file)
    except OSError as error:
        name = file if isinstance(file, str | Path) else "standard input"
        raise DatasetError(f"cannot read as text: {reason_of(error)}", name=name) from error
    return [line for line in (line.rstrip("\r") for line in text.split("\n")) if line]


def expand(
    source: str, kinds: Set[str] | None = None, selection: Selection | None = None
) -> Iterator[Stamp]:
    """Every file of a source, in a stable order; the plain path of a file even if it is not there.

    Hidden files, and images that decode has put beside their token files (``a.jpg.png``, where
    ``a.jpg.tok`` is), are only taken if they are named.

    Args:
        source: a folder, a glob, a file, a tar or a Parquet file, local or a URL for fsspec.
        kinds: lower-case extensions of the files that are looked for in folders and tars;
            images if None, and then Parquet files, too, as they hold images.
        selection: of them; also counts what was skipped.

    Raises:
        DatasetError: a store cannot be reached.
    """
    selection = selection or Selection()
    alone = is_one_file(source)
    endings = {*(_image_endings() if kinds is None else kinds), *TAR_SUFFIXES}
    for found in find(source, endings, selection.follow, selection.skipped):
        if kinds is None and not alone:
            if found.path.lower().endswith(SUFFIX):
                continue  # a glob means the images next to token files
            if not found.is_remote and _is_decoded(Path(found.path)):
                selection.skipped["decoded images beside their token files"] += 1
                continue
        if selection.takes(found.below):
            yield found


def _image_endings() -> Set[str]:
    return extensions() | {PARQUET_SUFFIX}


def _is_decoded(path: Path) -> bool:
    # Two extensions: the photo.png beside a photo.tok may be what that was made of.
    extension = Path(path.stem).suffix.lower()
    return (
        extension != ""
        and extension in extensions()
        and path.suffix.lower() in _DECODED
        and path.with_suffix(SUFFIX).exists()
    )


def names_one_file(source: str, kinds: Set[str] | None = None) -> bool:
    """Whether a source is the path of a local file that holds one input, there or not."""
    return is_one_file(source) and not _is_container(source, kinds)


def gather(
    stamps: Iterable[Stamp],
    size: int | None = None,
    label: str | None = None,
    kinds: Set[str] | None = None,
    max_bytes: int = MAX_BYTES,
) -> list[Batch]:
    """Batches of files, each once; files first, then tars and Parquet files.

    Args:
        stamps: of the files.
        size: images of a batch of files, or of a range of a Parquet file; all if None.
        label: the label's column in Parquet files; ``label`` where there is one if None.
        kinds: see ``expand``.
        max_bytes: of an image, or of all images of one key in a tar; larger ones fail unread,
            where their size is known before.

    Raises:
        DatasetError: a Parquet file cannot be read, or has no such columns.
    """
    batches: list[Batch] = []
    files: list[tuple[str, str | None, Stamp]] = []
    once: dict[str, Stamp] = {}
    for stamp in stamps:
        once.setdefault(stamp.path, stamp)
    for stamp in _apart(list(once.values())):
        key = printable(stamp.below)
        if stamp.path.lower().endswith(TAR_SUFFIXES):
            batches.append(Tar((stamp,), key, None, kinds, max_bytes))
        elif _is_container(stamp.path, kinds):
            batches.extend(row_ranges(stamp, key, size, label, max_bytes))
        else:
            folder, _, _ = key.partition("/")
            files.append((key, folder if stamp.base and folder != key else None, stamp))
    whole: list[Batch] = []
    size = size or max(1, len(files))
    for first in range(0, len(files), size):
        keys, labels, found = zip(*files[first : first + size], strict=True)
        whole.append(Files(keys, labels, found, max_bytes))
    return whole + batches


def _apart(stamps: list[Stamp]) -> list[Stamp]:
    """The same, but where two have one name below their sources, all named below the folder above
    those.

    What lists name, and URLs, stay as they are.
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
    """The number of records; None where a tar's are not known before it is read."""
    counts = [None if isinstance(batch, Tar) else len(batch) for batch in batches]
    known = [number for number in counts if number is not None]
    return sum(known) if len(known) == len(counts) else None


def _is_container(path: str, kinds: Set[str] | None) -> bool:
    return path.lower().endswith((*TAR_SUFFIXES, PARQUET_SUFFIX) if kinds is None else TAR_SUFFIXES)
