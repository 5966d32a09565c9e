"""``Task``: the plan, the model and the settings of a dataset."""

import contextlib
import dataclasses
import hashlib
import math
import platform
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version

from tokcodec import __version__
from tokcodec.checkpoint import Header
from tokcodec.codec import Codec
from tokcodec.config import ModelConfig
from tokcodec.config.geometry import Fit
from tokcodec.dataset.folder import DatasetFolder
from tokcodec.dataset.table import GRID_FITS, Metadata, join, schema
from tokcodec.dataset.views import Views
from tokcodec.errors import DatasetError
from tokcodec.io.job import Job
from tokcodec.model.runtime import Dtype
from tokcodec.tokenize.plan import Plan, Shard

RunJob = Job[Shard | Plan]  # of one file: a shard, or all shards in one


@dataclass(frozen=True)
class Settings:
    """What decides the rows, apart from the model and the inputs.

    Attributes:
        fit, background: see ``Codec.compress``; not ``tile``, as images of many tiles have no
            grid. In ``aspect`` and ``native`` every row has its own grid.
        views: rows of an image.
        tokens: see ``Codec.compress``; the model's default if None.
        device, dtype, batch_size, compiled: see ``Codec.load``; ``device`` is ``cpu`` or ``cuda``.
    """

    fit: Fit
    views: Views
    background: tuple[int, int, int]
    tokens: int | None
    device: str
    dtype: Dtype
    batch_size: int
    compiled: bool

    def __post_init__(self) -> None:
        if self.fit == "tile":
            raise DatasetError(
                "rows of the fit tile would have many tiles; take crop, pad or stretch"
            )
        if self.fit == "native" and self.tokens is not None:
            raise DatasetError("the fit native has no number of tokens or image size to choose")
        if self.fit in GRID_FITS and self.views.kind in ("ten-crop", "random"):
            raise DatasetError(f"views {self.views} are square tiles; take the fit crop or stretch")

    def load(self, weights: str | Header) -> Codec:
        """Load the codec of a checkpoint."""
        return Codec.load(
            weights,
            self.device,
            runtime="torch",
            batch_size=self.batch_size,
            dtype=self.dtype,
            compiled=self.compiled,
        )

    def tokens_of(self, config: ModelConfig) -> int | None:
        """The tokens of a row; the maximum if every row has its own grid, None without one."""
        if self.fit == "native":
            return None
        if self.fit == "aspect":
            return self.tokens or config.num_tokens
        return math.prod(config.place(self.fit, (1, 1), self.tokens)[1])


@dataclass(frozen=True)
class Checks:
    """How strictly finished files are checked.

    Attributes:
        verify_inputs: compare the bytes of the inputs, not only their names, sizes and times.
        retry_failed: make files with failed rows again.
    """

    verify_inputs: bool = False
    retry_failed: bool = False


@dataclass(frozen=True)
class Progress:
    """The progress of a shard.

    Attributes:
        shard: the shard.
        dataset: the number of the dataset, where a run makes several.
        rows, failed: the rows, and those of failed images; each of these has one row.
        images: the images, failed ones included.
        bytes_in: the bytes of the images that did not fail.
        bytes_read: about the number of bytes that were read of the sources.
        error: the key and the error of the last image, if it failed.
        kept: the shard was finished before this run.
    """

    shard: Shard
    dataset: int = 0
    rows: int = 0
    failed: int = 0
    images: int = 0
    bytes_in: int = 0
    bytes_read: int = 0
    error: tuple[str, str] | None = None
    kept: bool = False

    def since(self, before: "Progress") -> "Progress":
        """The progress since ``before``."""
        return replace(
            self,
            rows=self.rows - before.rows,
            failed=self.failed - before.failed,
            images=self.images - before.images,
            bytes_in=self.bytes_in - before.bytes_in,
            bytes_read=self.bytes_read - before.bytes_read,
        )


class Task:
    """A plan, a model and settings: what all files of one dataset must agree on.

    Raises:
        DatasetError: a column of text has the name of another column.
    """

    def __init__(self, header: Header, settings: Settings, plan: Plan) -> None:
        self.header, self.settings, self.plan = header, settings, plan
        versions = {"tokcodec": __version__, "torch": version("torch"), "pillow": version("pillow")}
        run = {
            **dataclasses.asdict(settings),
            **settings.views.settings,
            **plan.cut,
            "background": list(settings.background),
            "tokens": settings.tokens_of(header.config),
            "text_columns": list(plan.text_columns),
            "versions": {**versions, "machine": platform.machine()},
        }
        self.metadata = Metadata(
            model=header.config,
            model_id=header.model_id,
            run=run,
            plan=plan.digest,
            shards=len(plan.shards),
            number=0,
            shard="",
            inputs="",
        )
        schema(self.metadata, plan.text_columns)

    def job(self, folder: DatasetFolder, name: str, source: Shard | Plan, checks: Checks) -> RunJob:
        """The job of an existing file, with its state.

        Args:
            folder, name: the file.
            source: the shard that belongs into it, or the plan for all shards in one file.
            checks: how strictly it is checked.
        """
        job = Job(source, folder / name)
        shard = source if isinstance(source, Shard) else None
        try:
            found = folder.metadata(name)
        except DatasetError as error:
            return replace(job, state="foreign", why=error.reason)
        if why := self._other_run(found):
            return replace(job, state="foreign", why=why)
        if not shard and (found.shards, found.shard) != (1, ""):
            return replace(job, state="foreign", why="is one shard of a dataset")
        if found.plan != self.metadata.plan or (
            shard and (found.number, found.shard) != (shard.number, shard.digest)
        ):
            why = "its inputs have changed since (names, sizes or times)"
            return replace(job, state="stale", why=why)
        if checks.verify_inputs and found.inputs != self._inputs_now(shard):
            why = "the bytes of its inputs have changed since"
            return replace(job, state="stale", why=why)
        if checks.retry_failed and self.count(job).failed:
            return replace(job, why="has failed rows")
        return replace(job, state="current")

    def count(self, job: RunJob) -> Progress:
        """Count what is in a finished file; raises DatasetError if it is damaged."""
        assert job.target
        shards = [job.source] if isinstance(job.source, Shard) else self.plan.shards
        folder, remedy = (
            DatasetFolder(job.target.parent),
            "delete it, or start again with overwriting",
        )
        with folder.reading(job.target.name, remedy) as file:
            table = file.read(columns=["status", "view"])
            failed = table.column("status").to_pylist().count("failed")
        return Progress(
            shards[0],
            rows=len(table),
            failed=failed,
            images=table.column("view").to_pylist().count(0),
            bytes_read=sum(shard.batch.source_bytes for shard in shards),
            kept=True,
        )

    def join(self, shards: DatasetFolder, folder: DatasetFolder, name: str) -> None:
        """Join the files of all shards to one; raises OutputError if that cannot be written."""
        names = [shard.name for shard in self.plan.shards]
        inputs = _joined(shards.metadata(own).inputs for own in names)
        metadata = replace(self.metadata, shards=1, inputs=inputs)
        with folder.writing(name) as file:
            join(file, map(shards.open, names), metadata)

    def _other_run(self, found: Metadata) -> str | None:
        """How the run of a file with this metadata differs from this one; None if it does not."""
        own = self.metadata
        if found.model_id != own.model_id:
            return f"is of model {found.model_id[:6]}, not {own.model_id[:6]}"
        # The batch size follows from the fit and the model, so it is compared last.
        names = sorted(
            own.run.keys() | found.run.keys(), key=lambda name: (name == "batch_size", name)
        )
        for name in names:
            then, now = found.run.get(name), own.run.get(name)
            if then != now:
                return f"was made with {name} {then}, not {now}"
        return None

    def _inputs_now(self, shard: Shard | None) -> str:
        """The digest of the present bytes of a shard's inputs, or of those of all shards."""
        if shard:
            return _inputs_digest(shard)
        return _joined(_inputs_digest(shard) for shard in self.plan.shards)


def _inputs_digest(shard: Shard) -> str:
    total = hashlib.sha256()
    for record in shard.batch.records():
        for own in (*record.texts.values(), record):
            with contextlib.suppress(OSError):
                total.update(hashlib.sha256(own.read()).digest())
    return total.hexdigest()


def _joined(digests: Iterable[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()
