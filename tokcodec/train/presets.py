"""Model configurations with a name."""

from tokcodec.config import ModelConfig, PreprocessingConfig, QuantizerConfig, VitConfig


def _small(patch_size: int, pixel_scale: int, pixel_overlap: int = 0) -> ModelConfig:
    return ModelConfig(
        layout="patch",
        encoder=VitConfig(width=256, layers=3, heads=4, patch_size=patch_size),
        decoder=VitConfig(width=256, layers=4, heads=4, patch_size=patch_size),
        quantizer=QuantizerConfig(codebook_size=8192, code_dim=32),
        preprocessing=PreprocessingConfig(pixel_scale=pixel_scale, reduced_jpeg=True),
        pixel_overlap=pixel_overlap,
    )


_LARGE = VitConfig(width=1024, layers=12, heads=16, patch_size=64)

PRESETS = {
    # 16 or 64 codes carry nothing finer than a quarter of 256 pixels, so the model sees 64x64.
    "tokcodec-16": _small(patch_size=16, pixel_scale=4),
    "tokcodec-64": _small(patch_size=8, pixel_scale=4),
    # 256 codes resolve half of the pixels; patches that reach into each other hide their borders.
    "tokcodec-256": _small(patch_size=8, pixel_scale=2, pixel_overlap=4),
    # Any prefix of its codes decodes. Twice the tokens to run on: fewer layers.
    "tokcodec-latent": ModelConfig(
        layout="latent",
        encoder=VitConfig(width=256, layers=2, heads=4, patch_size=8),
        decoder=VitConfig(width=256, layers=3, heads=4, patch_size=8),
        quantizer=QuantizerConfig(codebook_size=8192, code_dim=32),
        preprocessing=PreprocessingConfig(pixel_scale=2, reduced_jpeg=True),
        num_latents=256,
        prefix_codes=True,
        pixel_overlap=4,
    ),
    # The configuration of the original description, some 300 M parameters.
    "original": ModelConfig(
        layout="patch",
        encoder=_LARGE,
        decoder=_LARGE,
        quantizer=QuantizerConfig(codebook_size=8192, code_dim=256),
    ),
}
