"""Presets: model configurations with a name."""

from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.config.vit import PatchDecoderConfig, PatchEncoderConfig


def _of_any_grid(width: int, heads: int, layers: int, decoder_layers: int) -> ModelConfig:
    """A token has 16x16 pixels. The encoder sees half of this resolution, because one token cannot
    represent more; the decoder makes the full resolution, for sharp edges."""
    return ModelConfig(
        encoder=PatchEncoderConfig(width=width, heads=heads, layers=layers, patch_size=8),
        quantizer=CodebookConfig(codebook_size=8192, embedding_dim=33),
        decoder=PatchDecoderConfig(
            width=width, heads=heads, layers=decoder_layers, patch_size=16, pixel_overlap=8
        ),
        preprocessing=PreprocessingConfig(
            image_size=128, pixel_scale=2, reduced_jpeg=True, resize="direct"
        ),
        default_fit="aspect",
    )


PRESETS: dict[str, ModelConfig] = {
    # The bundled model, for a CPU.
    "tokcodec": _of_any_grid(width=256, heads=4, layers=4, decoder_layers=6),
    # For GPUs: as large as ViT-B (arXiv 2010.11929, table 1) on either side.
    "base": _of_any_grid(width=768, heads=12, layers=12, decoder_layers=12),
    # The configuration of the original description, some 300 M parameters.
    "original": ModelConfig(
        encoder=PatchEncoderConfig(width=1024, layers=12, heads=16, patch_size=64),
        quantizer=CodebookConfig(codebook_size=8192, embedding_dim=256),
        decoder=PatchDecoderConfig(width=1024, layers=12, heads=16, patch_size=64),
    ),
}
