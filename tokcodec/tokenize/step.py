"""The shard step: turns the images of a shard into its file."""

import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokcodec.codec import Codec
from tokcodec.dataset.folder import DatasetFolder
from tokcodec.dataset.table import GRID_FITS, Row, write_rows
from tokcodec.errors import ImageError, one_line
from tokcodec.image import Tiles
from tokcodec.inputs.records import Record
from tokcodec.tokenize.plan import Shard
from tokcodec.tokenize.task import Progress, Task


class ShardStep:
    """Writes shards, one file each. Whatever makes shards, on one machine or many, uses this."""

    def __init__(self, task: Task, codec: Codec, folder: DatasetFolder, workers: int) -> None:
        self.task, self.codec, self.folder, self.workers = task, codec, folder, workers

    def __call__(
        self, todo: Iterable[Shard], report: Callable[[Progress], None] = lambda _: None
    ) -> Iterator[Progress]:
        """Writes the file of each shard, and gives its progress then. A bad image becomes a failed
        row.

        While a file is written, the images of the next shard are read.

        Args:
            todo: the shards.
            report: called after each image.

        Raises:
            OutputError: the file system or the store refused.
        """
        made: _Made | None = None
        for image, tokens in self.codec.encode_stream(
            _records(todo), self._read, fit=self.task.settings.fit, workers=self.workers
        ):
            made = made or _Made(image.shard)
            if image.record:
                made.add(image, list(self._rows(image, tokens)), tokens)
                report(made.progress)
                for text, error in image.lost_texts:
                    lost = _Image(image.shard, text)
                    made.add(lost, list(self._rows(lost, error)), error)
                    report(made.progress)
            else:
                self._write(made)
                yield dataclasses.replace(made.progress, error=None)
                made = None

    def _write(self, made: "_Made") -> None:
        shard = made.progress.shard
        metadata = dataclasses.replace(
            self.task.metadata,
            number=shard.number,
            shard=shard.digest,
            inputs=made.inputs.hexdigest(),
        )
        self.folder.write(
            shard.name,
            lambda file: write_rows(file, made.rows, metadata, self.task.plan.text_columns),
        )

    def _rows(self, image: "_Image", tokens: NDArray[Any] | str | None) -> Iterator[Row]:
        record = image.record
        assert record
        common: dict[str, Any] = {
            "key": record.key,
            "source": record.source,
            "label": record.label,
            "texts": image.texts,
        }
        if not isinstance(tokens, np.ndarray):
            yield Row(**common, view=0, width=None, height=None, tokens=None, error=tokens)
            return
        common |= {"width": image.width, "height": image.height, "error": None}
        settings = self.task.settings
        if settings.fit not in GRID_FITS:
            tokens = tokens.reshape(len(tokens), -1)[:, : settings.tokens]
        boxes = settings.views.boxes(record.key, (image.width, image.height))
        for view, own in enumerate(tokens):
            yield Row(**common, view=view, tokens=own, box=boxes[view] if boxes else None)

    def _read(self, image: "_Image") -> "tuple[_Image, Tiles | str | None]":
        """The image and its tiles, or why it cannot be read."""
        settings = self.task.settings
        if not image.record:
            return image, None
        image = _with_texts(image, image.record)
        try:
            data = image.record.read()
            image = dataclasses.replace(
                image,
                digest=image.digest + hashlib.sha256(data).digest(),
                bytes_in=len(data),
            )
            tiles = settings.views.read(
                io.BytesIO(data),
                image.record.key,
                self.codec.config,
                settings.fit,
                settings.background,
                settings.tokens,
            )
        except ImageError as error:
            return image, str(error).removeprefix("image: ")
        except OSError as error:
            return image, _reason(error)
        return dataclasses.replace(image, width=tiles.width, height=tiles.height), tiles


@dataclass(frozen=True)
class _Image:
    """An image of a shard, and what is known of it once it is read: the texts of its columns, and
    those that cannot be read, with the reason. Without a record, it marks the end of the shard."""

    shard: Shard
    record: Record | None
    digest: bytes = b""
    bytes_in: int = 0
    width: int = 0
    height: int = 0
    texts: Mapping[str, str] = field(default_factory=dict)
    lost_texts: tuple[tuple[Record, str], ...] = ()


def _with_texts(image: _Image, record: Record) -> _Image:
    texts, lost, digest = {}, [], b""
    for name, text in record.texts.items():
        try:
            data = text.read()
        except OSError as error:
            lost.append((text, _reason(error)))
            continue
        digest += hashlib.sha256(data).digest()
        texts[name] = data.decode("utf-8", "replace")
    return dataclasses.replace(image, texts=texts, lost_texts=tuple(lost), digest=digest)


def _reason(error: OSError) -> str:
    return one_line(f"cannot read: {error.strerror or error}")  # no credentials


class _Made:
    """The rows of a shard so far."""

    def __init__(self, shard: Shard) -> None:
        self.progress = Progress(shard)
        self.rows: list[Row] = []
        self.inputs = hashlib.sha256()

    def add(self, image: _Image, rows: list[Row], tokens: NDArray[Any] | str | None) -> None:
        assert image.record
        self.rows += rows
        self.inputs.update(image.digest)
        failed = isinstance(tokens, str)
        before = self.progress
        self.progress = Progress(
            before.shard,
            rows=len(self.rows),
            failed=before.failed + failed,
            images=before.images + 1,
            bytes_in=before.bytes_in + (0 if failed else image.bytes_in),
            bytes_read=before.bytes_read + image.record.size,
            error=(image.record.key, str(tokens)) if failed else None,
        )


def _records(todo: Iterable[Shard]) -> Iterator[_Image]:
    for shard in todo:
        for record in shard.batch.records():
            yield _Image(shard, record)
        yield _Image(shard, None)
