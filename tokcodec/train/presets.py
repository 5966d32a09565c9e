"""Model configurations with a name."""

from dataclasses import replace

from tokcodec.config import ModelConfig, PreprocessingConfig, QuantizerConfig, VitConfig


def _small(patch_size: int, pixel_scale: int) -> ModelConfig:
    return ModelConfig(
        layout="patch",
        encoder=VitConfig(width=256, layers=3, heads=4, patch_size=patch_size),
        decoder=VitConfig(width=256, layers=4, heads=4, patch_size=patch_size),
        quantizer=QuantizerConfig(codebook_size=8192, code_dim=32),
        preprocessing=PreprocessingConfig(pixel_scale=pixel_scale, reduced_jpeg=True),
        pixel_overlap=patch_size // 2,  # hides the borders of patches
    )


_FINE = _small(patch_size=8, pixel_scale=2)  # 256 codes resolve half of the pixels
_LARGE = VitConfig(width=1024, layers=12, heads=16, patch_size=64)

PRESETS = {
    # 16 or 64 codes carry nothing finer than a quarter of 256 pixels, so the model sees 64x64.
    "tokcodec-16": _small(patch_size=16, pixel_scale=4),
    "tokcodec-64": _small(patch_size=8, pixel_scale=4),
    "tokcodec-256": _FINE,
    # Any prefix of its codes decodes. Latents and patches are twice the tokens: fewer layers.
    "tokcodec-latent": replace(
        _FINE,
        layout="latent",
        num_latents=256,
        prefix_codes=True,
        encoder=replace(_FINE.encoder, layers=2),
        decoder=replace(_FINE.decoder, layers=3),
    ),
    # The configuration of the original description, some 300 M parameters.
    "original": ModelConfig(
        layout="patch",
        encoder=_LARGE,
        decoder=_LARGE,
        quantizer=QuantizerConfig(codebook_size=8192, code_dim=256),
    ),
}
