"""What the tests of training share: small models, small images, and runs of a few steps."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.config.vit import (
    LatentDecoderConfig,
    LatentEncoderConfig,
    PatchDecoderConfig,
    PatchEncoderConfig,
)
from tokcodec.train.data import Images
from tokcodec.train.folder import RunFolder
from tokcodec.train.loop import train_model
from tokcodec.train.recipe import Recipe
from tokcodec.train.run import Run

CPU = torch.device("cpu")
PHOTOS = [
    Path(__file__).parents[1] / "data" / name
    for name in ("astronaut.png", "chelsea.png", "coffee.png")
]
SMALL = {"width": 32, "layers": 1, "heads": 2, "patch_size": 4}
# A token is 4 pixels of what the encoder sees, and of what the decoder makes 8.
PATCH = ModelConfig(
    encoder=PatchEncoderConfig(**SMALL),
    decoder=PatchDecoderConfig(**{**SMALL, "patch_size": 8}),
    quantizer=CodebookConfig(codebook_size=64, embedding_dim=8),
    preprocessing=PreprocessingConfig(image_size=32, pixel_scale=2),
)
# The decoder makes as many pixels as the encoder sees.
LATENT = PATCH.replace(
    encoder=LatentEncoderConfig(**SMALL, num_latents=8),
    decoder=LatentDecoderConfig(**SMALL),
    quantizer=CodebookConfig(codebook_size=64, embedding_dim=8, metric="cosine"),
    preprocessing=PreprocessingConfig(image_size=32),
)
RECIPE = Recipe(steps=4, tokens=128, warmup=0, report_every=2)


def with_decoder(config, **changes):
    return config.replace(decoder=config.decoder.replace(**changes))


PREFIXES = with_decoder(LATENT, prefix_tokens=True)


def make_crops(count, width, height, scale=3):
    """Crops of the photos, each ``scale`` times smaller than what it shows."""
    generator = np.random.default_rng(0)
    sources = [Image.open(path).convert("RGB") for path in PHOTOS]
    for number in range(count):
        photo = sources[number % len(sources)]
        left = int(generator.integers(photo.width - scale * width))
        top = int(generator.integers(photo.height - scale * height))
        crop = photo.crop((left, top, left + scale * width, top + scale * height))
        yield crop.resize((width, height))


def make_images(count=100, side=64, scale=3):
    crops = [np.asarray(crop).transpose(2, 0, 1) for crop in make_crops(count, side, side, scale)]
    pixels = np.stack(crops)
    return Images(pixels[10:], pixels[:10], "0" * 64)


def train(config, recipe, images, folder, *, report=lambda _: None, **options):
    """Trains on the CPU; gives the checkpoint's header."""
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(config, recipe, RunFolder(folder), options.pop("device", CPU), **options)

    def stepped(step, now):  # noqa: ARG001
        if now:
            report(now)

    return train_model(run, images, stepped=stepped)
