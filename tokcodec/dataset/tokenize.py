"""Pictures to a token dataset, a shard at a time: what is finished stands, whatever happens.

A shard is written whole under a temporary name and renamed. A run that is started again keeps the
shards whose plan and settings are its own, refuses others, does the rest, and ends byte for byte
like a run that was never stopped.
"""

import contextlib
import hashlib
import io
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tokcodec.codec import Codec
from tokcodec.config import Fit
from tokcodec.dataset.plan import Plan, Shard
from tokcodec.dataset.sources import Record, Tar
from tokcodec.dataset.table import COMPANIONS, Metadata, Row, merge, read_metadata, write_rows
from tokcodec.dataset.views import Views, read_views
from tokcodec.errors import DatasetError, OutputError, PictureError
from tokcodec.files import TEMPORARY
from tokcodec.parallel import map_ahead
from tokcodec.picture import WHITE, Squares


@dataclass(frozen=True)
class Settings:
    """What beside model and inputs decides the rows.

    Attributes:
        fit, background: see ``Codec.compress``; ``tile`` has no rows of one length.
        views: rows a picture, see ``views.read_views``.
        tokens: codes a row, the first ones; all if None.
    """

    fit: Fit
    views: Views = "one"
    background: tuple[int, int, int] = WHITE
    tokens: int | None = None

    def __post_init__(self) -> None:
        if self.fit == "tile":
            raise DatasetError("--fit tile gives rows of many lengths; take crop, pad or stretch")


@dataclass(frozen=True)
class Progress:
    """What a step reports: rows of this shard so far, and how many of them failed."""

    shard: Shard
    rows: int
    failed: int
    kept: bool = False


def describe_run(codec: Codec, settings: Settings) -> dict[str, Any]:
    """What stands in every file under ``tokcodec.run``; runs go on only where it is equal."""
    return {
        "fit": settings.fit,
        "views": settings.views,
        "background": list(settings.background),
        "tokens": settings.tokens or codec.config.num_codes,
        "device": codec.device.type,
        "dtype": codec.dtype,
        "batch_size": codec.batch_size,
        "versions": {
            **{name: version(name) for name in ("tokcodec", "torch", "pillow")},
            "machine": platform.machine(),
        },
    }


class ShardStep:
    """Turns one shard into one file. Everything that runs shards, on one machine or many, does it
    through this."""

    def __init__(self, codec: Codec, settings: Settings, plan: Plan, workers: int) -> None:
        self.codec, self.settings, self.workers = codec, settings, workers
        self.companions = (
            COMPANIONS if any(isinstance(shard.batch, Tar) for shard in plan.shards) else ()
        )
        self._metadata = Metadata(
            config=codec.config.to_json(),
            code_id=codec.header.code_id,
            run=describe_run(codec, settings),
            plan=plan.digest,
            shards=len(plan.shards),
            shard="",
            inputs="",
        )

    def __call__(self, shard: Shard, path: Path, report: Callable[[Progress], None]) -> Progress:
        """Writes ``path``. A bad picture is a failed row; a bad tar ends the run.

        Raises:
            DatasetError: the shard's file of pictures cannot be read.
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
        metadata = replace(self._metadata, shard=shard.digest, inputs=inputs.hexdigest())
        write_rows(path, rows, metadata, self.companions)
        return done

    def finished(self, shard: Shard, path: Path) -> bool:
        """Whether ``path`` is this shard's whole file.

        Raises:
            DatasetError: it is there, and of another run.
        """
        if not path.exists():
            return False
        found = read_metadata(path)
        _same_settings(path, found, self._metadata)
        if (found.plan, found.shard) != (self._metadata.plan, shard.digest):
            raise DatasetError(
                f"{path}: its inputs have changed since (names, sizes or times); "
                "choose another -o, or begin again with -f"
            )
        return True

    def merged(self, path: Path) -> bool:
        """Whether ``path`` is the one whole file of this plan.

        Raises:
            DatasetError: it is there, and of another run.
        """
        if not path.exists():
            return False
        found = read_metadata(path)
        _same_settings(path, found, self._metadata)
        if found.plan != self._metadata.plan:
            raise DatasetError(
                f"{path}: its inputs have changed since (names, sizes or times); "
                "choose another -o, or begin again with -f"
            )
        return True

    def merge(self, path: Path, parts: Sequence[Path]) -> None:
        """Joins all shards' files to one."""
        digests = [read_metadata(part).inputs for part in parts]
        inputs = hashlib.sha256("".join(digests).encode()).hexdigest()
        merge(path, parts, replace(self._metadata, shards=1, shard="", inputs=inputs))

    def inputs_digest(self, shard: Shard) -> str:
        """``tokcodec.inputs`` of the shard as its inputs are now."""
        total = hashlib.sha256()
        for record in shard.batch.records():
            with contextlib.suppress(OSError):
                total.update(hashlib.sha256(record.read()).digest())
        return total.hexdigest()

    def _rows(self, records: Iterator[Record]) -> Iterator[tuple[Row, bytes]]:
        """Rows in order; with the first of each picture, the digest of its bytes."""
        codec, settings = self.codec, self.settings
        read = map_ahead(self._read, records, self.workers, 4 * codec.batch_size)
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
            for view, tokens in enumerate(codes[:, : settings.tokens]):
                row = Row(**common, **size, view=view, tokens=tokens, error=None)
                yield row, b"" if view else picture.digest

    def _read(self, record: Record) -> "_Read | _ReadError":
        digest = b""
        try:
            data = record.read()
            digest = hashlib.sha256(data).digest()
            squares = read_views(
                io.BytesIO(data),
                self.codec.config.preprocessing,
                self.settings.fit,
                self.settings.views,
                self.settings.background,
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


def run(
    step: ShardStep,
    plan: Plan,
    output: Path,
    part: tuple[int, int] = (0, 1),
    retry_failed: bool = False,
    verify_inputs: bool = False,
    force: bool = False,
    max_failures: int | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> tuple[int, int]:
    """Does what is left of a plan; gives the rows and the failed rows of this part.

    Args:
        step: the work.
        plan: its shards.
        output: a folder of shards, or one file if it ends in ``.parquet``.
        part: index and count: only every so manieth shard, for several machines.
        retry_failed: do shards again that have failed rows.
        verify_inputs: also compare the bytes of finished shards' inputs with those of then.
        force: begin again.
        max_failures: stop above so many failed rows.
        report: told of every row.

    Raises:
        DatasetError: another run is at it, the output is of another run, or too many failures.
        OutputError: the file system refused.
    """
    whole = output.suffix == ".parquet"
    folder = output.with_name(output.name + ".parts") if whole else output
    with locked(folder, output, part):
        if part[1] == 1:
            for half_written in folder.glob(TEMPORARY + "*"):  # by a run that was killed
                half_written.unlink()
        if force:
            if whole:
                output.unlink(missing_ok=True)
            for shard in plan.part(*part):
                (folder / shard.name).unlink(missing_ok=True)
        if whole and step.merged(output):
            rows, failed = _count(output)
            if not (failed and retry_failed):
                report(Progress(plan.shards[0], rows, failed, kept=True))
                return rows, failed
        rows = failed = 0
        todo = []
        for shard in plan.part(*part):
            path = folder / shard.name
            if step.finished(shard, path):
                if verify_inputs and read_metadata(path).inputs != step.inputs_digest(shard):
                    raise DatasetError(
                        f"{path}: the bytes of its inputs have changed since; "
                        "choose another -o, or begin again with -f"
                    )
                kept_rows, kept_failed = _count(path)
                if not (kept_failed and retry_failed):
                    rows, failed = rows + kept_rows, failed + kept_failed
                    report(Progress(shard, kept_rows, kept_failed, kept=True))
                    continue
            todo.append(shard)

        def watch(now: Progress) -> None:
            if max_failures is not None and failed + now.failed > max_failures:
                raise DatasetError(
                    f"{output}: stopped at failed picture {failed + now.failed} of at most "
                    f"{max_failures}; the same command goes on from the last whole shard"
                )
            report(now)

        for shard in todo:
            done = step(shard, folder / shard.name, watch)
            rows, failed = rows + done.rows, failed + done.failed
        if whole:
            parts = [folder / shard.name for shard in plan.shards]
            step.merge(output, parts)
            for old in parts:
                old.unlink()
    if whole:
        with contextlib.suppress(OSError):
            folder.rmdir()
    return rows, failed


@contextlib.contextmanager
def locked(folder: Path, output: Path, part: tuple[int, int]) -> Iterator[None]:
    """Keeps others from the same output; the lock goes with the process that holds it.

    Parts of one plan may run beside each other, each once; a whole run beside none.

    Raises:
        DatasetError: another run holds it.
    """
    import fcntl

    busy = DatasetError(f"{output}: another run is writing to it; wait for its end, or stop it")
    index, count = part
    with contextlib.ExitStack() as stack:

        def lock(path: Path, flags: int, kind: int) -> None:
            handle = os.open(path, flags)
            stack.callback(os.close, handle)
            fcntl.flock(handle, kind | fcntl.LOCK_NB)

        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock(folder, os.O_RDONLY, fcntl.LOCK_EX if count == 1 else fcntl.LOCK_SH)
            if count > 1:
                own = folder / f".part-{index}-of-{count}"
                lock(own, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX)
        except BlockingIOError:
            raise busy from None
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot write: {error.strerror}; choose another -o"
            ) from error
        yield


def _same_settings(path: Path, found: Metadata, own: Metadata) -> None:
    if found.code_id != own.code_id:
        raise DatasetError(
            f"{path}: is of model {found.code_id[:8]}, not {own.code_id[:8]}; choose another -o, "
            "or begin again with -f"
        )
    for name in sorted(own.run.keys() | found.run.keys()):
        then, now = found.run.get(name), own.run.get(name)
        if then != now:
            raise DatasetError(
                f"{path}: was made with {name} {then}, not {now}; choose another -o, "
                "or begin again with -f"
            )


def _count(path: Path) -> tuple[int, int]:
    status = pq.read_table(path, columns=["status"]).column("status")
    return len(status), status.to_pylist().count("failed")
