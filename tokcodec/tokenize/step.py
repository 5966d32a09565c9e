"""The shard step: the images of shards to a file each."""

import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tokcodec.codec import Codec
from tokcodec.dataset.table import Row, write_rows
from tokcodec.dataset.views import read_views
from tokcodec.errors import DatasetError, ImageError
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
            _records(todo), self._read, self.workers, settings.fit
        ):
            if not isinstance(image, _End):
                rows.extend(self._rows(image, tokens))
                inputs.update(image.digest)
                images += 1
                error = None
                if isinstance(image, _ReadError):
                    failed += 1
                    error = image.record.key, str(image)
                else:
                    read += image.bytes_in
                report(Progress(image.shard, len(rows), failed, images, read, error))
                continue
            metadata = dataclasses.replace(
                self.task.metadata, shard=image.shard.digest, inputs=inputs.hexdigest()
            )
            write_rows(image.path, rows, metadata, self.task.companions)
            yield Progress(image.shard, len(rows), failed, images, read)
            inputs, rows = hashlib.sha256(), []
            failed = images = read = 0

    def _rows(self, image: "_Read | _ReadError", tokens: NDArray[Any]) -> Iterator[Row]:
        record = image.record
        common: dict[str, Any] = {
            "key": record.key,
            "label": record.label,
            "companions": record.companions,
        }
        if isinstance(image, _ReadError):
            yield Row(**common, view=0, width=None, height=None, tokens=None, error=str(image))
            return
        width, height = image.width, image.height
        fit, wanted = self.task.settings.fit, self.task.settings.tokens
        any_size = fit in ("aspect", "native")
        shape = self.codec.config.place(fit, (width, height), wanted)[1] if any_size else None
        for view, own in enumerate(tokens[:, : self.task.settings.tokens]):
            yield Row(
                **common,
                view=view,
                width=width,
                height=height,
                tokens=own,
                error=None,
                shape=shape,
            )

    def _read(self, entry: "tuple[Shard, Record] | _End") -> "_Read | _ReadError | _End":
        if isinstance(entry, _End):
            return entry
        shard, record = entry
        digest = b""
        try:
            data = record.read()
            digest = hashlib.sha256(data).digest()
            tiles = read_views(
                io.BytesIO(data),
                self.codec.config,
                self.task.settings.fit,
                self.task.settings.views,
                self.task.settings.background,
                self.task.settings.tokens,
            )
        except ImageError as error:
            return _ReadError(str(error).removeprefix("image: "), shard, record, digest)
        except OSError as error:
            return _ReadError(f"cannot read: {error.strerror or error}", shard, record, digest)
        return _Read(
            tiles.pixels,
            tiles.width,
            tiles.height,
            shard,
            record,
            digest,
            len(data),
        )


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


@dataclass(frozen=True)
class _Read(Tiles):
    shard: Shard
    record: Record
    digest: bytes
    bytes_in: int


class _ReadError(DatasetError):
    def __init__(self, reason: str, shard: Shard, record: Record, digest: bytes) -> None:
        super().__init__(reason)
        self.shard, self.record, self.digest = shard, record, digest
