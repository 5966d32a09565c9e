"""Pictures to a token dataset, a shard at a time: what is finished stands, whatever happens.

A shard is written whole under a temporary name and renamed. A run that is started again keeps the
shards whose plan and settings are its own, refuses others, does the rest, and ends byte for byte
like a run that was never stopped.
"""

import contextlib
import dataclasses
import hashlib
import io
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tokcodec.checkpoint import Header
from tokcodec.codec import BATCH_SIZE, Codec
from tokcodec.dataset.plan import Plan, Shard, parts_of
from tokcodec.dataset.table import COMPANIONS, Metadata, Row, merge, read_metadata, write_rows
from tokcodec.dataset.views import Views, read_views
from tokcodec.errors import DatasetError, OutputError, PictureError
from tokcodec.files import TEMPORARY
from tokcodec.geometry import Fit
from tokcodec.model.loading import Dtype
from tokcodec.parallel import map_ahead
from tokcodec.picture import WHITE, Squares
from tokcodec.sources import Files, Record, Tar

_NO_SHARD = Shard(-1, Files((), (), ()), "")
_ELSEWHERE = "choose another -o, or begin again with -f"


@dataclass(frozen=True)
class Settings:
    """What beside model and inputs decides the rows.

    Attributes:
        fit, background: see ``Codec.compress``; ``tile`` has no shape of codes.
            ``native`` gives every row rows and columns of codes of its own.
        views: rows a picture, see ``views.read_views``.
        tokens: codes a row, the first ones; all if None.
        device, dtype, batch_size: see ``Codec.load``; the kind of device, ``cpu`` or ``cuda``.
        compiled: the encoder goes through ``torch.compile``.
    """

    fit: Fit
    views: Views = "one"
    background: tuple[int, int, int] = WHITE
    tokens: int | None = None
    device: str = "cpu"
    dtype: Dtype = "float32"
    batch_size: int = BATCH_SIZE
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.fit == "tile":
            raise DatasetError("--fit tile gives rows of many squares; take crop, pad or stretch")
        if self.fit == "native" and self.tokens is not None:
            raise DatasetError("--tokens are those of a square; leave --fit native out")
        if self.fit == "native" and self.views == "ten-crop":
            raise DatasetError("--views ten-crop cuts squares; leave --fit native out")


@dataclass(frozen=True)
class Progress:
    """What a step reports: rows of this shard so far, and how many of them failed."""

    shard: Shard
    rows: int
    failed: int
    kept: bool = False


class Task:
    """A plan, a model and settings: what every file of one dataset must agree on."""

    def __init__(self, header: Header, settings: Settings, plan: Plan) -> None:
        self.header, self.settings, self.plan = header, settings, plan
        self.companions = (
            COMPANIONS if any(isinstance(shard.batch, Tar) for shard in plan.shards) else ()
        )
        versions = {name: version(name) for name in ("tokcodec", "torch", "pillow")}
        run = {
            **dataclasses.asdict(settings),
            **plan.cut,
            "background": list(settings.background),
            "tokens": None
            if settings.fit == "native"
            else settings.tokens or header.config.num_codes,
            "versions": {**versions, "machine": platform.machine()},
        }
        self.metadata = Metadata(
            model=header.config,
            code_id=header.code_id,
            run=run,
            plan=plan.digest,
            shards=len(plan.shards),
            shard="",
            inputs="",
        )

    def finished(self, path: Path, shard: Shard | None = None) -> bool:
        """Whether ``path`` is the whole file of a shard, or of the plan.

        Raises:
            DatasetError: it is there, and of another run.
        """
        if not path.exists():
            return False
        found = read_metadata(path)
        self._check_settings(path, found)
        if not shard and (found.shards, found.shard) != (1, ""):
            raise DatasetError(f"{path}: is one shard of a dataset; {_ELSEWHERE}")
        if found.plan != self.metadata.plan or (shard and found.shard != shard.digest):
            raise DatasetError(
                f"{path}: its inputs have changed since (names, sizes or times); {_ELSEWHERE}"
            )
        return True

    def check_inputs(self, path: Path, shard: Shard | None = None) -> None:
        """Compares the bytes of a finished file's inputs with those that it was made from.

        Raises:
            DatasetError: they differ.
        """
        now = (
            _inputs_digest(shard)
            if shard
            else _joined(_inputs_digest(shard) for shard in self.plan.shards)
        )
        if read_metadata(path).inputs != now:
            raise DatasetError(f"{path}: the bytes of its inputs have changed since; {_ELSEWHERE}")

    def merge(self, path: Path, parts: Sequence[Path]) -> None:
        """Joins all shards' files to one.

        Raises:
            OutputError: the file system refused.
        """
        inputs = _joined(read_metadata(part).inputs for part in parts)
        joined = parts[0].with_name("joined")
        merge(joined, parts, dataclasses.replace(self.metadata, shards=1, inputs=inputs))
        joined.replace(path)

    def _check_settings(self, path: Path, found: Metadata) -> None:
        own = self.metadata
        if found.code_id != own.code_id:
            raise DatasetError(
                f"{path}: is of model {found.code_id[:8]}, not {own.code_id[:8]}; {_ELSEWHERE}"
            )
        for name in sorted(own.run.keys() | found.run.keys()):
            then, now = found.run.get(name), own.run.get(name)
            if then != now:
                raise DatasetError(f"{path}: was made with {name} {then}, not {now}; {_ELSEWHERE}")


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


# Does shards, each into its file, and gives what became of each as it is done.
Engine = Callable[[Sequence[tuple[Shard, Path]], Callable[[Progress], None]], Iterable[Progress]]


def in_turn(step: ShardStep) -> Engine:
    """The engine of one process: a shard after the other."""

    def engine(
        todo: Sequence[tuple[Shard, Path]], report: Callable[[Progress], None]
    ) -> Iterator[Progress]:
        for shard, path in todo:
            yield step(shard, path, report)

    return engine


def run(
    task: Task,
    engine: Engine,
    output: Path,
    part: tuple[int, int] = (0, 1),
    retry_failed: bool = False,
    verify_inputs: bool = False,
    force: bool = False,
    max_failures: int | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> tuple[int, int]:
    """Does what is left of a task; gives the rows and the failed rows of this part.

    Args:
        task: what is to be done.
        engine: does it.
        output: a folder of shards, or one file if it ends in ``.parquet``.
        part: index and count: only every so manieth shard, for several machines.
        retry_failed: do shards again that have failed rows.
        verify_inputs: also compare the bytes of finished shards' inputs with those of then.
        force: begin again.
        max_failures: stop above so many failed rows.
        report: told how the shards get on.

    Raises:
        DatasetError: another run is at it, the output is of another run, or too many failures.
        OutputError: the file system refused.
    """
    folder = parts_of(output) or output
    whole = folder != output
    if whole and output.is_dir():
        raise DatasetError(f"{output}: is a folder; name a file, or a folder without .parquet")
    shards = task.plan.part(*part)
    totals = {"rows": 0, "failed": 0}

    def check(failed: int) -> None:
        if max_failures is not None and failed > max_failures:
            raise DatasetError(
                f"{output}: stopped at failed picture {failed} of at most {max_failures}; "
                "the same command goes on from the last whole shard"
            )

    def count(now: Progress) -> None:
        totals["rows"] += now.rows
        totals["failed"] += now.failed
        check(totals["failed"])
        report(now)

    def watch(now: Progress) -> None:
        check(totals["failed"] + now.failed)
        report(now)

    with locked(folder, output, part):
        if part[1] == 1:
            _sweep(folder)  # behind a run that was killed
        there = sorted(folder.glob("part-*.parquet"))
        if force:
            own = [folder / shard.name for shard in shards] if part[1] > 1 else there
            for path in [path for path in (*own, *([output] if whole else ())) if path.exists()]:
                read_metadata(path)  # refuses what is no token dataset
                path.unlink()
            there = sorted(folder.glob("part-*.parquet"))
        by_name = {shard.name: shard for shard in task.plan.shards}
        finished = {  # of other parts, too: one dataset has one plan and one way to make it
            path for path in there if task.finished(path, by_name.get(path.name, _NO_SHARD))
        }
        if whole and task.finished(output):
            if verify_inputs:
                task.check_inputs(output)
            kept = _counted(output, task.plan.shards[0])
            if not (kept.failed and retry_failed):
                count(kept)
                _clear(folder)  # of a run that was killed between joining its parts and this
                return totals["rows"], totals["failed"]
        todo = []
        for shard in shards:
            path = folder / shard.name
            if path in finished:
                if verify_inputs:
                    task.check_inputs(path, shard)
                kept = _counted(path, shard)
                if not (kept.failed and retry_failed):
                    count(kept)
                    continue
            todo.append((shard, path))
        for done in engine(todo, watch):
            count(done)
        if part[1] == 1:
            _sweep(folder)  # behind an actor that was killed
        if whole:
            task.merge(output, [folder / shard.name for shard in shards])
            _clear(folder)
    return totals["rows"], totals["failed"]


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

        def lock(path: Path, kind: int) -> None:
            # Opened for writing, as locks on network file systems ask for.
            file = stack.enter_context(path.open("ab"))
            fcntl.flock(file, kind | fcntl.LOCK_NB)

        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock(folder / ".lock", fcntl.LOCK_EX if count == 1 else fcntl.LOCK_SH)
            if count > 1:
                lock(folder / f".lock-{index}-of-{count}", fcntl.LOCK_EX)
        except BlockingIOError:
            raise busy from None
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot write: {error.strerror}; choose another -o"
            ) from error
        try:
            yield
        except OSError as error:
            name = error.filename or folder
            raise OutputError(f"{name}: {error.strerror}; choose another -o") from error
        finally:
            if folder != output and not any(folder.glob("part-*")):
                (folder / ".lock").unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # someone put something else there
                    folder.rmdir()


def _inputs_digest(shard: Shard) -> str:
    total = hashlib.sha256()
    for record in shard.batch.records():
        with contextlib.suppress(OSError):
            total.update(hashlib.sha256(record.read()).digest())
    return total.hexdigest()


def _joined(digests: Iterable[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _sweep(folder: Path) -> None:
    for half_written in folder.glob(TEMPORARY + "*"):
        half_written.unlink()


def _clear(folder: Path) -> None:
    for part in folder.glob("part-*.parquet"):
        part.unlink()


def _counted(path: Path, shard: Shard) -> Progress:
    status = pq.read_table(path, columns=["status"]).column("status")
    return Progress(shard, len(status), status.to_pylist().count("failed"), kept=True)
