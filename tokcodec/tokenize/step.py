"""The shard step: turns the images of a shard into its file."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
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


class ShardWriter:
    """The rows and files of one dataset."""

    def __init__(self, task: Task, codec: Codec, folder: DatasetFolder) -> None:
        self.task, self.codec, self.folder = task, codec, folder
        config, settings = codec.config, task.settings
        # What decides the tiles, so that datasets that agree on it share them.
        grid = (config.multiple, config.num_tokens, settings.tokens) if config.multiple else ()
        self._way = (config.preprocessing, settings.fit, *grid)

    def read(self, number: int, item: Item) -> tuple[Image | None, Tiles | str | None]:
        """The image and its tiles, or why it cannot be read; None for the end of a shard, and for
        an item that is not for this dataset, whose ``number`` is given."""
        if not item.image or number not in item.datasets:
            return None, None
        return item.image.read(self._way, self._to_tiles)

    def _to_tiles(self, source: Source, key: str) -> Tiles:
        settings = self.task.settings
        return settings.views.read(
            source, key, self.codec.config, settings.fit, settings.background, settings.tokens
        )

    def rows(self, image: Image, tokens: NDArray[Any] | str | None) -> list[dict[str, Any]]:
        """The rows of an image by its tokens, or the row of a failed image by its error."""
        record, settings = image.record, self.task.settings
        common = {"key": record.key, "source": record.source, "label": record.label, **image.texts}
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

    def write(self, made: "_Made") -> None:
        """Writes the file of a shard.

        Raises:
            OutputError: the file system or the store refused.
        """
        shard = made.progress.shard
        metadata = dataclasses.replace(
            self.task.metadata,
            number=shard.number,
            shard=shard.digest,
            inputs=made.inputs.hexdigest(),
        )
        with self.folder.writing(shard.name) as file:
            write_rows(file, made.rows, metadata, self.task.plan.text_columns)


class ShardStep:
    """Makes shards of one or several datasets, one file each, and reads each image once. Whatever
    makes shards, on one machine or many, uses this."""

    def __init__(self, writers: Sequence[ShardWriter], workers: int) -> None:
        self.writers, self.workers = writers, workers

    def __call__(
        self, todo: Sequence[Sequence[Shard]], report: Callable[[Progress], None] = lambda _: None
    ) -> Iterator[Progress]:
        """Writes the file of each shard, and gives its progress then. A bad image becomes a failed
        row.

        While a file is written, the images of the next shard are read.

        Args:
            todo: the shards of each dataset.
            report: called after each image, for each dataset.

        Raises:
            OutputError: the file system or the store refused.
        """
        made: dict[int, _Made] = {}
        for results in zip(*self._streams(todo), strict=True):
            for number, (item, image, tokens) in enumerate(results):
                if number not in item.datasets:
                    continue
                own = made.setdefault(number, _Made(item.shard, number))
                if image:
                    writer = self.writers[number]
                    own.add(image, writer.rows(image, tokens), tokens)
                    report(own.progress)
                    for text, error in image.lost_texts:
                        lost = Image(text)
                        own.add(lost, writer.rows(lost, error), error)
                        report(own.progress)
                else:
                    self.writers[number].write(own)
                    yield dataclasses.replace(own.progress, error=None)
                    del made[number]

    def _streams(self, todo: Sequence[Sequence[Shard]]) -> "list[Iterator[_Encoded]]":
        """The encoded images of each dataset, all in the same order."""

        def stream(number: int, writer: ShardWriter, items: Iterator[Item]) -> Iterator[_Encoded]:
            def read(item: Item) -> tuple[tuple[Item, Image | None], Tiles | str | None]:
                image, tiles = writer.read(number, item)
                return (item, image), tiles

            encoded = writer.codec.encode_stream(
                items, read, fit=writer.task.settings.fit, workers=self.workers
            )
            return ((item, image, tokens) for (item, image), tokens in encoded)

        copies = tee(items_of(todo), len(self.writers))
        return [
            stream(number, writer, items)
            for number, (writer, items) in enumerate(zip(self.writers, copies, strict=True))
        ]


_Encoded = tuple[Item, Image | None, NDArray[Any] | str | None]


class _Made:
    """The rows of a shard so far."""

    def __init__(self, shard: Shard, dataset: int) -> None:
        self.progress = Progress(shard, dataset)
        self.rows: list[dict[str, Any]] = []
        self.inputs = hashlib.sha256()

    def add(
        self, image: Image, rows: list[dict[str, Any]], tokens: NDArray[Any] | str | None
    ) -> None:
        self.rows += rows
        self.inputs.update(image.digest)
        failed = isinstance(tokens, str)
        before = self.progress
        self.progress = dataclasses.replace(
            before,
            rows=len(self.rows),
            failed=before.failed + failed,
            images=before.images + 1,
            bytes_in=before.bytes_in + (0 if failed else image.bytes_in),
            bytes_read=before.bytes_read + image.record.size,
            error=(image.record.key, str(tokens)) if failed else None,
        )
