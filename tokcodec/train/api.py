"""``train``: trains a checkpoint on images."""

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from tokcodec.batch.jobs import names_of
from tokcodec.checkpoint import find
from tokcodec.config import ModelConfig
from tokcodec.errors import ConfigError, TrainingError
from tokcodec.io.files import refuse_file_name
from tokcodec.io.lock import locked
from tokcodec.io.read import MAX_BYTES, read_text
from tokcodec.model.loading import fastest_dtype, resolve_device
from tokcodec.model.runtime import Dtype
from tokcodec.train import ranks
from tokcodec.train.data import FINGERPRINT, Images, load_images
from tokcodec.train.folder import Begun, Report, RunFolder
from tokcodec.train.loop import deterministic as deterministic_torch
from tokcodec.train.loop import train_model
from tokcodec.train.perceptual import load_lpips
from tokcodec.train.presets import PRESETS
from tokcodec.train.recipe import Recipe
from tokcodec.train.run import Run
from tokcodec.train.start import can_warm_start_decoder

_NAMED = 10  # the most skipped images that a message lists


@dataclass(frozen=True)
class Progress:
    """The progress of a training.

    Attributes:
        stage: ``reading`` images, ``starting``, or ``training``.
        done, total: images or steps; 0 in messages. ``total`` is None if it is not known.
        message: a message for the user.
        report: the report on the steps since the last report, if this step has one.
    """

    stage: Literal["reading", "starting", "training"]
    done: int = 0
    total: int | None = 0
    message: str = ""
    report: Report | None = None


@dataclass(frozen=True)
class Result:
    """The result of a training.

    Attributes:
        checkpoint: the file of the checkpoint.
        report: the last report.
        resumed_at: the number of steps of earlier calls.
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

    Every report writes ``model.safetensors``, a checkpoint of the current weights, to the folder
    ``output``. After an interrupt (Ctrl-C, which waits for the end of a step) or a crash, the same
    call resumes, and ends with the same weights as without the interrupt.

    >>> train("photos", "run", steps=1000).checkpoint  # doctest: +SKIP
    PosixPath('run/model.safetensors')

    Args:
        sources: images: files, folders, globs, WebDataset tars and Parquet files; paths or URLs.
        output: the folder of the run.
        model: a preset (see ``presets``), a JSON file with a ``ModelConfig``, or one.
        from_: a checkpoint with the initial weights. It has the same encoder and codebook, and the
            same decoder, or one with fewer layers or less ``pixel_overlap``.
        tokens_of: a checkpoint; only a decoder for its tokens is trained.
        steps, learning_rate, rate_weight, deblocking, spectra, lpips, adversarial, report_every,
            seed: see ``Recipe``.
        batch_tokens: tokens per step, ``Recipe.tokens``.
        warmup: see ``Recipe``; if None, a tenth of the steps, 500 at most.
        held_out: images to measure on, which are not trained on: their keys (see
            ``load_images``), or a file with one key per line. If None, the first image and one in
            32 of the others.
        dtype: of matrix products. ``auto`` is that of a run that resumes, else the faster one.
        device: ``auto`` is CUDA if there is a GPU.
        compiled: use ``torch.compile``. If None, as before if the run resumes, else on CUDA.
        deterministic: get the same weights from the same call on CUDA, too, which is slower.
        workers: threads that read images.
        max_image_bytes: larger images are skipped.
        provenance: further facts for the checkpoint.
        progress: called after every image that is read and every step, and with messages.

    Raises:
        ArgumentError: ``output`` is named like a file.
        TrainingError: an option is out of range, or the folder contains a run with other settings;
            see also ``Run`` and ``train_model``.
        ConfigError, CheckpointError: the model or a checkpoint cannot be read.
        DatasetError: there are no images.
        DeviceError: there is no such device.
        OutputError: a file cannot be written, or another run is using the folder.
    """
    if from_ and tokens_of:
        raise TrainingError("from_ and tokens_of cannot be given together")
    for option, value in (("workers", workers), ("max_image_bytes", max_image_bytes)):
        if value < 1:
            raise TrainingError(f"{option} is {value}, but must be 1 or more")
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
    keys = _read_keys(held_out)
    network = load_lpips() if lpips else None
    refuse_file_name(Path(output))
    folder = RunFolder(Path(output))

    with (
        ranks.process_group(device) as own,
        deterministic_torch(deterministic),
        contextlib.nullcontext() if ranks.rank() else locked(folder.path),
    ):
        if ranks.rank():
            progress = lambda _: None  # noqa: E731 (the first process reports for all)
        torch_device = resolve_device(own)
        begun = folder.begun()
        recipe = dataclasses.replace(recipe, **_by_machine(dtype, compiled, begun, torch_device))
        run = Run(
            config,
            recipe,
            folder,
            torch_device,
            source,
            bool(tokens_of),
            network,
            provenance or {},
        )
        if begun:
            folder.require_same(begun, run.settings)
        with ranks.main_process_first():
            number = itertools.count(1)
            images = load_images(
                names_of(sources),
                keys,
                config.preprocessing,
                folder.path,
                workers,
                lambda total: progress(Progress("reading", next(number), total)),
                max_image_bytes,
            )

        def tell(message: str) -> None:
            progress(Progress("starting", message=message))

        for message in _overview(run, images, begun):
            tell(message)
        header = train_model(
            run,
            images,
            tell,
            lambda done, report: progress(Progress("training", done, steps, report=report)),
        )
        return Result(header.path, folder.last_report(), begun.step if begun else 0)


def is_first_process() -> bool:
    """Whether this is the only process, or the first one that ``torchrun`` started."""
    return os.environ.get("RANK", "0") == "0"


def read_config(model: str) -> ModelConfig:
    """The config of a preset, or from a JSON file."""
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
    """The settings whose defaults depend on the machine, unless the run resumes."""
    here = {"dtype": fastest_dtype(device), "compiled": device.type == "cuda"}
    then = begun.settings["recipe"] if begun else here
    return {
        "dtype": then["dtype"] if dtype == "auto" else dtype,
        "compiled": then["compiled"] if compiled is None else compiled,
    }


def _overview(run: Run, images: Images, begun: Begun | None) -> list[str]:
    """Messages before training begins."""
    lines = [f"skipped {line}" for line in images.skipped[:_NAMED]]
    if more := len(images.skipped[_NAMED:]):
        lines.append(f"skipped {more:,} more; {run.folder.path / FINGERPRINT} lists them all")
    if (
        run.source
        and not begun
        and run.tokens_stay
        and not can_warm_start_decoder(run.config, run.source.config)
    ):
        lines.append(f"a new decoder is trained: that of {run.source.path} does not fit")
    resumed = f"resuming at step {begun.step:,}, " if begun else ""
    several = f", {ranks.count()} processes" if ranks.count() > 1 else ""
    lines.append(
        f"{len(images.train):,} images to train on, {len(images.held_out):,} held out; "
        f"{resumed}{run.recipe.dtype} on {run.device}{several}"
    )
    return lines
