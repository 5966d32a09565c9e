"""Model configurations with a name."""

from tokcodec.config import ModelConfig, PreprocessingConfig, QuantizerConfig, VitConfig


def _small(patch_size: int, pixel_scale: int, decoder_layers: int, latents: int = 0) -> ModelConfig:
    return ModelConfig(
        layout="latent" if latents else "patch",
        encoder=VitConfig(width=256, layers=2 if latents else 3, heads=4, patch_size=patch_size),
        decoder=VitConfig(width=256, layers=decoder_layers, heads=4, patch_size=patch_size),
        quantizer=QuantizerConfig(codebook_size=8192, code_dim=32),
        preprocessing=PreprocessingConfig(pixel_scale=pixel_scale, reduced_jpeg=True),
        num_latents=latents,
        prefix_codes=latents > 0,
        # Patches that reach into each other hide their borders.
        pixel_overlap=patch_size // 2,
    )


_LARGE = VitConfig(width=1024, layers=12, heads=16, patch_size=64)

PRESETS = {
    # 16 or 64 codes carry nothing finer than a quarter of 256 pixels, so the model sees 64x64.
    "tokcodec-16": _small(patch_size=16, pixel_scale=4, decoder_layers=6),
    "tokcodec-64": _small(patch_size=8, pixel_scale=4, decoder_layers=6),
    # 256 codes resolve half of the pixels.
    "tokcodec-256": _small(patch_size=8, pixel_scale=2, decoder_layers=4),
    # Any prefix of its codes decodes. Latents and patches are twice the tokens: fewer layers.
    "tokcodec-latent": _small(patch_size=8, pixel_scale=2, decoder_layers=3, latents=256),
    # The configuration of the original description, some 300 M parameters.
    "original": ModelConfig(
        layout="patch",
        encoder=_LARGE,
        decoder=_LARGE,
        quantizer=QuantizerConfig(codebook_size=8192, code_dim=256),
    ),
}
