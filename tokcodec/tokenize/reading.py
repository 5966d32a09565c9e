"""Reads the images of shards, each image once for all datasets of a run."""

import hashlib
import io
import threading
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tokcodec.errors import ImageError, one_line
from tokcodec.image import Source, Tiles
from tokcodec.inputs.records import Record
from tokcodec.tokenize.plan import Shard


@dataclass(frozen=True)
class Image:
    """An image that was read.

    Attributes:
        record: its record.
        digest: SHA-256 of its texts and its bytes, as far as they could be read.
        bytes_in: the size of its file.
        width, height: after EXIF orientation; 0 if it cannot be decoded.
        texts: the texts of its row, by column.
        lost_texts: the texts that cannot be read, with the reason.
    """

    record: Record
    digest: bytes = b""
    bytes_in: int = 0
    width: int = 0
    height: int = 0
    texts: Mapping[str, str] = field(default_factory=dict)
    lost_texts: tuple[tuple[Record, str], ...] = ()


class SharedImage:
    """An image that several datasets need, whose file is read once. Its bytes and tiles are kept
    until the last dataset has taken its own."""

    def __init__(self, record: Record, datasets: int) -> None:
        self._record, self._waiting = record, datasets
        self._lock = threading.Lock()
        self._read: tuple[Image, bytes | str] | None = None
        self._tiles: dict[Hashable, Tiles | str] = {}

    def read(
        self, way: Hashable, to_tiles: Callable[[Source, str], Tiles]
    ) -> tuple[Image, Tiles | str]:
        """The image and its tiles, or the reason why it cannot be read.

        Args:
            way: what decides the tiles, which are made once for each way.
            to_tiles: makes the tiles of a file and the key of the image.
        """
        with self._lock:
            self._read = self._read or _read(self._record)
            image, data = self._read
            if way not in self._tiles:
                self._tiles[way] = data if isinstance(data, str) else self._to_tiles(data, to_tiles)
            tiles = self._tiles[way]
            self._waiting -= 1
            if not self._waiting:
                self._read, self._tiles = None, {}
        if isinstance(tiles, Tiles):
            image = replace(image, width=tiles.width, height=tiles.height)
        return image, tiles

    def _to_tiles(self, data: bytes, to_tiles: Callable[[Source, str], Tiles]) -> Tiles | str:
        try:
            return to_tiles(io.BytesIO(data), self._record.key)
        except ImageError as error:
            return str(error).removeprefix("image: ")
        except OSError as error:
            return _reason(error)


@dataclass(frozen=True)
class Item:
    """An image of a shard, or its end if there is none, and the numbers of the datasets that need
    it."""

    shard: Shard
    datasets: Collection[int]
    image: SharedImage | None = None


def items_of(todo: Sequence[Sequence[Shard]]) -> Iterator[Item]:
    """Yield the images of all shards; ``todo`` has the shards of each dataset."""
    shards = {shard.number: shard for own in todo for shard in own}
    numbers = [{shard.number for shard in own} for own in todo]
    for number, shard in sorted(shards.items()):
        datasets = [index for index, own in enumerate(numbers) if number in own]
        for record in shard.batch.records():
            yield Item(shard, datasets, SharedImage(record, len(datasets)))
        yield Item(shard, datasets)


def _read(record: Record) -> tuple[Image, bytes | str]:
    """Read an image and its texts; return also its bytes, or the reason why there are none."""
    texts: dict[str, str] = {}
    lost, digest = [], b""
    for name, text in record.texts.items():
        try:
            data = text.read()
        except OSError as error:
            lost.append((text, _reason(error)))
            continue
        digest += hashlib.sha256(data).digest()
        texts[name] = data.decode("utf-8", "replace")
    image = Image(record, digest, texts=texts, lost_texts=tuple(lost))
    try:
        data = record.read()
    except OSError as error:
        return image, _reason(error)
    digest += hashlib.sha256(data).digest()
    return replace(image, digest=digest, bytes_in=len(data)), data


def _reason(error: OSError) -> str:
    return one_line(f"cannot read: {error.strerror or error}")  # no credentials
