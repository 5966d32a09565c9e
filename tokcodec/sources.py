"""What commands read: files, folders, globs, WebDataset tars, Parquet; local, or URLs for fsspec.

Listing reads no picture. A listing is a sequence of ``Batch``es: files together, or one tar, or a
range of a Parquet file; a batch can be read again at any time and gives the same records.
"""

import glob
import os
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from tokcodec.errors import DatasetError, without_credentials
from tokcodec.files import SUFFIX, find_files
from tokcodec.picture import extensions
from tokcodec.remote import (
    file_system,
    is_remote,
    open_input,
    read_bytes,
    reason_of,
    retried,
)
from tokcodec.tar import LINK, MAX_BYTES, members

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "picture")
_TAR = (".tar", ".tar.gz", ".tgz")
_PARQUET = ".parquet"
_COMPANIONS = (".cls", ".txt", ".json")
_MAX_COMPANION = 2**24  # bytes
_DECODED = (".png", ".jpg", ".webp")  # what decode writes
_MOST_KINDS = 8  # of what was skipped, by name
ABSENT = "absent"  # the mtime of what is not there

# By suffix, the members of a tar that belong together: the name, and the bytes, or why not.
_Sample = dict[str, tuple[str, bytes | str]]


@dataclass(frozen=True)
class Stamp:
    """Where an input lies, and what tells whether it has changed.

    Attributes:
        path: absolute, or a URL.
        size: in bytes.
        mtime: in nanoseconds; of remote ones the time, or the tag, that their store gives.
        base: the folder or URL that its source names; empty for what a list names.
        below: its path below that, or the name in the list.
    """

    path: str
    size: int
    mtime: str
    base: str
    below: str

    def __str__(self) -> str:
        if is_remote(self.path):
            return without_credentials(self.path)
        return str(Path(self.base, self.below))


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
        inputs = {*extensions(), SUFFIX, _PARQUET}
        counts = Counter({what: n for what, n in self.skipped.items() if what not in inputs})
        if not counts:
            return None
        most = counts.most_common(_MOST_KINDS)
        if others := counts.total() - sum(number for _, number in most):
            most.append(("others", others))
        kinds = ", ".join(f"{what} {number:,}" for what, number in most)
        return f"skipped in folders, {counts.total():,}: {kinds}"


@dataclass(frozen=True)
class Record:
    """One picture, or one token file. ``Codec.compress`` takes it as it is.

    Attributes:
        key: its name in a dataset.
        label: its class, if it has one.
        read: gives the bytes of its file; raises OSError where they cannot be had.
        stamp: of its file, or of the tar or Parquet file that it is in.
        member: its name in the tar, or its row; empty for a file.
        companions: further columns: ``txt`` and ``json`` beside a picture in a tar.
    """

    key: str
    label: str | None
    read: Callable[[], bytes]
    stamp: Stamp
    member: str = ""
    companions: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For messages: the path as it was given, or the URL; of a tar's member ``tar/member``."""
        return f"{self.stamp}/{self.member}" if self.member else str(self.stamp)

    @property
    def since(self) -> int | None:
        """When its file was written, in nanoseconds; None where that is not known."""
        known = self.stamp.mtime not in ("", ABSENT) and not is_remote(self.stamp.path)
        return int(self.stamp.mtime) if known else None

    @property
    def below(self) -> str:
        """The path below the source: ``dir/a.png``, ``some.tar/dir/a.png``, ``a.parquet/0``."""
        return f"{self.stamp.below}/{self.member}" if self.member else self.stamp.below


@dataclass(frozen=True)
class Files:
    """Files: keys and labels, and a stamp of each. ``max_bytes`` as of ``gather``."""

    keys: tuple[str, ...]
    labels: tuple[str | None, ...]
    stamps: tuple[Stamp, ...]
    max_bytes: int = MAX_BYTES

    def records(self) -> Iterator[Record]:
        for key, label, stamp in zip(self.keys, self.labels, self.stamps, strict=True):
            read = partial(read_bytes, stamp.path)
            if stamp.size > self.max_bytes:
                read = partial(_given, _too_large(stamp.size, self.max_bytes))
            yield Record(key, label, read, stamp)

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Tar:
    """A tar in WebDataset layout: members that share all up to the first dot of their name.

    It is read as a stream. ``kinds`` as of ``expand``, ``max_bytes`` as of ``gather``.
    """

    stamps: tuple[Stamp]
    name: str
    limit: int | None = None
    kinds: Set[str] | None = None
    max_bytes: int = MAX_BYTES

    def records(self) -> Iterator[Record]:
        return islice(self._all(), self.limit)

    def _all(self) -> Iterator[Record]:
        (stamp,) = self.stamps
        known = extensions() if self.kinds is None else self.kinds
        sample: _Sample = {}
        key = reason = ""
        held = 0  # bytes of the sample's pictures
        try:
            with open_input(stamp.path) as file:
                for member in members(file):
                    folder, name = posixpath.split(printable(member.name))
                    dot = name.find(".", 1)  # a leading dot begins no suffix
                    stem, suffix = (name, "") if dot < 0 else (name[:dot], name[dot:].lower())
                    is_companion = suffix in _COMPANIONS
                    if not (is_companion or "." + suffix.rpartition(".")[2] in known):
                        continue
                    own = posixpath.join(folder, stem)
                    if sample and (own != key or suffix in sample):
                        yield from _samples(key, sample, stamp)
                        sample, held = {}, 0
                    key = own
                    data: bytes | str
                    if member.problem:
                        data = member.problem
                    elif is_companion and member.size > _MAX_COMPANION:
                        data = f"{member.size:,} bytes, more than the limit of {_MAX_COMPANION:,}"
                    elif not is_companion and held + member.size > self.max_bytes:
                        data = "with the pictures of its key before it " if held else ""
                        data += _too_large(held + member.size, self.max_bytes)
                    else:
                        data = member.read()
                        held += 0 if is_companion else member.size
                    sample[suffix] = member.name, data
        except Exception as error:  # of the tar, or of a store behind fsspec
            reason = f"the rest of the tar: {reason_of(error)}"
        if sample:
            yield from _samples(key, sample, stamp)
        if reason:
            yield Record(self.name, None, partial(_given, reason), stamp)


@dataclass(frozen=True)
class Rows:
    """Rows ``start`` to ``stop`` of a Parquet file with a column of pictures.

    ``max_bytes`` as of ``gather``.
    """

    stamps: tuple[Stamp]
    name: str
    start: int
    stop: int
    label: str | None
    max_bytes: int = MAX_BYTES

    def records(self) -> Iterator[Record]:
        import pyarrow.parquet as pq

        (stamp,) = self.stamps
        row = self.start
        try:
            with open_input(stamp.path) as opened:
                file = pq.ParquetFile(opened)
                image = _image_column(stamp, file.schema_arrow)
                columns = [image, *([self.label] if self.label else [])]
                first = 0  # row of the group
                for group in range(file.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    if first >= self.stop:
                        break
                    if first + rows > row:
                        number = first
                        for batch in file.iter_batches(64, [group], columns):
                            for values in batch.to_pylist():
                                if number == row and row < self.stop:
                                    yield self._record(row, values, image)
                                    row += 1
                                number += 1
                    first += rows
            reason = "not in the file any more"
        except Exception as error:  # of pyarrow, or of a store behind fsspec
            reason = reason_of(error)
        for missing in range(row, self.stop):
            read = partial(_given, reason)
            yield Record(f"{self.name}/{missing}", None, read, stamp, str(missing))

    def _record(self, row: int, values: dict[str, Any], image: str) -> Record:
        key = f"{self.name}/{row}"
        data = value = values[image]
        if isinstance(value, dict):
            data, key = value["bytes"], value.get("path") or key
        own = values.get(self.label) if self.label else None
        label = None if own is None else str(own)
        if data is None:
            data = "no picture in this row"
        elif len(data) > self.max_bytes:
            data = _too_large(len(data), self.max_bytes)
        return Record(key, label, partial(_given, data), self.stamps[0], str(row))

    def __len__(self) -> int:
        return self.stop - self.start


Batch = Files | Tar | Rows


def list_inputs(
    sources: Sequence[str],
    listed: Sequence[str] = (),
    size: int | None = None,
    label: str | None = None,
    without: Sequence[Path] = (),
    max_bytes: int = MAX_BYTES,
    selection: Selection | None = None,
) -> list[Batch]:
    """All pictures of the sources, each file once, in a stable order: files, then tars and Parquet.

    Args:
        sources: folders, globs, picture files, tars and Parquet files, local or URLs for fsspec.
        listed: further picture files, by name; their keys are these names.
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
            stamp
            for stamp in expand(source, selection=selection)
            if stamp.path not in excluded
            and not stamp.path.startswith(tuple(path + "/" for path in excluded))
        ]
        if all(stamp.mtime == ABSENT for stamp in found):
            raise DatasetError(f"{source}: no such file, or no pictures in it")
        stamps += found
    for name in listed:
        if _is_container(name, None):
            raise DatasetError(f"{name}: lists hold pictures; give tars and Parquet as sources")
        stamps.append(_stamp(name, "", name))
    return gather(stamps, size, label, max_bytes=max_bytes)


def expand(
    source: str, kinds: Set[str] | None = None, selection: Selection | None = None
) -> Iterator[Stamp]:
    """Every file of a source, in a stable order; the plain path of a file even if it is not there.

    Hidden files, and pictures that decode has put beside their token files (``a.jpg.png``, where
    ``a.jpg.tok`` is), are only taken if they are named.

    Args:
        source: a folder, a glob, a file, a tar or a Parquet file, local or a URL for fsspec.
        kinds: lower-case extensions of the files that are looked for in folders and tars;
            pictures if None, and then Parquet files, too, as they hold pictures.
        selection: of them; also counts what was skipped.

    Raises:
        DatasetError: a store cannot be reached.
    """
    selection = selection or Selection()
    for stamp in _expand(source, kinds, selection):
        if selection.takes(stamp.below):
            yield stamp


def _expand(source: str, kinds: Set[str] | None, selection: Selection) -> Iterator[Stamp]:
    if is_remote(source):
        yield from _expand_remote(source, _known(kinds))
        return
    folder = Path(source)
    if folder.is_dir():
        known = _known(kinds) | set(_TAR)
        found = find_files(folder, known, selection.follow, selection.skipped)
    elif folder.exists() or not glob.has_magic(source):
        yield _stamp(source, str(folder.parent), folder.name)
        return
    else:
        folder = Path(*_fixed_parts(folder.parts))
        names = sorted(glob.glob(source, recursive=True))  # noqa: PTH207 (absolute patterns)
        others = () if kinds else (SUFFIX,)  # of which a glob means the pictures beside them
        found = (p for p in map(Path, names) if p.is_file() and p.suffix.lower() not in others)
    for path in found:
        if kinds is None and _is_decoded(path):
            selection.skipped["decoded pictures beside their token files"] += 1
        else:
            yield _stamp(str(path), str(folder), path.relative_to(folder).as_posix())


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
    """Whether a source is the path of a local file that is read as it is, there or not."""
    if is_remote(source) or _is_container(source, kinds) or Path(source).is_dir():
        return False
    return Path(source).exists() or not glob.has_magic(source)


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
        size: pictures of a batch of files, or of a range of a Parquet file; all if None.
        label: the label's column in Parquet files; ``label`` where there is one if None.
        kinds: see ``expand``.
        max_bytes: of a picture, or of all pictures of one key in a tar; larger ones fail unread,
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
        if stamp.path.lower().endswith(_TAR):
            batches.append(Tar((stamp,), key, None, kinds, max_bytes))
        elif _is_container(stamp.path, kinds):
            batches.extend(_ranges(stamp, key, size, label, max_bytes))
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
    local = [stamp for stamp in stamps if stamp.base and not is_remote(stamp.path)]
    if len({stamp.below for stamp in local}) == len(local):
        return stamps
    absolute = {base: os.path.abspath(base) for base in {stamp.base for stamp in local}}  # noqa: PTH100
    above = os.path.commonpath(absolute.values())
    given = above if any(map(os.path.isabs, absolute)) else os.path.relpath(above)
    moved = {base: PurePosixPath(os.path.relpath(path, above)) for base, path in absolute.items()}
    return [
        replace(stamp, base=given, below=str(moved[stamp.base] / stamp.below))
        if stamp.base in moved and not is_remote(stamp.path)
        else stamp
        for stamp in stamps
    ]


def count(batches: Iterable[Batch]) -> int | None:
    """The number of records; None where a tar's are not known before it is read."""
    counts = [None if isinstance(batch, Tar) else len(batch) for batch in batches]
    known = [number for number in counts if number is not None]
    return sum(known) if len(known) == len(counts) else None


def printable(name: str) -> str:
    """A name as Parquet can hold it: bytes that are no UTF-8 are written out."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _image_column(stamp: Stamp, schema: Any) -> str:
    """The column of a Parquet file that holds pictures: bytes, or ``{bytes, path}``.

    Raises:
        DatasetError: there is none.
    """
    import pyarrow as pa

    def holds_pictures(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            index = kind.get_field_index("bytes")
            return index >= 0 and holds_pictures(kind.field(index).type)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    fitting: list[str] = [f.name for f in schema if holds_pictures(f.type)]
    names: tuple[str, ...] = (*IMAGE_COLUMNS, *(fitting if len(fitting) == 1 else ()))
    for name in names:
        if name in fitting:
            return name
    raise DatasetError(
        f"{stamp}: no column of pictures (binary, or a struct with bytes) that stands out; "
        f"name it one of {', '.join(IMAGE_COLUMNS)}"
    )


def _samples(key: str, sample: _Sample, stamp: Stamp) -> Iterator[Record]:
    """The record of a sample; where it has several pictures, one for each, with its suffix. What
    should be beside a picture, and cannot be read, is a record, too."""

    def text(suffix: str) -> str | None:
        _, data = sample.get(suffix, ("", ""))
        return data.decode("utf-8", "replace") if isinstance(data, bytes) else None

    companions = {s[1:]: t for s in (".txt", ".json") if (t := text(s)) is not None}
    label = text(".cls")
    label = label.strip() if label is not None else None
    pictures = [suffix for suffix in sample if suffix not in _COMPANIONS]
    for suffix in pictures:
        own = key if len(pictures) == 1 else key + suffix
        member, data = sample[suffix]
        yield Record(own, label, partial(_given, data), stamp, member, companions)
    for suffix, (member, data) in sample.items():
        if suffix in _COMPANIONS and isinstance(data, str) and data != LINK:
            yield Record(key + suffix, None, partial(_given, data), stamp, member)
    if not pictures:
        member, _ = next(iter(sample.values()))
        read = partial(_given, "no picture under this key")
        yield Record(key, label, read, stamp, member, companions)


def _expand_remote(source: str, known: Set[str]) -> Iterator[Stamp]:
    def find() -> tuple[Any, str, dict[str, dict[str, Any]]]:
        system, path = file_system(source)
        if "*" in path or "[" in path:
            base = "/".join(_fixed_parts(tuple(path.split("/"))))
            return system, base, system.glob(path, detail=True)
        if system.isdir(path):
            base = path.rstrip("/")
            files = system.find(path, detail=True)
            shown = (name for name in files if "/." not in "/" + posixpath.relpath(name, base))
            return system, base, {name: files[name] for name in shown}
        base = posixpath.dirname(path)
        return system, base, {path: system.info(path)} if system.exists(path) else {}

    try:
        system, base, found = retried(find)
    except (OSError, ImportError, TypeError, ValueError) as error:
        raise DatasetError(f"{source}: cannot reach it: {reason_of(error)}") from error
    for name in sorted(found):
        if _fits(name, known):
            facts = found[name]
            marks = ("ETag", "etag", "mtime", "LastModified", "last_modified", "created")
            when = next((facts[mark] for mark in marks if mark in facts), "")
            below = posixpath.relpath(name, base) if base else name
            url = system.unstrip_protocol(name)
            size = int(facts.get("size") or 0)
            yield Stamp(url, size, str(when), source, without_credentials(below))


def _known(kinds: Set[str] | None) -> Set[str]:
    return extensions() | {_PARQUET} if kinds is None else kinds


def _is_container(path: str, kinds: Set[str] | None) -> bool:
    return path.lower().endswith((*_TAR, _PARQUET) if kinds is None else _TAR)


def _fits(name: str, known: Set[str]) -> bool:
    return name.lower().endswith(_TAR) or posixpath.splitext(name)[1].lower() in known


def _fixed_parts(parts: tuple[str, ...]) -> list[str]:
    fixed = []
    for part in parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return fixed


def _stamp(path: str, base: str, below: str) -> Stamp:
    """Of a local file, or of a listed URL; what is not there fails when it is read."""
    if is_remote(path):
        return Stamp(path, 0, "", base, without_credentials(below))
    absolute = str(Path(path).absolute())
    try:
        found = Path(path).stat()
        return Stamp(absolute, found.st_size, str(found.st_mtime_ns), base, below)
    except (OSError, ValueError):
        return Stamp(absolute, 0, ABSENT, base, below)


def _ranges(
    stamp: Stamp, name: str, size: int | None, label: str | None, max_bytes: int
) -> Iterator[Rows]:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DatasetError(
            f"{stamp}: Parquet needs pyarrow: pip install 'tokcodec[parquet]'"
        ) from error
    try:
        with open_input(stamp.path) as opened:
            file = pq.ParquetFile(opened)
            total, schema = file.metadata.num_rows, file.schema_arrow
    except Exception as error:  # of pyarrow, or of a store behind fsspec
        raise DatasetError(f"{stamp}: cannot read as Parquet: {reason_of(error)}") from error
    _image_column(stamp, schema)
    if label is not None and label not in schema.names:
        raise DatasetError(f"{stamp}: no column {label} for --label")
    column = label or ("label" if "label" in schema.names else None)
    size = size or max(1, total)
    for start in range(0, total, size):
        yield Rows((stamp,), name, start, min(start + size, total), column, max_bytes)


def _given(data: bytes | str) -> bytes:
    """The bytes, or an error with the text that says why there are none."""
    if isinstance(data, str):
        raise OSError(None, data)
    return data


def _too_large(size: int, limit: int) -> str:
    return f"{size:,} bytes, more than the limit of {limit:,} (--max-picture-bytes)"
