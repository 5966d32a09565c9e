"""The training loop: a run in a folder, its reports, its exact resuming."""

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokcodec.checkpoint import Header, read_header, read_prior
from tokcodec.config import ModelConfig
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.errors import TrainingError
from tokcodec.io.files import write_atomically
from tokcodec.io.remote import reason_of
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.train import operations, ranks
from tokcodec.train.batches import Batches
from tokcodec.train.data import Images
from tokcodec.train.export import export, mean_psnr, rounded, sheet
from tokcodec.train.perceptual import Lpips
from tokcodec.train.recipe import Recipe
from tokcodec.train.start import begin, can_warm_start_decoder
from tokcodec.train.step import Step

# In the folder of a run: the weights so far, and where it stands; a line a report, and held-out
# images with what the weights make of them.
CHECKPOINT = "model.safetensors"
STATE = "state.pt"
# Settings that are digests.
_IN_WORDS = {
    "images": "the images",
    "from": "the checkpoint to start from",
    "tokens_of": "the checkpoint whose tokens stay",
}
LOG = "log.jsonl"
_REPORTED = (16, 64, 256, 576)  # tokens of the grids that are measured at reports
_MEASURED = 50  # held-out images, at most, evenly spread
SHEET = "sheet.jpg"


@dataclass(frozen=True)
class Report:
    """How training stands. ``psnr`` is of the held-out images, ``usage`` the share of the
    codebook that the training images chose since the last report, ``utilization`` the share of
    what matrix products reach on the devices (``operations``)."""

    step: int
    steps: int
    loss: float
    psnr: Mapping[str, float]
    usage: float
    tokens_per_second: float
    utilization: float


def require_trainable(config: ModelConfig, source: Header | None, tokens_stay: bool) -> None:
    """Refuses what this loop cannot train.

    Raises:
        TrainingError: parts of other kinds than ViTs and codebooks; a source whose tokens mean
            something else, or whose decoder cannot go on though tokens are to change with it.
    """
    for model in (config, *([source.config] if source else [])):
        kinds = (model.encoder.kind, model.decoder.kind)
        if kinds not in (("patch", "patch"), ("latent", "latent")):
            raise TrainingError(
                f"an encoder of kind {kinds[0]} and a decoder of kind {kinds[1]} cannot be trained "
                "here; those of kinds patch and latent can"
            )
        if not isinstance(model.quantizer, CodebookConfig) or model.quantizer.metric == "dot":
            raise TrainingError("only a codebook of nearest vectors can be trained here")
    if source and source.config.encode_side_json() != config.encode_side_json():
        raise TrainingError(
            f"the model has another encoder or codebook than {source.path}, with which it is to "
            "begin; only what follows the tokens may differ"
        )
    if source and not tokens_stay and not can_warm_start_decoder(config, source.config):
        raise TrainingError(
            f"the model cannot go on with the decoder of {source.path}: it may only add layers, "
            "pixel_overlap or pixel_convolution; any other is trained on its tokens"
        )


def train(
    config: ModelConfig,
    recipe: Recipe,
    images: Images,
    run: Path,
    device: torch.device,
    provenance: Mapping[str, Any],
    report: Callable[[Report], None],
    source: Header | None = None,
    tokens_stay: bool = False,
    lpips: Lpips | None = None,
    moved: Callable[[int, bool], None] = lambda _, __: None,
) -> Header:
    """Trains to the last step, or goes on where the run in ``run`` stopped.

    With a ``source``, from its weights instead of from principal components and k-means. If
    ``tokens_stay``, only the decoder: encoder and codebook of the source stay as they are, so
    tokens keep their meaning, and ``model_id`` and prior are the same.

    At every report the folder gets ``model.safetensors``, the checkpoint of the weights so far,
    and ``STATE``, from which the same call goes on to the very weights of an unbroken run (on
    CUDA, if torch is set to be deterministic); ``LOG`` gets a line, and ``SHEET`` is made anew.

    ``moved`` is told of the steps that were done before, and then of each: how many, and whether
    they were.

    Of several processes each calls it; the first reports and writes.

    Raises:
        TrainingError: the run was begun with other settings or images, or diverges; as
            ``require_trainable``; an adversarial loss while tokens change; tokens that are to stay
            would not, for weights of the source that are not float16 numbers.
        OutputError: the file system refused.
    """
    require_trainable(config, source, tokens_stay)
    if recipe.adversarial and not tokens_stay:
        raise TrainingError(
            "an adversarial loss is for a decoder alone: name a checkpoint whose tokens stay"
        )
    saved = _Saved(config, recipe, images, run, provenance, source, tokens_stay)
    state = saved.state(device)
    torch.manual_seed(recipe.seed)
    model = Tokenizer(config)
    if not state and not ranks.rank():
        begin(model, images.train, recipe.seed, source)
    model = model.to(device)
    ranks.broadcast(model.state_dict().values())
    step = Step(model, recipe, tokens_stay, lpips)
    if state:
        step.load_state(state)
    saved.save(step)
    moved(step.number, True)
    reach = operations.reached(device, getattr(torch, recipe.dtype)) * ranks.count()
    share = operations.per_token(config, recipe, tokens_stay) / reach

    losses: list[Tensor] = []
    tokens = 0
    begun = time.perf_counter()
    batches = Batches(images.train, config, recipe, device, tokens_stay)
    for batch in batches.since(step.number):
        losses.append(step(batch))
        tokens += math.prod(config.token_shape(*batch.size)) * len(batch.crops) * ranks.count()
        moved(1, False)
        if step.number % recipe.report_every and step.number < recipe.steps:
            continue
        # Only here does anything wait for the device.
        values = ranks.sum_(torch.stack(losses)) / ranks.count()
        usage = float((ranks.sum_(step.used.float()) > 0).float().mean())
        seconds = time.perf_counter() - begun
        wrong = (~values.isfinite()).nonzero().flatten().tolist()
        if wrong:
            number = step.number - len(losses) + wrong[0] + 1
            raise TrainingError(f"training diverged at step {number}; lower the learning rate")
        loss, rate = float(values.mean()), tokens / seconds
        now = Report(step.number, recipe.steps, loss, {}, usage, rate, rate * share)
        report(dataclasses.replace(now, psnr=saved.save(step, now)))
        losses.clear()
        tokens = 0
        step.used.zero_()
        begun = time.perf_counter()
    ranks.wait()
    return read_header(run / CHECKPOINT)


class _Saved:
    """What a run keeps in its folder."""

    def __init__(
        self,
        config: ModelConfig,
        recipe: Recipe,
        images: Images,
        run: Path,
        provenance: Mapping[str, Any],
        source: Header | None,
        tokens_stay: bool,
    ) -> None:
        self.recipe, self.images, self.run, self.provenance = recipe, images, run, provenance
        self.source = source
        self.kept = source if tokens_stay else None  # whose tokens stay
        self.relation = "tokens_of" if tokens_stay else "from"
        self.prior = read_prior(self.kept) if self.kept and self.kept.prior_id else None
        self.start_psnr: Mapping[str, float] = {}
        facts = {
            "config": json.loads(config.to_json()),
            "recipe": dataclasses.asdict(recipe),
            "images": images.fingerprint,
        }
        if source:
            facts[self.relation] = source.checkpoint_id
        self.settings = json.dumps(facts, sort_keys=True)

    def state(self, device: torch.device) -> dict[str, Any] | None:
        """Of the step where the run stands; None where it is yet to begin.

        Raises:
            TrainingError: it is another run's.
        """
        path = self.run / STATE
        if not path.exists():
            return None
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        if other := _difference(json.loads(state["settings"]), json.loads(self.settings)):
            raise TrainingError(
                f"{self.run}: holds a run with other settings or images: {other}; repeat its "
                "command to go on with it, or choose another output and start from "
                f"{self.run / CHECKPOINT}"
            )
        self.start_psnr = state["start_psnr"]
        return state

    def save(self, step: Step, now: Report | None = None) -> Mapping[str, float]:
        """Measures and writes the checkpoint, the sheet, a line of the log with ``now``, then the
        state: the first process does. Gives the PSNR.

        Raises:
            TrainingError: the weights have diverged, or tokens would not stay.
        """
        if ranks.rank():
            return {}
        source, number = self.source, step.number
        model = rounded(step.averaged())
        try:
            sizes = _REPORTED if model.config.multiple else (model.config.num_tokens,)
            some = self.images.held_out[:: -(-len(self.images.held_out) // _MEASURED)]
            psnr = {str(n): round(mean_psnr(model, some, n), 3) for n in sizes}
        except ValueError:  # vectors that cannot be quantized
            psnr = {}
        if not psnr or not all(map(math.isfinite, psnr.values())):
            if source and not number:
                raise TrainingError(f"{source.path}: its weights hold NaN or infinite values")
            raise TrainingError(f"training diverged at step {number}; lower the learning rate")
        if not number:
            self.start_psnr = psnr
            (self.run / LOG).unlink(missing_ok=True)
        measured: dict[str, Any] = {
            "step": number,
            "held_out_psnr": psnr,
            "held_out_psnr_at_start": self.start_psnr,
            "held_out_images": len(some),
            "training_images": len(self.images.train),
            "images_sha256": self.images.fingerprint,
            "recipe": dataclasses.asdict(self.recipe),
        }
        if source:
            measured[self.relation] = source.provenance
        if self.prior and self.kept and "prior" in self.kept.provenance:
            measured["prior"] = self.kept.provenance["prior"]
        header = export(
            model,
            self.run / CHECKPOINT,
            {**self.provenance, **measured},
            self.prior,
            self.kept.reads if self.kept else (),
        )
        if self.kept and header.model_id != self.kept.model_id:
            raise TrainingError(
                f"{self.kept.path}: its weights are not float16 numbers, as a trained model is "
                "stored in; rounded to them it would give other tokens"
            )
        drawn = sheet(model, self.images.held_out)
        write_atomically(
            self.run / SHEET, lambda file: drawn.save(file, "JPEG", quality=92, subsampling=0)
        )
        if now:
            self._log(dataclasses.replace(now, psnr=psnr))
        state = {"settings": self.settings, "start_psnr": self.start_psnr, **step.state()}
        write_atomically(self.run / STATE, lambda file: torch.save(state, file))
        return psnr

    def _log(self, report: Report) -> None:
        path = self.run / LOG
        before = path.read_text().splitlines() if path.exists() else []
        # A run may have been killed between this and its state.
        lines = [line for line in before if json.loads(line)["step"] < report.step]
        lines.append(json.dumps(dataclasses.asdict(report)))
        write_atomically(path, lambda file: file.write(("\n".join(lines) + "\n").encode()))


def make_deterministic() -> None:
    """Has torch take the same order of sums each time, on CUDA, too."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS's own condition
    torch.use_deterministic_algorithms(True)


def load_progress(run: Path) -> tuple[dict[str, Any], int] | None:
    """The settings that the run in a folder was begun with, and the steps that are done; None if
    there is none.

    Raises:
        TrainingError: its state is damaged.
    """
    path = run / STATE
    if not path.exists():
        return None
    try:
        state = torch.load(path, mmap=True, weights_only=True)
        settings, step = json.loads(state["settings"]), state["step"]
        if not isinstance(settings["recipe"]["dtype"], str) or type(step) is not int:
            raise ValueError("it says neither how the run was begun nor where it stands")
    except Exception as error:  # of any kind: what torch unpickles may raise anything
        raise TrainingError(
            f"{path}: damaged: {reason_of(error)}; delete it to begin again, or choose another "
            f"output and start from {run / CHECKPOINT}"
        ) from error
    return settings, step


def _difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The settings that differ, in words; empty if none do."""
    known = dataclasses.asdict(Recipe(steps=0))  # some of which an earlier version knew nothing of
    old, new = (dict(_flat({**facts, "recipe": known | facts["recipe"]})) for facts in (then, now))
    words = []
    for name in sorted(old.keys() | new.keys()):
        values = old.get(name, "none"), new.get(name, "none")
        if values[0] != values[1]:
            label = name.removeprefix("recipe.").replace("config.", "the model's ")
            words.append(_IN_WORDS.get(name) or f"{label} {values[0]}, not {values[1]}")
    return ", ".join(words)


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
