"""The shard step: the pictures of shards to a file each."""

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
from tokcodec.errors import DatasetError, PictureError
from tokcodec.image import Squares
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
        """Writes the file of each shard, and says so. A bad picture is a failed row.

        While a file is written, the pictures of the next shard are read.

        Raises:
            OutputError: the file system refused.
        """
        settings = self.task.settings
        inputs = hashlib.sha256()
        rows: list[Row] = []
        failed = pictures = read = 0
        for picture, codes in self.codec.encode_stream(
            _records(todo), self._read, self.workers, settings.fit
        ):
            if not isinstance(picture, _End):
                rows.extend(self._rows(picture, codes))
                inputs.update(picture.digest)
                pictures += 1
                error = None
                if isinstance(picture, _ReadError):
                    failed += 1
                    error = picture.record.key, str(picture)
                else:
                    read += picture.bytes_in
                report(Progress(picture.shard, len(rows), failed, pictures, read, error))
                continue
            metadata = dataclasses.replace(
                self.task.metadata, shard=picture.shard.digest, inputs=inputs.hexdigest()
            )
            write_rows(picture.path, rows, metadata, self.task.companions)
            yield Progress(picture.shard, len(rows), failed, pictures, read)
            inputs, rows = hashlib.sha256(), []
            failed = pictures = read = 0

    def _rows(self, picture: "_Read | _ReadError", codes: NDArray[Any]) -> Iterator[Row]:
        record = picture.record
        common: dict[str, Any] = {
            "key": record.key,
            "label": record.label,
            "companions": record.companions,
        }
        if isinstance(picture, _ReadError):
            yield Row(**common, view=0, width=None, height=None, tokens=None, error=str(picture))
            return
        width, height = picture.width, picture.height
        native = picture.fit == "native"
        shape = self.codec.config.place("native", width, height)[1] if native else None
        for view, own in enumerate(codes[:, : self.task.settings.tokens]):
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
            squares = read_views(
                io.BytesIO(data),
                self.codec.config.preprocessing,
                self.task.settings.fit,
                self.task.settings.views,
                self.task.settings.background,
                self.codec.config.multiple,
            )
        except PictureError as error:
            return _ReadError(str(error).removeprefix("picture: "), shard, record, digest)
        except OSError as error:
            return _ReadError(f"cannot read: {error.strerror or error}", shard, record, digest)
        return _Read(
            squares.pixels,
            squares.width,
            squares.height,
            squares.fit,
            shard,
            record,
            digest,
            len(data),
        )


@dataclass(frozen=True)
class _End:
    """Stands behind the last picture of a shard."""

    shard: Shard
    path: Path


def _records(todo: Iterable[tuple[Shard, Path]]) -> Iterator[tuple[Shard, Record] | _End]:
    for shard, path in todo:
        for record in shard.batch.records():
            yield shard, record
        yield _End(shard, path)


@dataclass(frozen=True)
class _Read(Squares):
    shard: Shard
    record: Record
    digest: bytes
    bytes_in: int


class _ReadError(DatasetError):
    def __init__(self, reason: str, shard: Shard, record: Record, digest: bytes) -> None:
        super().__init__(reason)
        self.shard, self.record, self.digest = shard, record, digest
