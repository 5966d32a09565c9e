"""The inputs of a token dataset: folders, globs, lists, WebDataset tars, Parquet; local or remote.

Listing them reads no picture, but for a limit within tars. A listing is a sequence of ``Batch``es:
files together, or one tar, or one range of a Parquet file; a batch can be read again at any time
and gives the same records.
"""

import glob
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

from tokcodec.errors import DatasetError
from tokcodec.files import find_files
from tokcodec.picture import extensions

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "picture")
_TAR = (".tar", ".tar.gz", ".tgz")
_PARQUET = ".parquet"
_COMPANIONS = (".cls", ".txt", ".json")


@dataclass(frozen=True)
class Record:
    """One picture.

    Attributes:
        key: its name in the dataset.
        label: its class, if it has one.
        read: gives the bytes of its file; raises OSError where they cannot be had.
        companions: further columns: ``txt`` and ``json`` beside a picture in a tar.
    """

    key: str
    label: str | None
    read: Callable[[], bytes]
    companions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stamp:
    """Where an input lies, and what tells whether it has changed: bytes, nanoseconds of mtime.

    Local paths are absolute. Remote inputs have the time, or the tag, that their store gives.
    """

    path: str
    size: int
    mtime: str


@dataclass(frozen=True)
class Files:
    """Picture files: keys and labels, and a stamp of each."""

    keys: tuple[str, ...]
    labels: tuple[str | None, ...]
    stamps: tuple[Stamp, ...]

    def records(self) -> Iterator[Record]:
        for key, label, stamp in zip(self.keys, self.labels, self.stamps, strict=True):
            yield Record(key, label, partial(_read_file, stamp.path))

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Tar:
    """A tar in WebDataset layout: members that share all up to the first dot of their name."""

    stamps: tuple[Stamp]
    name: str
    limit: int | None = None

    def records(self) -> Iterator[Record]:
        return islice(self._all(), self.limit)

    def _all(self) -> Iterator[Record]:
        path = self.stamps[0].path
        known = extensions()
        sample: dict[str, bytes | None] = {}
        key = ""
        try:
            with open_input(path) as file, tarfile.open(fileobj=file, mode="r|*") as tar:
                for member in tar:
                    folder, name = posixpath.split(printable(member.name))
                    dot = name.find(".", 1)  # a leading dot begins no suffix
                    stem, suffix = (name, "") if dot < 0 else (name[:dot], name[dot:].lower())
                    is_picture = "." + suffix.rpartition(".")[2] in known
                    if member.isdir() or not (is_picture or suffix in _COMPANIONS):
                        continue
                    own = posixpath.join(folder, stem)
                    if sample and (own != key or suffix in sample):
                        yield from _samples(key, sample)
                        sample = {}
                    key = own
                    opened = tar.extractfile(member) if member.isreg() else None
                    sample[suffix] = opened.read() if opened else None
                if sample:
                    yield from _samples(key, sample)
        except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
            if sample:
                yield from _samples(key, sample)
            reason = f"the rest of the tar: {error}"
            yield Record(self.name, None, partial(_present, None, reason))


@dataclass(frozen=True)
class Rows:
    """Rows ``start`` to ``stop`` of a Parquet file with a column of pictures."""

    stamps: tuple[Stamp]
    name: str
    start: int
    stop: int
    label: str | None

    def records(self) -> Iterator[Record]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.stamps[0].path
        row = self.start
        try:
            with open_input(path) as opened:
                file = pq.ParquetFile(opened)
                image = image_column(path, file.schema_arrow)
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
                                    yield _row(f"{self.name}/{row}", values, image, self.label)
                                    row += 1
                                number += 1
                    first += rows
            reason = "not in the file any more"
        except (OSError, pa.ArrowException, DatasetError) as error:
            reason = str(error).splitlines()[0]
        for missing in range(row, self.stop):
            yield Record(f"{self.name}/{missing}", None, partial(_present, None, reason))

    def __len__(self) -> int:
        return self.stop - self.start


Batch = Files | Tar | Rows


def list_inputs(
    sources: Sequence[str],
    listed: Sequence[str],
    size: int,
    label: str | None,
    output: Path | None = None,
) -> list[Batch]:
    """Everything that the sources hold, each file once, in a stable order.

    Args:
        sources: folders, globs, picture files, tars and Parquet files, local or URLs for fsspec.
        listed: further picture files, by name; their keys are these names.
        size: pictures of a batch of files, or of a range of a Parquet file.
        label: the label's column in Parquet files; ``label`` where there is one if None.
        output: what is written, which is no input wherever it lies.

    Raises:
        DatasetError: a source is not there or empty, or two pictures would have one key.
    """
    batches: list[Batch] = []
    files: list[tuple[str, str | None, Stamp]] = []
    seen: dict[str, str] = {}

    def is_new(key: str, stamp: Stamp) -> bool:
        other = seen.setdefault(key, stamp.path)
        if other != stamp.path:
            raise DatasetError(
                f"{other} and {stamp.path} would both have the key {key}; "
                "give the folder above them"
            )
        return True

    taken: set[str] = set()
    written = tuple(str(path.absolute()) for path in (output, parts_of(output)) if output and path)
    for source in sources:
        found = [
            (key, stamp)
            for key, stamp in _expand(source)
            if stamp.path not in written
            and not stamp.path.startswith(tuple(path + "/" for path in written))
        ]
        if not found:
            raise DatasetError(f"{source}: no such file, or no pictures in it")
        for key, stamp in found:
            if stamp.path in taken:
                continue
            taken.add(stamp.path)
            key = printable(key)
            name = stamp.path.lower()
            if name.endswith(_TAR):
                batches.append(Tar((stamp,), key))
            elif name.endswith(_PARQUET) and is_new(key, stamp):
                batches.extend(_ranges(stamp, key, size, label))
            elif is_new(key, stamp):
                folder, _, _ = key.partition("/")
                files.append((key, folder if folder != key else None, stamp))
    for name in listed:
        if name.lower().endswith((*_TAR, _PARQUET)):
            raise DatasetError(f"{name}: lists hold pictures; give tars and Parquet as sources")
        stamp = _stamp(name)
        if stamp.path not in taken and is_new(printable(name), stamp):
            taken.add(stamp.path)
            files.append((printable(name), None, stamp))
    whole: list[Batch] = []
    for first in range(0, len(files), size):
        keys, labels, stamps = zip(*files[first : first + size], strict=True)
        whole.append(Files(keys, labels, stamps))
    return whole + batches


def parts_of(output: Path | None) -> Path | None:
    """The folder of the shards of an output: itself, or beside it where it is one file."""
    if output and output.suffix == _PARQUET:
        return output.with_name(output.name + ".parts")
    return output


def printable(name: str) -> str:
    """A name as Parquet can hold it: bytes that are no UTF-8 are written out."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def open_input(path: str) -> IO[bytes]:
    """Opens a local file or a URL for reading.

    Raises:
        OSError: it cannot be opened.
    """
    if not is_remote(path):
        return open(path, "rb")
    import fsspec

    opened: IO[bytes] = fsspec.open(path, "rb").open()
    return opened


def is_remote(path: str) -> bool:
    return "://" in path


def image_column(path: str, schema: Any) -> str:
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
        f"{path}: no column of pictures (binary, or a struct with bytes) that stands out; "
        f"name it one of {', '.join(IMAGE_COLUMNS)}"
    )


def _samples(key: str, members: dict[str, bytes | None]) -> Iterator[Record]:
    """The record of a sample; where it has several pictures, one for each, with its suffix."""

    def text(suffix: str) -> str | None:
        data = members.get(suffix)
        return data.decode("utf-8", "replace") if data is not None else None

    companions = {s[1:]: t for s in (".txt", ".json") if (t := text(s)) is not None}
    label = text(".cls")
    label = label.strip() if label is not None else None
    pictures = [suffix for suffix in members if suffix not in _COMPANIONS]
    for suffix in pictures:
        name = key if len(pictures) == 1 else key + suffix
        read = partial(_present, members[suffix], "a link in the tar, not a file")
        yield Record(name, label, read, companions)
    if not pictures:
        yield Record(key, label, partial(_present, None, "no picture under this key"), companions)


def _row(name: str, values: dict[str, Any], image: str, label: str | None) -> Record:
    data = value = values[image]
    if isinstance(value, dict):
        data, name = value["bytes"], value.get("path") or name
    own = values.get(label) if label else None
    name_of_class = None if own is None else str(own)
    return Record(name, name_of_class, partial(_present, data, "no picture in this row"))


def _expand(source: str) -> Iterator[tuple[str, Stamp]]:
    """Key and stamp of each file of a source."""
    if is_remote(source):
        yield from _expand_remote(source)
    elif Path(source).is_dir():
        for path in find_files(Path(source), extensions() | {".gz", ".tgz", ".tar", _PARQUET}):
            if path.suffix.lower() != ".gz" or path.name.lower().endswith(_TAR):
                yield path.relative_to(source).as_posix(), _stamp(str(path))
    elif Path(source).exists():
        yield Path(source).name, _stamp(source)
    elif glob.has_magic(source):
        fixed = Path(*_fixed_parts(Path(source).parts))
        for name in sorted(glob.glob(source, recursive=True)):  # noqa: PTH207 (absolute patterns)
            path = Path(name)
            if path.is_file():
                yield path.relative_to(fixed).as_posix(), _stamp(name)


def _expand_remote(source: str) -> Iterator[tuple[str, Stamp]]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(source)
        if "*" in path or "[" in path:
            base = "/".join(_fixed_parts(tuple(path.split("/"))))
            found = system.glob(path, detail=True)
        elif system.isdir(path):
            base = path.rstrip("/")
            found = system.find(path, detail=True)
        else:
            base = posixpath.dirname(path)
            found = {path: system.info(path)} if system.exists(path) else {}
    except Exception as error:
        # The many stores behind fsspec have many kinds of errors.
        raise DatasetError(
            f"{source}: cannot reach it: {str(error) or type(error).__name__} "
            "(remote paths may need the extra remote, and s3fs or gcsfs)"
        ) from error
    known = extensions() | {*_TAR, _PARQUET}
    for name in sorted(found):
        if posixpath.splitext(name)[1].lower() in known or name.lower().endswith(_TAR):
            facts = found[name]
            marks = ("ETag", "etag", "mtime", "LastModified", "last_modified", "created")
            when = next((facts[mark] for mark in marks if mark in facts), "")
            key = posixpath.relpath(name, base) if base else name
            url = system.unstrip_protocol(name)
            yield key, Stamp(url, int(facts.get("size") or 0), str(when))


def _fixed_parts(parts: tuple[str, ...]) -> list[str]:
    fixed = []
    for part in parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return fixed


def _stamp(path: str) -> Stamp:
    """Of a local file, or of a listed URL; what is not there is read later: a failed row."""
    if is_remote(path):
        return Stamp(path, 0, "")
    absolute = str(Path(path).absolute())
    try:
        found = Path(path).stat()
        return Stamp(absolute, found.st_size, str(found.st_mtime_ns))
    except (OSError, ValueError):
        return Stamp(absolute, 0, "absent")


def _ranges(stamp: Stamp, name: str, size: int, label: str | None) -> Iterator[Rows]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = stamp.path
    try:
        with open_input(path) as opened:
            file = pq.ParquetFile(opened)
            total, schema = file.metadata.num_rows, file.schema_arrow
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise DatasetError(f"{path}: cannot read as Parquet: {reason}") from error
    image_column(path, schema)
    if label is not None and label not in schema.names:
        raise DatasetError(f"{path}: no column {label} for --label")
    column = label or ("label" if "label" in schema.names else None)
    for start in range(0, total, size):
        yield Rows((stamp,), name, start, min(start + size, total), column)


def _read_file(path: str) -> bytes:
    try:
        with open_input(path) as file:
            return file.read()
    except OSError:
        raise
    except Exception as error:  # a store behind fsspec, or a name with a zero byte
        raise OSError(None, str(error) or type(error).__name__) from error


def _present(data: bytes | None, otherwise: str) -> bytes:
    if data is None:
        raise FileNotFoundError(None, otherwise)
    return data
