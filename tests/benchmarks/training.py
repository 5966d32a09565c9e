"""Speed of the training step: python tests/benchmarks/training.py [NAME:IMAGES...]

For each preset, with so many images a step: images a second and the share of a large matrix
product's rate that a step reaches (MFU), of the step of ``tokcodec train``, and of the one that it
had before, which is kept here: batches cut on the host, torch's own attention, the exact search of
tokens, an optimizer that is not fused. Both take turns, so that a slow minute hits both. And the
share of tokens that the fast search of training has otherwise than the exact one.
"""

import copy
import statistics
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tokcodec.model import vit
from tokcodec.model.loading import fastest_dtype, resolve_device
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.train import operations
from tokcodec.train.batches import Batches
from tokcodec.train.borders import blockiness
from tokcodec.train.codebook import fast_tokens
from tokcodec.train.presets import PRESETS
from tokcodec.train.recipe import Recipe
from tokcodec.train.start import begin
from tokcodec.train.step import Step

PHOTOS = Path(__file__).parents[1] / "data"
ON_A_PROCESSOR = ("tokcodec:64", "tokcodec:64", "tokcodec:16", "tokcodec:8")
ON_A_GPU = ("tokcodec:512", "base-256:128", "base-latent-64:96", "base-latent-256:64")
TURNS, STEPS, IMAGES = 5, 3, 256


def main() -> None:
    device = resolve_device("auto")
    dtype = fastest_dtype(device)
    reach = operations.reached(device, getattr(torch, dtype))
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {dtype}")
    for argument in sys.argv[1:] or (ON_A_GPU if device.type == "cuda" else ON_A_PROCESSOR):
        name, size = argument.split(":")
        config, _ = PRESETS[name]
        recipe = Recipe(
            steps=TURNS * STEPS + 1,
            batch_size=int(size),
            warmup=0,
            deblocking=0.08,
            dtype=dtype,
            compiled=device.type == "cuda",
        )
        images = crops(min(256, 2 * config.preprocessing.model_size))
        torch.manual_seed(0)
        model = Tokenizer(config)
        begin(model, images, 0)
        ways = {
            "now": Now(copy.deepcopy(model).to(device), recipe, images),
            "before": Before(model.to(device), recipe, images),
        }
        seconds = {way: [] for way in ways}
        for step in ways.values():
            step()
        for _ in range(TURNS):
            for way, step in ways.items():
                synchronize(device)
                begun = time.perf_counter()
                for _ in range(STEPS):
                    step()
                synchronize(device)
                seconds[way].append((time.perf_counter() - begun) / STEPS)
        work = operations.per_image(config, recipe, False) * recipe.batch_size
        rates = {way: statistics.median(times) for way, times in seconds.items()}
        for way, time_of_a_step in rates.items():
            print(
                f"{argument}: {way}: {recipe.batch_size / time_of_a_step:.1f} images/s, "
                f"MFU {work / time_of_a_step / reach:.0%}"
            )
        print(f"{argument}: {rates['before'] / rates['now']:.2f} times as fast as before")
        print(f"{argument}: {share_of_other_tokens(ways['before'].model, images):.4%} other tokens")


@torch.no_grad()
def share_of_other_tokens(model: Tokenizer, images: np.ndarray) -> float:
    """Of the tokens of images in float32, those that the fast search of training has otherwise."""
    quantizer, side = model.quantizer, model.config.preprocessing.model_size
    pixels = F.interpolate(torch.from_numpy(images).float() / 255, (side, side), mode="area")
    differing = count = 0
    for part in pixels.to(quantizer.codebook.device).split(16):
        z = model.z(part).flatten(0, -2)
        fast = fast_tokens(*quantizer.compared(z))
        differing += int((fast != quantizer.tokens(z)).sum())
        count += len(z)
    return differing / count


def crops(side: int) -> np.ndarray:
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(PHOTOS.glob("*.png"))]
    generator = np.random.default_rng(0)
    found = []
    for number in range(IMAGES):
        photo = photos[number % len(photos)]
        top, left = (int(generator.integers(edge - side)) for edge in photo.shape[:2])
        found.append(photo[top : top + side, left : left + side].transpose(2, 0, 1))
    return np.stack(found)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Now:
    def __init__(self, model: Tokenizer, recipe: Recipe, images: np.ndarray) -> None:
        device = next(model.parameters()).device
        self.step = Step(model, recipe)
        self.batches = Batches(images, model.config, recipe, device).since(0)

    def __call__(self) -> None:
        self.step(next(self.batches))


class Before:
    def __init__(self, model: Tokenizer, recipe: Recipe, images: np.ndarray) -> None:
        self.model, self.recipe, self.images = model, recipe, images
        self.device = next(model.parameters()).device
        self.optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99))
        averaging = get_ema_multi_avg_fn(recipe.ema_decay)
        self.average = AveragedModel(model, multi_avg_fn=averaging, use_buffers=True)
        codebook = model.quantizer.codebook
        self.mean_uses = recipe.batch_size * model.config.num_tokens / len(codebook)
        self.uses = codebook.new_full((len(codebook),), self.mean_uses)
        self.sums = codebook * self.mean_uses
        self.number = 0

    def __call__(self) -> None:
        with mock.patch.object(vit, "_attend", F.scaled_dot_product_attention):
            self.advance()

    def advance(self) -> None:
        recipe, model, config = self.recipe, self.model, self.model.config
        generator = torch.Generator().manual_seed(self.number)
        side = config.preprocessing.model_size
        pixels = model.normalize(self.draw(side, generator).to(self.device))
        low = recipe.dtype == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            z = model.encoder(pixels)
        z = z.float()
        tokens = model.quantizer.tokens(z)
        z_q = model.quantizer.lookup(tokens)
        straight_through = z + (z_q - z).detach()
        if config.prefix_tokens:
            whole, share = torch.rand(2, generator=generator).tolist()
            count = config.num_tokens
            kept = count if whole < 0.5 else max(1, round(count * 32**-share))
            straight_through = straight_through[:, :kept]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            decoded = model.decoder(straight_through)
        loss = F.mse_loss(decoded.float(), pixels)
        loss = loss + recipe.deblocking * blockiness(decoded.float(), config.decoder.patch_size)
        commitment = (z - z_q).square().sum(dim=-1).mean() * config.num_tokens / (3 * side**2)
        loss = loss + recipe.commitment * commitment
        self.optimizer.param_groups[0]["lr"] = recipe.rate(self.number)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        self.optimizer.step()
        self.update(z.detach().flatten(0, -2), tokens.flatten(), generator)
        self.average.update_parameters(model)
        self.number += 1

    @torch.no_grad()
    def update(self, z: torch.Tensor, tokens: torch.Tensor, generator: torch.Generator) -> None:
        counts = torch.bincount(tokens, minlength=len(self.uses)).to(self.uses)
        sums = torch.zeros_like(self.sums).index_add_(0, tokens, z)
        self.uses.lerp_(counts, 1 - self.recipe.codebook_decay)
        self.sums.lerp_(sums, 1 - self.recipe.codebook_decay)
        dead = (self.uses < self.recipe.dead_below * self.mean_uses).nonzero().flatten()
        picks = torch.randint(len(z), (len(dead),), generator=generator)
        self.uses[dead] = self.mean_uses
        self.sums[dead] = z[picks.to(z.device)] * self.mean_uses
        self.model.quantizer.codebook.copy_(self.sums / self.uses.unsqueeze(1))

    def draw(self, side: int, generator: torch.Generator) -> torch.Tensor:
        stored, size = self.images.shape[-1], self.recipe.batch_size
        picks = torch.randint(len(self.images), (size,), generator=generator).numpy()
        edge = stored
        if stored > side and torch.rand((), generator=generator) < 0.5:
            edge = int(torch.randint(side, stored + 1, (), generator=generator))
        corners = torch.randint(stored - edge + 1, (size, 2), generator=generator).tolist()
        parts = [
            self.images[pick, :, top : top + edge, left : left + edge]
            for pick, (top, left) in zip(picks, corners, strict=True)
        ]
        batch = torch.from_numpy(np.stack(parts)).float().div_(255)
        flipped = torch.rand(size, generator=generator) < 0.5
        batch[flipped] = batch[flipped].flip(-1)
        if edge % side == 0:
            return F.avg_pool2d(batch, edge // side)
        return F.interpolate(batch, size=(side, side), mode="bilinear", antialias=True)


if __name__ == "__main__":
    main()
