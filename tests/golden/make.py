"""Makes the tiny checkpoints and their golden outputs, once: python tests/golden/make.py

The checkpoints hold random weights; the outputs come from reference.py, not from tokcodec.
"""

from pathlib import Path

import numpy as np
from reference import Reference

from tokcodec import checkpoint
from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.config.vit import (
    LatentDecoderConfig,
    LatentEncoderConfig,
    PatchDecoderConfig,
    PatchEncoderConfig,
)
from tokcodec.model.tokenizer import Tokenizer

HERE = Path(__file__).parent

CONFIGS = {
    "patch": ModelConfig(
        encoder=PatchEncoderConfig(width=16, layers=2, heads=2, patch_size=4, positions=5),
        decoder=PatchDecoderConfig(
            width=24,
            layers=1,
            heads=3,
            patch_size=8,
            mlp_ratio=2.0,
            pixel_overlap=3,
            positions=3,
        ),
        quantizer=CodebookConfig(codebook_size=60, embedding_dim=4),
        preprocessing=PreprocessingConfig(image_size=32, pixel_scale=2),
    ),
    "latent": ModelConfig(
        encoder=LatentEncoderConfig(width=16, layers=1, heads=2, patch_size=4, num_latents=6),
        decoder=LatentDecoderConfig(width=24, layers=2, heads=3, patch_size=8),
        quantizer=CodebookConfig(codebook_size=32, embedding_dim=4, metric="cosine"),
        preprocessing=PreprocessingConfig(image_size=16, mean=(0.4, 0.5, 0.6)),
        default_fit="crop",
    ),
}


# Height and width of the images of each file of outputs.
SHAPES = {"patch": {"patch": (32, 32), "patch-wide": (24, 56)}, "latent": {"latent": (16, 16)}}


def main() -> None:
    for number, (name, config) in enumerate(CONFIGS.items()):
        rng = np.random.RandomState(number)  # its stream is frozen for good
        shapes = {key: value.shape for key, value in Tokenizer(config).state_dict().items()}
        tensors = {
            key: rng.standard_normal(shape).astype(np.float32) / np.sqrt(shape[-1])
            for key, shape in sorted(shapes.items())
        }
        tensors = {key: value.astype(np.float32) for key, value in tensors.items()}
        tensors["quantizer.codebook"] *= 2
        checkpoint.write(HERE / f"{name}.safetensors", config, tensors, {"seed": number})
        reference = Reference(config, tensors)
        for shape, (height, width) in SHAPES[name].items():
            pixels = rng.random_sample((3, 3, height, width)).astype(np.float32)
            z = reference.embed(pixels)
            tokens, margins = reference.quantize(z)
            assert margins.min() > 1e-4, margins.min()
            p = config.decoder.patch_size
            decoded = reference.decode(tokens, pixels.shape[2] // p, pixels.shape[3] // p)
            np.savez_compressed(
                HERE / f"{shape}.npz",
                pixels=pixels,
                z=z.astype(np.float32),
                tokens=tokens,
                decoded=decoded.astype(np.float32),
            )


if __name__ == "__main__":
    main()
