"""The training loop: warm-up and cosine decay, moving averages, reports, exact resume."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tokcodec.checkpoint import Header, read_prior
from tokcodec.config import ModelConfig
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.config.vit import VitConfig
from tokcodec.errors import TrainingError
from tokcodec.files import write_atomically
from tokcodec.model.loading import Dtype, load
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.train.borders import kinks
from tokcodec.train.codebook import MovingAverages
from tokcodec.train.data import Pictures, draw_batch, fit_side
from tokcodec.train.export import export, mean_psnr, rounded
from tokcodec.train.start import (
    adopt,
    codebook_of,
    decoder_goes_on,
    fill_codebook,
    initialize,
)

STATE = "state.pt"  # in the folder of a run: where it stands

_START_PICTURES = 8192
_SHORTEST_PREFIX = 1 / 32  # of the codes; shorter ones decode, but nothing is trained for them


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome beside the model and the pictures.

    Attributes:
        steps: optimizer steps; the learning rate has fallen to zero after the last.
        batch_size: pictures a step.
        learning_rate: peak, of AdamW.
        warmup: steps over which the learning rate rises.
        weight_decay: on the matrices of the blocks.
        clip_norm: largest norm of the whole gradient.
        ema_decay: of the moving average of the weights, which is what ships.
        commitment: β, the weight of ‖z - sg(e)‖², both it and the error counted per pixel.
        deblocking: weight of the ``kinks`` across borders of patches in the decoded picture.
        codebook_decay: of the moving averages behind the codebook.
        dead_below: a code used less than this share of the mean is revived.
        report_every: steps between reports, where the run can resume.
        seed: of the weights and of every draw.
        dtype: of the matrix products (autocast); the weights are float32.
    """

    steps: int
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: int = 500
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    commitment: float = 0.25
    deblocking: float = 0.0
    codebook_decay: float = 0.995
    dead_below: float = 0.02
    report_every: int = 500
    seed: int = 0
    dtype: Dtype = "float32"

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then cosine decay to zero."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.learning_rate * warm * (1 + math.cos(math.pi * step / self.steps)) / 2


@dataclass(frozen=True)
class Report:
    """How training stands. ``psnr`` is of the held-out pictures, ``usage`` the share of the
    codebook that the training pictures chose since the last report."""

    step: int
    steps: int
    loss: float
    psnr: float
    usage: float
    pictures_per_second: float


def require_trainable(config: ModelConfig, source: Header | None, codes_stay: bool) -> None:
    """Refuses what this loop cannot train.

    Raises:
        TrainingError: parts of other kinds than ViTs and codebooks; a source whose codes mean
            something else, or whose decoder cannot go on though codes are to change with it.
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
            "begin; only what follows the codes may differ"
        )
    if source and not codes_stay and not decoder_goes_on(config, source.config):
        raise TrainingError(
            f"the model cannot go on with the decoder of {source.path}: it may only add layers, "
            "pixel_overlap or pixel_convolution; --codes-of trains any other decoder"
        )


def train(
    config: ModelConfig,
    recipe: Recipe,
    pictures: Pictures,
    run: Path,
    device: torch.device,
    provenance: Mapping[str, Any],
    report: Callable[[Report], None],
    source: Header | None = None,
    codes_stay: bool = False,
) -> Header:
    """Trains to the last step, or goes on where the run in ``run`` stopped.

    With a ``source``, from its weights instead of from principal components and k-means. If
    ``codes_stay``, only the decoder: encoder and codebook of the source stay as they are, so codes
    keep their meaning, and ``code_id`` and prior are the same.

    At every report the folder gets ``model.safetensors``, the checkpoint of the weights so far,
    and ``STATE``, from which the same call goes on to the very weights of an unbroken run.

    Raises:
        TrainingError: the run was begun with other settings or pictures, or diverges; as
            ``require_trainable``; codes that are to stay would not, for weights of the source that
            are not float16 numbers.
        OutputError: the file system refused.
    """
    require_trainable(config, source, codes_stay)
    facts = {
        "config": json.loads(config.to_json()),
        "recipe": dataclasses.asdict(recipe),
        "pictures": pictures.fingerprint,
    }
    relation = "codes_of" if codes_stay else "from"
    if source:
        facts[relation] = source.checkpoint_id
    settings = json.dumps(facts, sort_keys=True)
    session = _Session(config, recipe, pictures, device, source, codes_stay)
    state_path = run / STATE
    if state_path.exists():
        state = torch.load(state_path, map_location=device, weights_only=True)
        if state["settings"] != settings:
            raise TrainingError(
                f"{run}: holds a run with other settings or pictures, or of another version; "
                "repeat its command to go on with it, or choose another -o"
            )
        session.load_state(state)
    else:
        session.start()

    prior = read_prior(source) if source and source.prior_id and codes_stay else None

    def save() -> tuple[Header, float]:
        model = rounded(session.averaged())
        try:
            psnr = mean_psnr(model, pictures.held_out, device)
        except ValueError:  # vectors that cannot be quantized
            psnr = math.nan
        if not math.isfinite(psnr):
            if source and not session.step:
                raise TrainingError(f"{source.path}: its weights hold NaN or infinite values")
            raise TrainingError(f"training diverged at step {session.step}; lower --learning-rate")
        if session.step == 0:
            session.start_psnr = psnr
        measured: dict[str, Any] = {
            "step": session.step,
            "held_out_psnr": round(psnr, 3),
            "held_out_psnr_at_start": round(session.start_psnr, 3),
            "held_out_pictures": len(pictures.held_out),
            "training_pictures": len(pictures.train),
            "pictures_sha256": pictures.fingerprint,
            "recipe": dataclasses.asdict(recipe),
        }
        if source:
            measured[relation] = source.provenance
        if prior and source and "prior" in source.provenance:
            measured["prior"] = source.provenance["prior"]
        reads = source.reads if source and codes_stay else ()
        header = export(model, run / "model.safetensors", {**provenance, **measured}, prior, reads)
        if source and codes_stay and header.code_id != source.code_id:
            raise TrainingError(
                f"{source.path}: its weights are not float16 numbers, as a trained model is "
                "stored in; rounded to them it would give other codes"
            )
        state = {"settings": settings, **session.state()}
        write_atomically(state_path, lambda file: torch.save(state, file))
        return header, psnr

    header, psnr = save()
    used = torch.zeros(config.quantizer.codebook_size, dtype=torch.bool, device=device)
    losses: list[Tensor] = []
    begun = time.perf_counter()
    while session.step < recipe.steps:
        loss, codes = session.advance()
        losses.append(loss)
        used[codes.flatten()] = True
        if session.step % recipe.report_every == 0 or session.step == recipe.steps:
            seconds = time.perf_counter() - begun
            header, psnr = save()
            rate = len(losses) * recipe.batch_size / seconds
            mean_loss = float(torch.stack(losses).mean())
            usage = float(used.float().mean())
            report(Report(session.step, recipe.steps, mean_loss, psnr, usage, rate))
            losses.clear()
            used.zero_()
            begun = time.perf_counter()
    return header


class _Session:
    """Model, averages and optimizer at one step."""

    def __init__(
        self,
        config: ModelConfig,
        recipe: Recipe,
        pictures: Pictures,
        device: torch.device,
        source: Header | None,
        codes_stay: bool,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.pictures, self.device = recipe, pictures, device
        self.source, self.codes_stay = source, codes_stay
        self.step = 0
        self.start_psnr = 0.0
        self.model = Tokenizer(config).to(device)
        if codes_stay:
            self.model.encoder.requires_grad_(False)
        matrices = [
            parameter
            for name, parameter in self.model.named_parameters()
            if ".blocks." in name and parameter.ndim == 2 and parameter.requires_grad
        ]
        decayed = set(matrices)
        rest = [p for p in self.model.parameters() if p.requires_grad and p not in decayed]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": recipe.weight_decay},
                {"params": rest, "weight_decay": 0.0},
            ],
            betas=(0.9, 0.99),
        )

    def start(self) -> None:
        generator = torch.Generator().manual_seed(self.recipe.seed)
        chosen = torch.randperm(len(self.pictures.train), generator=generator)[:_START_PICTURES]
        pixels = torch.from_numpy(self.pictures.train[chosen.sort().values.numpy()]).float() / 255
        side = self.model.config.preprocessing.model_size
        pixels = fit_side(pixels, side).to(self.device)
        pixels = self.model.normalize(pixels)
        initialize(self.model, pixels, generator)
        if self.source:
            adopt(self.model, load(self.source, self.device))
        else:
            fill_codebook(self.model, pixels, generator)
        self._begin_averages()

    def _begin_averages(self) -> None:
        config = self.model.config
        self.averages = MovingAverages(
            codebook_of(self.model),
            self.recipe.batch_size * config.num_codes,
            self.recipe.codebook_decay,
            self.recipe.dead_below,
        )
        self.average = AveragedModel(
            self.model,
            multi_avg_fn=get_ema_multi_avg_fn(self.recipe.ema_decay),  # type: ignore[no-untyped-call]
            use_buffers=True,
        )

    def averaged(self) -> Tokenizer:
        model = self.average.module
        assert isinstance(model, Tokenizer)
        if self.codes_stay:  # not even -0.0 may become 0.0, as averaging makes it
            model.encoder.load_state_dict(self.model.encoder.state_dict())
            model.quantizer.load_state_dict(self.model.quantizer.state_dict())
        return model

    def advance(self) -> tuple[Tensor, Tensor]:
        """One step. Gives the loss and the codes of its pictures, [B, *code_shape]."""
        recipe, model, config = self.recipe, self.model, self.model.config
        # A generator a step: what a step draws depends on its number alone, resumed or not.
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.step + 1)
        side = config.preprocessing.model_size
        batch = draw_batch(self.pictures.train, side, recipe.batch_size, generator)
        pixels = model.normalize(batch.to(self.device))
        low = recipe.dtype == "bfloat16"
        # Codes that are to stay are those that encoding gives, in float32.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low and not self.codes_stay):
            z = model.encoder(pixels)
        z = z.float()
        try:
            codes = model.quantizer.codes(z)
        except ValueError as error:
            raise TrainingError(
                f"training diverged at step {self.step}: {error}; lower --learning-rate"
            ) from error
        z_q = model.quantizer.lookup(codes)
        straight_through = z_q if self.codes_stay else z + (z_q - z).detach()
        kept = _draw_prefix(config.num_codes, generator) if config.prefix_codes else None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            decoded = model.decoder(straight_through[:, :kept])
        loss = F.mse_loss(decoded.float(), pixels)
        assert isinstance(config.decoder, VitConfig)
        patch_size = config.decoder.patch_size
        if recipe.deblocking and 1 < patch_size < side:
            loss = loss + recipe.deblocking * kinks(decoded.float(), patch_size)
        if not self.codes_stay:
            commitment = (z - z_q).square().sum(dim=-1).mean() * config.num_codes / (3 * side**2)
            loss = loss + recipe.commitment * commitment

        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(self.step)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        self.optimizer.step()
        if not self.codes_stay:
            self.averages.update(z.detach().flatten(0, -2), codes.flatten(), generator)
        self.average.update_parameters(model)
        self.step += 1
        return loss.detach(), codes

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "start_psnr": self.start_psnr,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averages": self.averages.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.step, self.start_psnr = state["step"], state["start_psnr"]
        self.model.load_state_dict(state["model"])
        self._begin_averages()
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.averages.load_state(state["averages"])


def _draw_prefix(count: int, generator: torch.Generator) -> int:
    """Codes that a step decodes: all, or as often a number whose logarithm is uniform.

    Nested dropout (arXiv 1402.0915); on the tail of the codes, as One-D-Piece (arXiv 2501.10064,
    section 3) has it.
    """
    whole, share = torch.rand(2, generator=generator).tolist()
    return count if whole < 0.5 else max(1, round(count * _SHORTEST_PREFIX**share))
