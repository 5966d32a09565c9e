"""What every kind of source gives: records, and the stamps of the files that they are in."""

import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from tokcodec.io.find import ABSENT as ABSENT
from tokcodec.io.find import Stamp as Stamp
from tokcodec.io.read import MAX_BYTES
from tokcodec.io.remote import read_bytes

TEXT_SUFFIXES = (".txt", ".json")  # of files beside an image that become columns of its row
MAX_TEXT = 2**24  # bytes


@dataclass(frozen=True)
class Record:
    """One image, one token file, or one text. ``Codec.compress`` takes that of an image as it is.

    Attributes:
        key: its name in a dataset.
        label: its class, if it has one.
        read: gives the bytes of its file; raises OSError where they cannot be had.
        stamp: of its file, or of the tar or Parquet file that it is in.
        member: its name in the tar, or its row; empty for a file.
        texts: further columns of its row, by name: ``txt`` and ``json`` beside an image, or columns
            of a Parquet file. Where reading one fails, its key says which it is.
        size: bytes of the source that were passed since the record before, for progress.
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
        """For messages: the path as it was given, or the URL; of a tar's member ``tar/member``."""
        return f"{self.stamp}/{self.member}" if self.member else str(self.stamp)

    @property
    def source(self) -> str:
        """The file that it is in, or is: a path or URL as it was named, without credentials."""
        return printable(str(self.stamp))

    @property
    def since(self) -> int | None:
        """When its file was written, in nanoseconds; None where that is not known."""
        return self.stamp.written_at

    @property
    def local(self) -> "str | Record | None":
        """What is read to look at the image: its path, or this record of a local tar or Parquet
        file; None on a URL, which would be fetched."""
        if self.stamp.is_remote:
            return None
        return self if self.member else self.stamp.path

    @property
    def below(self) -> str:
        """The path below the source: ``dir/a.png``, ``some.tar/dir/a.png``, ``a.parquet/0``."""
        return f"{self.stamp.below}/{self.member}" if self.member else self.stamp.below


@dataclass(frozen=True)
class Files:
    """Files: keys and labels, a stamp of each, and the stamps of the texts beside each, by column.
    ``max_bytes`` as of ``gather``."""

    keys: tuple[str, ...]
    labels: tuple[str | None, ...]
    stamps: tuple[Stamp, ...]
    texts: tuple[Mapping[str, Stamp], ...]
    max_bytes: int = MAX_BYTES

    def records(self) -> Iterator[Record]:
        for key, label, stamp, beside in zip(
            self.keys, self.labels, self.stamps, self.texts, strict=True
        ):
            folder = posixpath.dirname(key)
            texts = {
                name: Record(
                    posixpath.join(folder, printable(posixpath.basename(own.below))),
                    None,
                    _reader(own, MAX_TEXT),
                    own,
                )
                for name, own in beside.items()
            }
            yield Record(key, label, _reader(stamp, self.max_bytes), stamp, "", texts, stamp.size)

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The names of the texts beside any of the files."""
        return tuple({name: None for texts in self.texts for name in texts})

    @property
    def source_bytes(self) -> int:
        return sum(stamp.size for stamp in self.stamps)

    def __len__(self) -> int:
        return len(self.keys)


def _reader(stamp: Stamp, limit: int) -> Callable[[], bytes]:
    if stamp.size > limit:
        return partial(stored, too_large(stamp.size, limit))
    return partial(read_bytes, stamp.path, limit)


def printable(name: str) -> str:
    """A name as Parquet can hold it: bytes that are no UTF-8 are written out."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def stored(data: bytes | str) -> bytes:
    """The bytes, or an error with the text that says why there are none."""
    if isinstance(data, str):
        raise OSError(None, data)
    return data


def too_large(size: int, limit: int) -> str:
    return f"{size:,} bytes, more than the limit of {limit:,}"
