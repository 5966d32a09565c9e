"""The shard step: one shard's pictures to one file."""

import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokcodec.codec import Codec
from tokcodec.dataset.plan import Shard
from tokcodec.dataset.table import Row, write_rows
from tokcodec.dataset.task import Progress, Task
from tokcodec.dataset.views import read_views
from tokcodec.errors import DatasetError, PictureError
from tokcodec.parallel import map_ahead
from tokcodec.picture import Squares
from tokcodec.sources import Record


class ShardStep:
    """Turns one shard into one file. Everything that runs shards, on one machine or many, does it
    through this."""

    def __init__(self, task: Task, codec: Codec, workers: int) -> None:
        self.task, self.codec, self.workers = task, codec, workers

    def __call__(
        self, shard: Shard, path: Path, report: Callable[[Progress], None] = lambda _: None
    ) -> Progress:
        """Writes ``path``. A bad picture is a failed row.

        Raises:
            OutputError: the file system refused.
        """
        inputs = hashlib.sha256()
        rows: list[Row] = []
        done = Progress(shard, 0, 0)
        for row, digest in self._rows(shard.batch.records()):
            rows.append(row)
            inputs.update(digest)
            done = Progress(shard, len(rows), done.failed + (row.tokens is None))
            report(done)
        metadata = dataclasses.replace(
            self.task.metadata, shard=shard.digest, inputs=inputs.hexdigest()
        )
        write_rows(path, rows, metadata, self.task.companions)
        return done

    def _rows(self, records: Iterator[Record]) -> Iterator[tuple[Row, bytes]]:
        """Rows in order; with the first of each picture, the digest of its bytes."""
        codec, settings = self.codec, self.task.settings
        ahead = self.workers if settings.fit == "native" else 4 * codec.batch_size
        read = map_ahead(self._read, records, self.workers, ahead)
        for picture, codes in codec.encode_stream(read):
            record = picture.record
            common: dict[str, Any] = {
                "key": record.key,
                "label": record.label,
                "companions": record.companions,
            }
            if isinstance(picture, _ReadError):
                row = Row(
                    **common, view=0, width=None, height=None, tokens=None, error=str(picture)
                )
                yield row, picture.digest
                continue
            size: dict[str, Any] = {"width": picture.width, "height": picture.height}
            native = settings.fit == "native"
            shape = codec.config.code_shape(*picture.pixels.shape[1:3]) if native else None
            for view, tokens in enumerate(codes[:, : settings.tokens]):
                row = Row(**common, **size, view=view, tokens=tokens, error=None, shape=shape)
                yield row, b"" if view else picture.digest

    def _read(self, record: Record) -> "_Read | _ReadError":
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
            return _ReadError(str(error).removeprefix("picture: "), record, digest)
        except OSError as error:
            return _ReadError(f"cannot read: {error.strerror or error}", record, digest)
        return _Read(squares.pixels, squares.width, squares.height, squares.fit, record, digest)


@dataclass(frozen=True)
class _Read(Squares):
    record: Record
    digest: bytes


class _ReadError(DatasetError):
    def __init__(self, reason: str, record: Record, digest: bytes) -> None:
        super().__init__(reason)
        self.record, self.digest = record, digest
