"""Model FLOPs utilization (MFU): the operations of a training relative to those of its device."""

import dataclasses
import math
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from tokcodec.config import ModelConfig
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.train.batches import Batch
from tokcodec.train.objective import Objective
from tokcodec.train.recipe import Recipe

_TRIES = 5
_LONG = 0.1  # seconds


def per_token(config: ModelConfig, recipe: Recipe, tokens_stay: bool) -> int:
    """Operations of a training step per token, two for a multiply-add.

    They are the matrix products and convolutions of the forward and the backward pass, as torch
    counts them, for an image of the model's default size.
    """
    recipe = dataclasses.replace(
        recipe, dtype="float32", compiled=False, lpips=0.0, adversarial=0.0
    )
    side = config.preprocessing.image_size
    with torch.device("meta"):
        model = Tokenizer(config)
        model.encoder.requires_grad_(not tokens_stay)
        batch = Batch(
            torch.empty(1, 3, side, side, dtype=torch.uint8),
            torch.empty(1, 5),
            torch.empty(1, dtype=torch.int64),
            torch.empty(config.quantizer.codebook_size, dtype=torch.int64),
            (side, side),
            True,
        )
        with FlopCounterMode(display=False) as counter:
            terms = Objective(model, recipe, tokens_stay)(batch).terms
            recipe.total(terms).backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops()) // config.num_tokens


def reached(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product, the most that a training can reach, which is
    less than in data sheets."""
    size = 1024 if device.type == "cpu" else 8192
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    best = math.inf
    for _ in range(_TRIES):
        begun = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # reading a value waits for the device
        best = min(best, time.perf_counter() - begun)
        if best > _LONG:  # the dtype is emulated
            break
    return 2 * size**3 / best
