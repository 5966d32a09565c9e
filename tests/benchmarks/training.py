"""Speed of the training step: python tests/benchmarks/training.py [PRESET:TOKENS...]

For each preset, with this many tokens a step: tokens a second and model FLOPs utilization (MFU),
plain and compiled. Each step has another grid, as in a run, and both take turns, so that a slow
minute hits both. And the share of tokens for which the fast search of training takes another vector
than the exact one.
"""

import copy
import dataclasses
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch

from tokcodec.model.loading import fastest_dtype, resolve_device
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.train import operations
from tokcodec.train.batches import Batches
from tokcodec.train.codebook import fast_tokens
from tokcodec.train.presets import PRESETS
from tokcodec.train.recipe import Recipe
from tokcodec.train.start import begin
from tokcodec.train.trainer import Trainer

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
from training import make_images

ON_A_CPU, ON_A_GPU = ("tokcodec:4096",), ("tokcodec:32768", "base:32768")
WARM, STEPS = 3, 12


def main() -> None:
    device = resolve_device("auto")
    dtype = fastest_dtype(device)
    reach = operations.reached(device, getattr(torch, dtype))
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {dtype}")
    images = make_images(256, 256, scale=1).train
    for argument in sys.argv[1:] or (ON_A_GPU if device.type == "cuda" else ON_A_CPU):
        name, tokens = argument.split(":")
        config = PRESETS[name]
        recipe = Recipe(steps=WARM + STEPS, tokens=int(tokens), warmup=0, dtype=dtype)
        torch.manual_seed(0)
        model = Tokenizer(config)
        begin(model, images, 0)
        work = operations.per_token(config, recipe, False)
        trainers = {
            way: Trainer(
                copy.deepcopy(model).to(device),
                dataclasses.replace(recipe, compiled=way == "compiled"),
            )
            for way in ("plain", "compiled")
        }
        seconds, trained = dict.fromkeys(trainers, 0.0), 0
        for number, batch in enumerate(Batches(images, config, recipe, device).since(0)):
            for way, trainer in trainers.items():
                begun = time.perf_counter()
                float(trainer.step(batch)["loss"])  # waits for the device
                if number >= WARM:
                    seconds[way] += time.perf_counter() - begun
            if number >= WARM:
                trained += math.prod(config.token_shape(*batch.size)) * len(batch.crops)
        for way, taken in seconds.items():
            rate = trained / taken
            print(f"{argument}: {way}: {rate:,.0f} tokens/s, MFU {rate * work / reach:.0%}")
        print(
            f"{argument}: {share_of_other_tokens(trainers['plain'].model, images):.4%} other tokens"
        )


@torch.no_grad()
def share_of_other_tokens(model: Tokenizer, images: np.ndarray) -> float:
    """Of the tokens of images in float32, those for which the fast search takes another vector."""
    quantizer = model.quantizer
    pixels = torch.from_numpy(images[:64]).to(quantizer.codebook.device) / 255
    z = model.z(model.shrink(pixels)).flatten(0, -2)
    return float((fast_tokens(*quantizer.compared(z)) != quantizer.tokens(z)).float().mean())


if __name__ == "__main__":
    main()
