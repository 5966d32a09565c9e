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
        encoder=PatchEncoderConfig(width=16, layers=2, heads=2, patch_size=4),
        decoder=PatchDecoderConfig(width=24, layers=1, heads=3, patch_size=4, mlp_ratio=2.0),
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
        side = config.preprocessing.image_size
        pixels = rng.random_sample((3, 3, side, side)).astype(np.float32)
        z = reference.embed(pixels)
        tokens, margins = reference.quantize(z)
        assert margins.min() > 1e-4, margins.min()
        np.savez_compressed(
            HERE / f"{name}.npz",
            pixels=pixels,
            z=z.astype(np.float32),
            tokens=tokens,
            decoded=reference.decode(tokens).astype(np.float32),
        )


if __name__ == "__main__":
    main()
