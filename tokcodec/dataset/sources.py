"""The inputs of a token dataset: folders, globs, lists, WebDataset tars, Parquet; local or remote.

Listing them reads no picture. A listing is a sequence of ``Batch``es: files together, or one tar,
or one range of a Parquet file; a batch can be read again at any time and gives the same records.
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
    """What tells whether an input has changed: where it lies, bytes, and nanoseconds of mtime.

    Remote inputs have the time, or the tag, that their store gives.
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
    limit: int | None = None

    def records(self) -> Iterator[Record]:
        return islice(self._all(), self.limit)

    def _all(self) -> Iterator[Record]:
        path = self.stamps[0].path
        known = extensions()
        sample: dict[str, bytes] = {}
        key = ""
        try:
            with open_input(path) as file, tarfile.open(fileobj=file, mode="r|*") as tar:
                for member in tar:
                    if not member.isfile():
                        continue
                    folder, name = posixpath.split(member.name)
                    stem, dot, rest = name.partition(".")
                    own = posixpath.join(folder, stem)
                    if own != key and sample:
                        yield _sample(key, sample)
                        sample = {}
                    key = own
                    suffix = (dot + rest).lower()
                    if suffix in _COMPANIONS or "." + suffix.rpartition(".")[2] in known:
                        opened = tar.extractfile(member)
                        sample[suffix] = opened.read() if opened else b""
                if sample:
                    yield _sample(key, sample)
        except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
            if sample:
                yield _sample(key, sample)
            reason = f"the rest of the tar: {error}"
            yield Record(posixpath.basename(path), None, partial(_present, None, reason))


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
                    if first + rows > row and first < self.stop:
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
    sources: Sequence[str], listed: Sequence[str], size: int, label: str | None
) -> list[Batch]:
    """Everything that the sources hold, in a stable order.

    Args:
        sources: folders, globs, picture files, tars and Parquet files, local or URLs for fsspec.
        listed: further picture files, by name; their keys are these names.
        size: pictures of a batch of files, or of a range of a Parquet file.
        label: the label's column in Parquet files; ``label`` where there is one if None.

    Raises:
        DatasetError: a source is not there or empty, or two pictures would have one key.
    """
    batches: list[Batch] = []
    files: list[tuple[str, str | None, Stamp]] = []
    for source in sources:
        found = list(_expand(source))
        if not found:
            raise DatasetError(f"{source}: no such file, or no pictures in it")
        for key, path in found:
            name = path.lower()
            if name.endswith(_TAR):
                batches.append(Tar((_stamp(path),)))
            elif name.endswith(_PARQUET):
                batches.extend(_ranges(path, key, size, label))
            else:
                folder, _, _ = key.partition("/")
                files.append((key, folder if folder != key else None, _stamp(path)))
    files.extend((name, None, _stamp(name)) for name in listed)
    seen: dict[str, str] = {}
    for key, _, stamp in files:
        other = seen.setdefault(key, stamp.path)
        if other != stamp.path:
            raise DatasetError(
                f"{other} and {stamp.path} would both have the key {key}; "
                "give the folder above them"
            )
    whole: list[Batch] = []
    for first in range(0, len(files), size):
        keys, labels, stamps = zip(*files[first : first + size], strict=True)
        whole.append(Files(keys, labels, stamps))
    return whole + batches


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
            return bool(kind.get_field_index("bytes") >= 0)
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


def _sample(key: str, members: dict[str, bytes]) -> Record:
    def text(suffix: str) -> str | None:
        return members[suffix].decode("utf-8", "replace") if suffix in members else None

    companions = {s[1:]: t for s in (".txt", ".json") if (t := text(s)) is not None}
    label = text(".cls")
    pictures = [suffix for suffix in members if suffix not in _COMPANIONS]
    data = members[pictures[0]] if pictures else None
    name = label.strip() if label is not None else None
    return Record(key, name, partial(_present, data, "no picture under this key"), companions)


def _row(name: str, values: dict[str, Any], image: str, label: str | None) -> Record:
    data = value = values[image]
    if isinstance(value, dict):
        data, name = value["bytes"], value.get("path") or name
    own = values.get(label) if label else None
    name_of_class = None if own is None else str(own)
    return Record(name, name_of_class, partial(_present, data, "no picture in this row"))


def _expand(source: str) -> Iterator[tuple[str, str]]:
    """Key and path of each file of a source."""
    if is_remote(source):
        yield from _expand_remote(source)
    elif Path(source).is_dir():
        for path in find_files(Path(source), extensions() | {".tgz", *_TAR, _PARQUET}):
            yield path.relative_to(source).as_posix(), str(path)
    elif Path(source).exists():
        yield Path(source).name, source
    elif glob.has_magic(source):
        fixed = Path(*_fixed_parts(Path(source).parts))
        for name in sorted(glob.glob(source, recursive=True)):  # noqa: PTH207 (absolute patterns)
            path = Path(name)
            if path.is_file():
                yield path.relative_to(fixed).as_posix(), name


def _expand_remote(source: str) -> Iterator[tuple[str, str]]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(source)
        protocol = source.partition("://")[0]
        if glob.has_magic(path):
            base = "/".join(_fixed_parts(tuple(path.split("/"))))
            names = sorted(system.glob(path))
        elif system.isdir(path):
            base = path.rstrip("/")
            names = sorted(system.find(path))
        else:
            base, names = posixpath.dirname(path), [path] if system.exists(path) else []
    except (OSError, ValueError, ImportError) as error:
        raise DatasetError(
            f"{source}: cannot reach it: {error} (pip install 'tokcodec[remote]' for remote paths)"
        ) from error
    known = extensions() | {*_TAR, _PARQUET}
    for name in names:
        if posixpath.splitext(name)[1].lower() in known or name.lower().endswith(_TAR):
            key = posixpath.relpath(name, base) if base else name
            yield key, f"{protocol}://{name}"


def _fixed_parts(parts: tuple[str, ...]) -> list[str]:
    fixed = []
    for part in parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return fixed


def _stamp(path: str) -> Stamp:
    try:
        if not is_remote(path):
            found = Path(path).stat()
            return Stamp(path, found.st_size, str(found.st_mtime_ns))
        import fsspec

        system, inner = fsspec.core.url_to_fs(path)
        facts = system.info(inner)
        when = next((facts[k] for k in ("ETag", "etag", "mtime", "LastModified") if k in facts), "")
        return Stamp(path, int(facts["size"] or 0), str(when))
    except FileNotFoundError:
        return Stamp(path, 0, "absent")  # read later, and then a failed row
    except OSError as error:
        raise DatasetError(f"{path}: cannot look at it: {error.strerror or error}") from error


def _ranges(path: str, name: str, size: int, label: str | None) -> Iterator[Rows]:
    import pyarrow as pa
    import pyarrow.parquet as pq

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
    stamp = _stamp(path)
    for start in range(0, total, size):
        yield Rows((stamp,), name, start, min(start + size, total), column)


def _read_file(path: str) -> bytes:
    with open_input(path) as file:
        return file.read()


def _present(data: bytes | None, otherwise: str) -> bytes:
    if data is None:
        raise FileNotFoundError(None, otherwise)
    return data
