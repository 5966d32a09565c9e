"""The shard step: the images of shards to a file each."""

import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokcodec.codec import Codec
from tokcodec.dataset.table import Row, write_rows
from tokcodec.dataset.views import read_views
from tokcodec.errors import ImageError
from tokcodec.image import Tiles
from tokcodec.inputs.records import Record
from tokcodec.tokenize.plan import Shard
from tokcodec.tokenize.task import Progress, Task


class ShardStep:
    """Turns shards into files, one each. Everything that runs shards, on one machine or many, does
    it through this."""

    def __init__(self, task: Task, codec: Codec, workers: int) -> None:
        self.task, self.codec, self.workers = task, codec, workers

    def __call__(
        self,
        todo: Iterable[tuple[Shard, Path]],
        report: Callable[[Progress], None] = lambda _: None,
    ) -> Iterator[Progress]:
        """Writes the file of each shard, and says so. A bad image is a failed row.

        While a file is written, the images of the next shard are read.

        Raises:
            OutputError: the file system refused.
        """
        settings = self.task.settings
        inputs = hashlib.sha256()
        rows: list[Row] = []
        failed = images = read = 0
        for image, tokens in self.codec.encode_stream(
            _records(todo), self._read, fit=settings.fit, workers=self.workers
        ):
            if isinstance(image, _End):
                metadata = dataclasses.replace(
                    self.task.metadata, shard=image.shard.digest, inputs=inputs.hexdigest()
                )
                write_rows(image.path, rows, metadata, self.task.companions)
                yield Progress(image.shard, len(rows), failed, images, read)
                inputs, rows = hashlib.sha256(), []
                failed = images = read = 0
                continue
            rows.extend(self._rows(image, tokens))
            inputs.update(image.digest)
            images += 1
            error = None
            if isinstance(tokens, str):
                failed += 1
                error = image.record.key, tokens
            else:
                read += image.bytes_in
            report(Progress(image.shard, len(rows), failed, images, read, error))

    def _rows(self, image: "_Image", tokens: NDArray[Any] | str | None) -> Iterator[Row]:
        record = image.record
        common: dict[str, Any] = {
            "key": record.key,
            "label": record.label,
            "companions": record.companions,
        }
        if not isinstance(tokens, np.ndarray):
            yield Row(**common, view=0, width=None, height=None, tokens=None, error=tokens)
            return
        any_size = self.task.settings.fit in ("aspect", "native")
        shape = tokens.shape[1:] if any_size else None
        for view, own in enumerate(tokens.reshape(len(tokens), -1)):
            yield Row(
                **common,
                view=view,
                width=image.width,
                height=image.height,
                tokens=own[: self.task.settings.tokens],
                error=None,
                shape=shape,
            )

    def _read(
        self, entry: "tuple[Shard, Record] | _End"
    ) -> "tuple[_Image | _End, Tiles | str | None]":
        """The image and its tiles, or why it cannot be read."""
        if isinstance(entry, _End):
            return entry, None
        shard, record = entry
        image = _Image(shard, record)
        try:
            data = record.read()
            image = _Image(shard, record, hashlib.sha256(data).digest(), len(data))
            tiles = read_views(
                io.BytesIO(data),
                self.codec.config,
                self.task.settings.fit,
                self.task.settings.views,
                self.task.settings.background,
                self.task.settings.tokens,
            )
        except ImageError as error:
            return image, str(error).removeprefix("image: ")
        except OSError as error:
            return image, f"cannot read: {error.strerror or error}"
        return dataclasses.replace(image, width=tiles.width, height=tiles.height), tiles


@dataclass(frozen=True)
class _Image:
    """An image of a shard, and what is known once it is read."""

    shard: Shard
    record: Record
    digest: bytes = b""
    bytes_in: int = 0
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class _End:
    """Stands behind the last image of a shard."""

    shard: Shard
    path: Path


def _records(todo: Iterable[tuple[Shard, Path]]) -> Iterator[tuple[Shard, Record] | _End]:
    for shard, path in todo:
        for record in shard.batch.records():
            yield shard, record
        yield _End(shard, path)
