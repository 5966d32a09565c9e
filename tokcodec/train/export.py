"""The checkpoint of a run: rounded to float16, measured and written at every report."""

import copy
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tokcodec import checkpoint
from tokcodec.coding.prior import Prior
from tokcodec.errors import TrainingError
from tokcodec.io.files import write_atomically
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.train.batches import longest_grid
from tokcodec.train.data import Images
from tokcodec.train.run import Run
from tokcodec.train.trainer import Trainer

_REPORTED = (16, 64, 256, 576)  # tokens of the square grids that are measured
_MEASURED = 50  # held-out images, at most
_ON_SHEET, _ON_SHEET_TOKENS = 8, 64  # images, and tokens of each if the model takes any grid


def diverged(step: int) -> TrainingError:
    """The error of a training whose numbers are no longer finite."""
    return TrainingError(f"training diverged before step {step}; lower the learning rate")


class Exporter:
    """Measures the averaged weights and writes them as a checkpoint.

    Attributes:
        start_psnr: the PSNR before the first step.
    """

    def __init__(self, run: Run, images: Images) -> None:
        self.run, self.images = run, images
        self.start_psnr: Mapping[str, float] = {}
        self.kept = run.source if run.tokens_stay else None  # the checkpoint with these tokens
        self.prior = checkpoint.read_prior(self.kept) if self.kept and self.kept.prior_id else None
        held_out = images.held_out
        longest = longest_grid(run.config, held_out.shape[-1]) if run.config.multiple else 0
        self.grids = [count for count in _REPORTED if math.isqrt(count) <= longest]
        self.grids = self.grids or [run.config.num_tokens]
        self.measured = held_out[:: -(-len(held_out) // _MEASURED)]

    def export(self, trainer: Trainer) -> dict[str, float]:
        """Writes the checkpoint and the sheet; returns the PSNR by the number of tokens.

        Raises:
            TrainingError: the weights are not finite, or rounding them would change tokens.
        """
        run = self.run
        model = rounded(trainer.averaged())
        psnr = self._psnr(model, trainer.steps_done)
        if not trainer.steps_done:
            self.start_psnr = psnr
        facts = {**run.provenance, **self._facts(trainer.steps_done, psnr)}
        header = export(model, run.folder.checkpoint, facts, self.prior)
        if self.kept and header.model_id != self.kept.model_id:
            raise TrainingError(
                "its weights are not float16 numbers, as a trained model's are; rounding them "
                "would change its tokens",
                name=self.kept.path,
            )
        drawn = sheet(model, self.images.held_out)
        write_atomically(
            run.folder.sheet, lambda file: drawn.save(file, "JPEG", quality=92, subsampling=0)
        )
        return psnr

    def _psnr(self, model: Tokenizer, step: int) -> dict[str, float]:
        try:
            psnr = {
                str(tokens): round(mean_psnr(model, self.measured, tokens), 3)
                for tokens in self.grids
            }
        except ValueError:  # vectors that cannot be quantized
            psnr = {}
        if psnr and all(map(math.isfinite, psnr.values())):
            return psnr
        if self.run.source and not step:
            raise TrainingError(
                "its weights hold NaN or infinite values", name=self.run.source.path
            )
        raise diverged(step)

    def _facts(self, step: int, psnr: Mapping[str, float]) -> dict[str, Any]:
        run, images = self.run, self.images
        facts: dict[str, Any] = {
            "step": step,
            "held_out_psnr": psnr,
            "held_out_psnr_at_start": self.start_psnr,
            "held_out_images": len(self.measured),
            "training_images": len(images.train),
            "images_sha256": images.fingerprint,
            "recipe": dataclasses.asdict(run.recipe),
        }
        if run.source:
            facts["tokens_of" if run.tokens_stay else "from"] = run.source.provenance
        if self.prior and self.kept and "prior" in self.kept.provenance:
            facts["prior"] = self.kept.provenance["prior"]
        return facts


def rounded(model: Tokenizer) -> Tokenizer:
    """A copy with every weight rounded to float16 and stored in float32, as after loading it."""
    model = copy.deepcopy(model).eval()
    for tensor in model.state_dict().values():
        tensor.copy_(tensor.half())
    return model


def export(
    model: Tokenizer,
    path: Path,
    provenance: Mapping[str, Any],
    prior: Prior | None = None,
) -> checkpoint.Header:
    """Writes a ``rounded`` model as a checkpoint, with the prior of its tokens, if any."""
    tensors = {name: t.half().cpu().numpy() for name, t in model.state_dict().items()}
    tables = prior.tensors() if prior else {}
    return checkpoint.write(path, model.config, {**tensors, **tables}, provenance)


@torch.inference_mode()
def mean_psnr(model: Tokenizer, images: NDArray[np.uint8], tokens: int | None = None) -> float:
    """Mean PSNR in dB of decoded images, uint8 [n, 3, S, S].

    Images have a square grid of ``tokens`` if the model takes any grid.
    """
    device = next(model.parameters()).device
    values: list[Tensor] = []
    for start in range(0, len(images), 32):
        original = torch.from_numpy(images[start : start + 32].copy()).to(device).float()
        decoded = _decoded(model, original, tokens)
        error = (decoded - original).square().mean(dim=(1, 2, 3))
        values.append(10 * torch.log10(255**2 / error.clamp(min=1e-10)))
    return float(torch.cat(values).mean())


@torch.inference_mode()
def sheet(model: Tokenizer, images: NDArray[np.uint8]) -> Image.Image:
    """Some of the images [n, 3, S, S], evenly spread, above their decoded versions."""
    count = min(_ON_SHEET, len(images))
    shown = images[[number * len(images) // count for number in range(count)]]
    device = next(model.parameters()).device
    original = torch.from_numpy(shown).to(device).float()
    decoded = _decoded(model, original, _ON_SHEET_TOKENS).byte().cpu().numpy()
    rows = [np.concatenate(list(row.transpose(0, 2, 3, 1)), axis=1) for row in (shown, decoded)]
    return Image.fromarray(np.concatenate(rows))


def _decoded(model: Tokenizer, original: Tensor, tokens: int | None) -> Tensor:
    """Encodes and decodes images, float32 [n, 3, S, S] from 0 to 255; the result is rounded."""
    side = model.config.preprocessing.image_size
    if tokens and model.config.multiple:
        side = model.config.multiple * math.isqrt(tokens)
    small = _resized(original / 255, side // model.config.preprocessing.pixel_scale)
    decoded = (model.decode(model.encode(small.clamp(0, 1))) * 255).round()
    return _resized(decoded, original.shape[-1]).round().clamp(0, 255)


def _resized(pixels: Tensor, side: int) -> Tensor:
    if pixels.shape[-1] == side:
        return pixels
    return F.interpolate(pixels, (side, side), mode="bicubic", antialias=True)
