"""Model configurations with a name."""

from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.config.vit import PatchDecoderConfig, PatchEncoderConfig
from tokcodec.train import latent


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
        preprocessing=PreprocessingConfig(
            pixel_scale=pixel_scale, reduced_jpeg=True, resize="direct"
        ),
    )


PRESETS = {
    # 16 or 64 codes carry nothing finer than a quarter of 256 pixels, so the model sees 64x64.
    "tokcodec-16": _small(patch_size=16, pixel_scale=4),
    "tokcodec-64": _small(patch_size=8, pixel_scale=4),
    # 256 codes resolve half of the pixels.
    "tokcodec-256": _small(patch_size=8, pixel_scale=2),
    "tokcodec-latent": latent.PRESET,
    # The configuration of the original description, some 300 M parameters.
    "original": ModelConfig(
        encoder=PatchEncoderConfig(width=1024, layers=12, heads=16, patch_size=64),
        quantizer=CodebookConfig(codebook_size=8192, code_dim=256),
        decoder=PatchDecoderConfig(width=1024, layers=12, heads=16, patch_size=64),
    ),
}
