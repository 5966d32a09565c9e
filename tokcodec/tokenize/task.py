"""What every file of one dataset must agree on: a plan, a model and settings."""

import contextlib
import dataclasses
import hashlib
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tokcodec.checkpoint import Header
from tokcodec.config.geometry import Fit
from tokcodec.dataset.table import COMPANIONS, Metadata, merge, read_metadata
from tokcodec.dataset.views import Views
from tokcodec.errors import DatasetError, Hint
from tokcodec.image import WHITE
from tokcodec.inputs.webdataset import Tar
from tokcodec.io.remote import is_there
from tokcodec.model.runtime import BATCH_SIZE, Dtype
from tokcodec.tokenize.plan import Plan, Shard

_ELSEWHERE = Hint.OTHER_OUTPUT_OR_RESTART


@dataclass(frozen=True)
class Settings:
    """What beside model and inputs decides the rows.

    Attributes:
        fit, background: see ``Codec.compress``; ``tile`` has no shape of tokens.
            ``native`` gives every row rows and columns of tokens of its own.
        views: rows an image, see ``views.read_views``.
        tokens: tokens a row, the first ones; all if None.
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
            raise DatasetError("the fit tile gives rows of many tiles; take crop, pad or stretch")
        if self.fit == "native" and self.tokens is not None:
            raise DatasetError("the fit native has no number of tokens to choose")
        if self.fit == "native" and self.views == "ten-crop":
            raise DatasetError("ten crops cut tiles, which the fit native has not")


@dataclass(frozen=True)
class Progress:
    """What a step reports of a shard so far.

    Attributes:
        shard: which.
        rows: rows.
        failed: those of them that stand for an image that could not be read, one each.
        images: all images, failed ones too.
        bytes_in: bytes read of those that did not fail.
        error: of the last image, if that failed: its key, and why.
        kept: it was done before.
    """

    shard: Shard
    rows: int = 0
    failed: int = 0
    images: int = 0
    bytes_in: int = 0
    error: tuple[str, str] | None = None
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
            else settings.tokens or header.config.num_tokens,
            "versions": {**versions, "machine": platform.machine()},
        }
        self.metadata = Metadata(
            model=header.config,
            model_id=header.model_id,
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
        if not is_there(path):
            return False
        found = read_metadata(path)
        self._check_settings(path, found)
        if not shard and (found.shards, found.shard) != (1, ""):
            raise DatasetError("is one shard of a dataset", name=path, hint=_ELSEWHERE)
        if found.plan != self.metadata.plan or (shard and found.shard != shard.digest):
            raise DatasetError(
                "its inputs have changed since (names, sizes or times)", name=path, hint=_ELSEWHERE
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
            raise DatasetError(
                "the bytes of its inputs have changed since", name=path, hint=_ELSEWHERE
            )

    def merge(self, path: Path, parts: Sequence[Path]) -> None:
        """Joins all shards' files to one.

        Raises:
            OutputError: the file system refused.
        """
        inputs = _joined(read_metadata(share).inputs for share in parts)
        merge(path, parts, dataclasses.replace(self.metadata, shards=1, inputs=inputs))

    def _check_settings(self, path: Path, found: Metadata) -> None:
        own = self.metadata
        if found.model_id != own.model_id:
            raise DatasetError(
                f"is of model {found.model_id[:8]}, not {own.model_id[:8]}",
                name=path,
                hint=_ELSEWHERE,
            )
        for name in sorted(own.run.keys() | found.run.keys()):
            then, now = found.run.get(name), own.run.get(name)
            if then != now:
                raise DatasetError(
                    f"was made with {name} {then}, not {now}", name=path, hint=_ELSEWHERE
                )


def _inputs_digest(shard: Shard) -> str:
    total = hashlib.sha256()
    for record in shard.batch.records():
        with contextlib.suppress(OSError):
            total.update(hashlib.sha256(record.read()).digest())
    return total.hexdigest()


def _joined(digests: Iterable[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()
