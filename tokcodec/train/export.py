"""From a model in training to the checkpoint that ships: rounded to float16, measured, written."""

import copy
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
from tokcodec.model.tokenizer import Tokenizer

_ON_SHEET, _ON_SHEET_TOKENS = 8, 64  # images, and tokens of each if the model takes any grid


def rounded(model: Tokenizer) -> Tokenizer:
    """A copy with every weight rounded to float16 and held in float32, as loading will find it."""
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
    """Writes a ``rounded`` model as an inference checkpoint: its codebook included, and a prior
    that its tokens have already."""
    tensors = {name: t.half().cpu().numpy() for name, t in model.state_dict().items()}
    tables = prior.tensors() if prior else {}
    return checkpoint.write(path, model.config, {**tensors, **tables}, provenance)


@torch.inference_mode()
def mean_psnr(model: Tokenizer, images: NDArray[np.uint8], tokens: int | None = None) -> float:
    """Mean over square uint8 images [n, 3, S, S] of the PSNR in dB, on pixels rounded to 8 bits.

    A model of any grid sees each as a square of ``tokens``.
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
    """Some of the images [n, 3, S, S], evenly spread, and below each what the model makes of
    it."""
    count = min(_ON_SHEET, len(images))
    shown = images[[number * len(images) // count for number in range(count)]]
    device = next(model.parameters()).device
    original = torch.from_numpy(shown).to(device).float()
    decoded = _decoded(model, original, _ON_SHEET_TOKENS).byte().cpu().numpy()
    rows = [np.concatenate(list(row.transpose(0, 2, 3, 1)), axis=1) for row in (shown, decoded)]
    return Image.fromarray(np.concatenate(rows))


def _decoded(model: Tokenizer, original: Tensor, tokens: int | None) -> Tensor:
    """Of float32 [n, 3, S, S] from 0 to 255 the same, rounded, as the model gives them back."""
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
