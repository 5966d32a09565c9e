"""Model configurations with a name."""

import math
from typing import Any, Literal

from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.config.vit import (
    LatentDecoderConfig,
    LatentEncoderConfig,
    PatchDecoderConfig,
    PatchEncoderConfig,
)


def _small(patch_size: int, pixel_scale: int) -> ModelConfig:
    return ModelConfig(
        encoder=PatchEncoderConfig(width=256, layers=3, heads=4, patch_size=patch_size),
        quantizer=CodebookConfig(codebook_size=8192, embedding_dim=32),
        decoder=PatchDecoderConfig(
            width=256,
            layers=4,
            heads=4,
            patch_size=patch_size,
            pixel_overlap=patch_size // 2,  # hides the borders of patches
        ),
        preprocessing=PreprocessingConfig(
            pixel_scale=pixel_scale, reduced_jpeg=True, resize="direct"
        ),
    )


def _base(layout: Literal["patch", "latent"], tokens: int) -> tuple[ModelConfig, int]:
    """Twelve layers of width 768, as ViT-B (arXiv 2010.11929, table 1) and TiTok-B, on either
    side; about 32,768 tokens a step keep a GPU busy."""
    vit: dict[str, Any] = {"width": 768, "layers": 12, "heads": 12}
    quantizer = CodebookConfig(codebook_size=8192, embedding_dim=32)
    preprocessing = PreprocessingConfig(reduced_jpeg=True, resize="direct")
    if layout == "patch":
        patch_size = preprocessing.image_size // math.isqrt(tokens)
        config = ModelConfig(
            encoder=PatchEncoderConfig(**vit, patch_size=patch_size),
            quantizer=quantizer,
            decoder=PatchDecoderConfig(**vit, patch_size=patch_size),
            preprocessing=preprocessing,
        )
        return config, 32_768 // tokens
    config = ModelConfig(
        encoder=LatentEncoderConfig(**vit, patch_size=16, num_latents=tokens),
        quantizer=quantizer,
        decoder=LatentDecoderConfig(**vit, patch_size=16),
        preprocessing=preprocessing,
    )
    return config, 32_768 // (256 + tokens) // 8 * 8


# Of each name, the config and the images a step.
PRESETS: dict[str, tuple[ModelConfig, int]] = {
    # 16 or 64 tokens carry nothing finer than a quarter of 256 pixels, so the model sees 64x64.
    "tokcodec": (
        ModelConfig(
            encoder=PatchEncoderConfig(width=256, layers=3, heads=4, patch_size=8),
            quantizer=CodebookConfig(codebook_size=8192, embedding_dim=33),
            decoder=PatchDecoderConfig(
                width=256, layers=4, heads=4, patch_size=16, pixel_overlap=8
            ),
            preprocessing=PreprocessingConfig(
                image_size=128, pixel_scale=2, reduced_jpeg=True, resize="direct"
            ),
        ),
        4096,
    ),
}
