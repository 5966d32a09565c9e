"""Turns the images of a shard into its file, on one machine or many."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import tee
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokcodec.codec import Codec
from tokcodec.dataset.folder import DatasetFolder
from tokcodec.dataset.table import GRID_FITS, write_rows
from tokcodec.image import Source, Tiles
from tokcodec.tokenize.plan import Shard
from tokcodec.tokenize.reading import Image, Item, items_of
from tokcodec.tokenize.task import Progress, Task

_Tag = tuple[Item, Image | None]
_Tokens = NDArray[Any] | str | None  # of an image; or its error


class ShardWriter:
    """Makes the rows and files of one dataset.

    Attributes:
        task, codec, folder: what to do, with which model, and where the files go.
        number: the number of the dataset, where a run makes several.
    """

    def __init__(self, task: Task, codec: Codec, folder: DatasetFolder, number: int = 0) -> None:
        self.task, self.codec, self.folder, self.number = task, codec, folder, number
        config, settings = codec.config, task.settings
        # What decides the tiles, so that datasets that agree on it share them.
        grid = (config.multiple, config.num_tokens, settings.tokens) if config.multiple else ()
        self._way = (config.preprocessing, settings.fit, *grid)

    def encode(self, items: Iterable[Item], workers: int) -> Iterator[tuple[_Tag, _Tokens]]:
        """Yield the image and the tokens of each item, or the error of an image.

        Both are None at the end of a shard, and for items that are not for this dataset.
        """
        fit = self.task.settings.fit
        return self.codec.encode_stream(items, self._read, fit=fit, workers=workers)

    def _read(self, item: Item) -> tuple[_Tag, Tiles | str | None]:
        if not item.image or self.number not in item.datasets:
            return (item, None), None
        image, tiles = item.image.read(self._way, self._to_tiles)
        return (item, image), tiles

    def _to_tiles(self, source: Source, key: str) -> Tiles:
        settings = self.task.settings
        return settings.views.read(
            source, key, self.codec.config, settings.fit, settings.background, settings.tokens
        )

    def rows(self, image: Image, tokens: _Tokens) -> list[dict[str, Any]]:
        """The rows of an image by its tokens, or the row of a failed image by its error."""
        record, settings = image.record, self.task.settings
        common: dict[str, Any] = {"key": record.key, "source": record.source, "label": record.label}
        common |= image.texts
        if not isinstance(tokens, np.ndarray):
            return [{**common, "view": 0, "error": tokens}]
        if settings.fit not in GRID_FITS:
            tokens = tokens.reshape(len(tokens), -1)[:, : settings.tokens]
        common |= {"width": image.width, "height": image.height}
        rows = [{**common, "view": view, "tokens": own} for view, own in enumerate(tokens)]
        boxes = settings.views.boxes(record.key, (image.width, image.height))
        for row, box in zip(rows, boxes, strict=False):  # boxes of random crops only
            row["box"] = box
        return rows


def make_shards(
    writers: Sequence[ShardWriter],
    workers: int,
    todo: Sequence[Sequence[Shard]],
    report: Callable[[Progress], None] = lambda _: None,
) -> Iterator[Progress]:
    """Write the file of each shard, and yield its progress when it is finished.

    A bad image becomes a failed row. An image that several datasets need is read once. While a file
    is written, the images of the next shard are read.

    Args:
        writers: one for each dataset.
        workers: threads, see ``Codec.encode_stream``.
        todo: the shards of each dataset.
        report: called after each image, for each dataset.

    Raises:
        OutputError: the file system or the store refused.
    """
    copies = tee(items_of(todo), len(writers))
    streams = [writer.encode(own, workers) for writer, own in zip(writers, copies, strict=True)]
    made: dict[int, _Made] = {}
    for results in zip(*streams, strict=True):
        for writer, ((item, image), tokens) in zip(writers, results, strict=True):
            if writer.number not in item.datasets:
                continue
            own = made.setdefault(writer.number, _Made(writer, item.shard))
            if image is None:
                own.write()
                yield dataclasses.replace(own.progress, error=None)
                del made[writer.number]
                continue
            own.add(image, tokens)
            report(own.progress)
            for text, error in image.lost_texts:
                own.add(Image(text), error)
                report(own.progress)


class _Made:
    """The rows of a shard so far."""

    def __init__(self, writer: ShardWriter, shard: Shard) -> None:
        self.progress = Progress(shard, writer.number)
        self._writer = writer
        self._rows: list[dict[str, Any]] = []
        self._inputs = hashlib.sha256()

    def add(self, image: Image, tokens: _Tokens) -> None:
        self._rows += self._writer.rows(image, tokens)
        self._inputs.update(image.digest)
        failed = isinstance(tokens, str)
        before = self.progress
        self.progress = dataclasses.replace(
            before,
            rows=len(self._rows),
            failed=before.failed + failed,
            images=before.images + 1,
            bytes_in=before.bytes_in + (0 if failed else image.bytes_in),
            bytes_read=before.bytes_read + image.record.size,
            error=(image.record.key, str(tokens)) if failed else None,
        )

    def write(self) -> None:
        shard, task = self.progress.shard, self._writer.task
        metadata = dataclasses.replace(
            task.metadata,
            number=shard.number,
            shard=shard.digest,
            inputs=self._inputs.hexdigest(),
        )
        with self._writer.folder.writing(shard.name) as file:
            write_rows(file, self._rows, metadata, task.plan.text_columns)
