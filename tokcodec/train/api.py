"""``train``: a checkpoint from images, in one call."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from tokcodec.checkpoint import find
from tokcodec.config import ModelConfig
from tokcodec.errors import ConfigError, TrainingError
from tokcodec.io.read import MAX_BYTES, read_text
from tokcodec.model.loading import fastest_dtype, resolve_device
from tokcodec.model.runtime import Dtype
from tokcodec.train import ranks
from tokcodec.train.data import FINGERPRINT, load_images
from tokcodec.train.folder import Begun, Report, RunFolder
from tokcodec.train.loop import deterministic as deterministic_torch
from tokcodec.train.loop import train_model
from tokcodec.train.perceptual import load_lpips
from tokcodec.train.presets import PRESETS
from tokcodec.train.recipe import Recipe
from tokcodec.train.run import Run, describe, require_trainable
from tokcodec.train.start import can_warm_start_decoder

_NAMED = 10  # skipped images that are listed


@dataclass(frozen=True)
class Progress:
    """Where a training is.

    Attributes:
        stage: ``reading`` images, ``starting``, or ``training``.
        done, total: images, or steps; ``total`` is None if it is not known; 0 in messages.
        message: what is done now, or was found.
        report: at the steps that have one.
    """

    stage: Literal["reading", "starting", "training"]
    done: int = 0
    total: int | None = 0
    message: str = ""
    report: Report | None = None


@dataclass(frozen=True)
class Result:
    """What a training has made.

    Attributes:
        checkpoint: the file.
        report: the last one.
        resumed_at: the number of steps that an earlier call had done.
    """

    checkpoint: Path
    report: Report
    resumed_at: int


def train(
    sources: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    model: str | Path | ModelConfig = "tokcodec",
    from_: str | None = None,
    tokens_of: str | None = None,
    steps: int = 20_000,
    batch_tokens: int = Recipe.tokens,
    learning_rate: float = Recipe.learning_rate,
    warmup: int | None = None,
    rate_weight: float = Recipe.rate_weight,
    deblocking: float = Recipe.deblocking,
    spectra: float = Recipe.spectra,
    lpips: float = Recipe.lpips,
    adversarial: float = Recipe.adversarial,
    report_every: int = Recipe.report_every,
    held_out: str | Path | Iterable[str] | None = None,
    seed: int = Recipe.seed,
    dtype: Literal["auto"] | Dtype = "auto",
    device: str = "auto",
    compiled: bool | None = None,
    deterministic: bool = False,
    workers: int = 2,
    max_image_bytes: int = MAX_BYTES,
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Result:
    """Trains a tokenizer on images.

    The folder ``output`` gets ``model.safetensors``, a checkpoint of the weights so far, at every
    report. After an interrupt (Ctrl-C, which waits for the end of a step, or a crash), the same
    call resumes and ends with the same weights as without it.

    >>> train("photos", "run", steps=1000).checkpoint  # doctest: +SKIP
    PosixPath('run/model.safetensors')

    Args:
        sources: images: files, folders, globs, WebDataset tars and Parquet files; paths or URLs.
        output: the folder of the run.
        model: a preset (see ``presets``), a JSON file with a ``ModelConfig``, or one.
        from_: a checkpoint whose weights training begins with. It has the same encoder and
            codebook, and the same decoder or one of fewer layers or less ``pixel_overlap``.
        tokens_of: a checkpoint for whose tokens only a decoder is trained.
        steps, learning_rate, rate_weight, deblocking, spectra, lpips, adversarial, report_every,
            seed: see ``Recipe``.
        batch_tokens: tokens per step, ``Recipe.tokens``.
        warmup: see ``Recipe``; if None, a tenth of the steps, 500 at most.
        held_out: images that are kept from training to measure on: their keys (see
            ``load_images``), or a file with one key per line. If None, one in 32.
        dtype: of matrix products. ``auto`` is that of the run if it resumes, else bfloat16 if the
            device has it in hardware.
        device: ``auto`` is CUDA if there is a GPU.
        compiled: use ``torch.compile``; if None, as the run if it resumes, else on CUDA.
        deterministic: get the same weights from the same call on CUDA too, more slowly.
        workers: threads that read images.
        max_image_bytes: larger images are skipped.
        provenance: further facts for the checkpoint.
        progress: called for every image that is read, step, and message.

    Raises:
        TrainingError: an option is out of its range; another process is training in ``output``, or
            it is of a run with other settings; see also ``train_model``.
        ConfigError, CheckpointError: the model or a checkpoint cannot be read.
        DatasetError: there are no images.
        DeviceError: there is no such device.
        OutputError: a file cannot be written.
    """
    if from_ and tokens_of:
        raise TrainingError("from_ and tokens_of exclude each other: both begin with a checkpoint")
    config = model if isinstance(model, ModelConfig) else read_config(str(model))
    source = find(name) if (name := from_ or tokens_of) else None
    recipe = Recipe(
        steps=steps,
        tokens=batch_tokens,
        learning_rate=learning_rate,
        warmup=min(Recipe.warmup, steps // 10) if warmup is None else warmup,
        rate_weight=rate_weight,
        deblocking=deblocking,
        spectra=spectra,
        lpips=lpips,
        adversarial=adversarial,
        report_every=report_every,
        seed=seed,
        dtype="float32" if dtype == "auto" else dtype,
    )
    require_trainable(config, recipe, source, bool(tokens_of))
    keys = _read_keys(held_out)
    several = [sources] if isinstance(sources, str | Path) else sources
    network = load_lpips() if lpips else None
    folder = RunFolder(Path(output))

    with (
        ranks.process_group(device) as own,
        deterministic_torch(deterministic),
        contextlib.nullcontext() if ranks.rank() else folder.locked(),
    ):
        if ranks.rank():
            progress = _silent
        torch_device = resolve_device(own)
        begun = folder.begun()
        recipe = dataclasses.replace(recipe, **_by_machine(dtype, compiled, begun, torch_device))
        if begun:
            folder.require_same(begun, describe(config, recipe, source, bool(tokens_of)))
        with ranks.main_process_first():
            images = load_images(
                [str(source) for source in several],
                keys,
                config.preprocessing,
                folder.path,
                workers,
                _Counter(progress),
                max_image_bytes,
            )
        run = Run(
            config,
            recipe,
            images,
            folder,
            torch_device,
            source,
            bool(tokens_of),
            network,
            provenance or {},
        )
        for message in _overview(run, begun):
            progress(Progress("starting", message=message))
        header = train_model(
            run,
            lambda message: progress(Progress("starting", message=message)),
            lambda done, report: progress(Progress("training", done, steps, report=report)),
        )
        return Result(header.path, folder.last_report(), begun.step if begun else 0)


def is_first_process() -> bool:
    """Whether this is the only process, or the first one that ``torchrun`` started."""
    return os.environ.get("RANK", "0") == "0"


def read_config(model: str) -> ModelConfig:
    """The config of a preset, or in a JSON file.

    Raises:
        TrainingError: there is neither.
        ConfigError: the file does not hold a config.
    """
    if model in PRESETS:
        return PRESETS[model]
    if not Path(model).is_file():
        names = ", ".join(PRESETS)
        raise TrainingError(f"is neither a preset ({names}) nor a file", name=model)
    try:
        return ModelConfig.from_json(_read_text(model))
    except ConfigError as error:
        raise error.named(model) from error


def _read_keys(held_out: str | Path | Iterable[str] | None) -> frozenset[str]:
    if held_out is None:
        return frozenset()
    lines = _read_text(held_out).split("\n") if isinstance(held_out, str | Path) else held_out
    return frozenset(lines) - {""}


def _read_text(path: str | Path) -> str:
    try:
        return read_text(path)
    except OSError as error:
        raise TrainingError(f"cannot read it as text: {error.strerror}", name=path) from error


def _by_machine(
    dtype: str, compiled: bool | None, begun: Begun | None, device: torch.device
) -> dict[str, Any]:
    """The settings whose defaults depend on the machine; a run that resumes keeps them."""
    here = {"dtype": fastest_dtype(device), "compiled": device.type == "cuda"}
    then = begun.settings["recipe"] if begun else here
    return {
        "dtype": then["dtype"] if dtype == "auto" else dtype,
        "compiled": then["compiled"] if compiled is None else compiled,
    }


def _overview(run: Run, begun: Begun | None) -> list[str]:
    """What is said before training begins."""
    skipped = run.images.skipped
    lines = [f"skipped {line}" for line in skipped[:_NAMED]]
    if len(skipped) > _NAMED:
        path = run.folder.path / FINGERPRINT
        lines.append(f"skipped {len(skipped) - _NAMED:,} more; {path} lists them all")
    if (
        run.source
        and not begun
        and run.tokens_stay
        and not can_warm_start_decoder(run.config, run.source.config)
    ):
        lines.append(f"the decoder begins anew: it does not fit that of {run.source.path}")
    resumed = f"resuming at step {begun.step:,}, " if begun else ""
    several = f", {ranks.count()} processes" if ranks.count() > 1 else ""
    lines.append(
        f"{len(run.images.train):,} images to train on, {len(run.images.held_out):,} held out; "
        f"{resumed}{run.recipe.dtype} on {run.device}{several}"
    )
    return lines


class _Counter:
    """Counts the images that are read."""

    def __init__(self, progress: Callable[[Progress], None]) -> None:
        self.progress, self.done = progress, 0

    def __call__(self, total: int | None) -> None:
        self.done += 1
        self.progress(Progress("reading", self.done, total))


def _silent(_: Progress) -> None:
    """The first process reports for all."""
