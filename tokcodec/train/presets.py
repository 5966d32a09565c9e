"""Model configurations with a name."""

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
        quantizer=CodebookConfig(codebook_size=8192, code_dim=32),
        decoder=PatchDecoderConfig(
            width=256,
            layers=4,
            heads=4,
            patch_size=patch_size,
            pixel_overlap=patch_size // 2,  # hides the borders of patches
        ),
        preprocessing=PreprocessingConfig(pixel_scale=pixel_scale, reduced_jpeg=True),
    )


PRESETS = {
    # 16 or 64 codes carry nothing finer than a quarter of 256 pixels, so the model sees 64x64.
    "tokcodec-16": _small(patch_size=16, pixel_scale=4),
    "tokcodec-64": _small(patch_size=8, pixel_scale=4),
    # 256 codes resolve half of the pixels.
    "tokcodec-256": _small(patch_size=8, pixel_scale=2),
    # Any prefix of its codes decodes. Latents and patches are twice the tokens: fewer layers.
    "tokcodec-latent": ModelConfig(
        encoder=LatentEncoderConfig(width=256, layers=2, heads=4, patch_size=8, num_latents=256),
        quantizer=CodebookConfig(codebook_size=8192, code_dim=32),
        decoder=LatentDecoderConfig(
            width=256, layers=3, heads=4, patch_size=8, pixel_overlap=4, prefix_codes=True
        ),
        preprocessing=PreprocessingConfig(pixel_scale=2, reduced_jpeg=True),
    ),
    # The configuration of the original description, some 300 M parameters.
    "original": ModelConfig(
        encoder=PatchEncoderConfig(width=1024, layers=12, heads=16, patch_size=64),
        quantizer=CodebookConfig(codebook_size=8192, code_dim=256),
        decoder=PatchDecoderConfig(width=1024, layers=12, heads=16, patch_size=64),
    ),
}
