"""Records: the images, token files and texts that every kind of source holds."""

import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from tokcodec.io.find import Stamp
from tokcodec.io.read import MAX_BYTES
from tokcodec.io.remote import read_bytes

TEXT_SUFFIXES = (".txt", ".json")  # of files next to an image that become columns of its row
MAX_TEXT = 2**24  # bytes


@dataclass(frozen=True)
class Record:
    """One image, one token file, or one text. ``Codec.compress`` takes the record of an image.

    Attributes:
        key: its name in a dataset.
        label: its class, if it has one.
        read: returns the bytes of its file; raises OSError if they cannot be read.
        stamp: the stamp of its file, or of the tar or Parquet file that it is in.
        member: its name in the tar, or its row; empty for a file.
        texts: further columns of its row, by name: ``txt`` and ``json`` beside an image, or columns
            of a Parquet file. The key of a text names it if reading fails.
        size: bytes of the source since the record before, for progress.
    """

    key: str
    label: str | None
    read: Callable[[], bytes]
    stamp: Stamp
    member: str = ""
    texts: Mapping[str, "Record"] = field(default_factory=dict)
    size: int = 0

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """For messages: the path as it was given, or the URL; ``tar/member`` in a tar."""
        return f"{self.stamp}/{self.member}" if self.member else str(self.stamp)

    @property
    def source(self) -> str:
        """Its file, or the tar or Parquet file: a path or URL as given, without credentials."""
        return printable(str(self.stamp))

    @property
    def since(self) -> int | None:
        """When its file was written, in nanoseconds; None if that is not known."""
        return self.stamp.written_at

    @property
    def local(self) -> "str | Record | None":
        """A local image to look at: its path, or this record if it is in a tar or Parquet file;
        None for a URL, which would be fetched."""
        if self.stamp.is_remote:
            return None
        return self if self.member else self.stamp.path

    @property
    def below(self) -> str:
        """The path below the source: ``dir/a.png``, ``some.tar/dir/a.png``, ``a.parquet/0``."""
        return f"{self.stamp.below}/{self.member}" if self.member else self.stamp.below


@dataclass(frozen=True)
class Files:
    """Files: the stamp of each, and the stamps of the texts beside it, by column.

    For ``max_bytes`` see ``listing.gather``.
    """

    stamps: tuple[Stamp, ...]
    texts: tuple[Mapping[str, Stamp], ...]
    max_bytes: int = MAX_BYTES

    def records(self) -> Iterator[Record]:
        rows = zip(self.keys, self.labels, self.stamps, self.texts, strict=True)
        for key, label, stamp, beside in rows:
            texts = {}
            for name, own in beside.items():
                text = posixpath.join(
                    posixpath.dirname(key), printable(posixpath.basename(own.below))
                )
                texts[name] = Record(text, None, _reader(own, MAX_TEXT), own)
            yield Record(key, label, _reader(stamp, self.max_bytes), stamp, "", texts, stamp.size)

    @property
    def keys(self) -> tuple[str, ...]:
        """The path of each file below its source."""
        return tuple(printable(stamp.below) for stamp in self.stamps)

    @property
    def labels(self) -> tuple[str | None, ...]:
        """The first folder of each key; None for files that are in no folder, or of a list."""
        folders = [key.partition("/") for key in self.keys]
        return tuple(
            folder if slash and stamp.base else None
            for (folder, slash, _), stamp in zip(folders, self.stamps, strict=True)
        )

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The names of the texts beside any of the files."""
        return tuple({name: None for texts in self.texts for name in texts})

    @property
    def source_bytes(self) -> int:
        return sum(stamp.size for stamp in self.stamps)

    def __len__(self) -> int:
        return len(self.stamps)


def _reader(stamp: Stamp, limit: int) -> Callable[[], bytes]:
    if stamp.size > limit:
        return partial(stored, too_large(stamp.size, limit))
    return partial(read_bytes, stamp.path, limit)


def printable(name: str) -> str:
    """A name as valid text: bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def stored(data: bytes | str) -> bytes:
    """Return the bytes, or raise OSError with the text that says why there are none."""
    if isinstance(data, str):
        raise OSError(None, data)
    return data


def too_large(size: int, limit: int) -> str:
    return f"{size:,} bytes, more than the limit of {limit:,}"
