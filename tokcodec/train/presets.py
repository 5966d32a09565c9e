"""Model configurations with a name."""

from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.config.vit import PatchDecoderConfig, PatchEncoderConfig

# A token is 16 pixels wide. The encoder sees half of their resolution, for one token cannot say
# more of them; the decoder makes all of them, so that edges come out sharp.
_PREPROCESSING = PreprocessingConfig(
    image_size=128, pixel_scale=2, reduced_jpeg=True, resize="direct"
)

PRESETS: dict[str, ModelConfig] = {
    # The bundled model, for a processor.
    "tokcodec": ModelConfig(
        encoder=PatchEncoderConfig(width=256, layers=3, heads=4, patch_size=8),
        quantizer=CodebookConfig(codebook_size=8192, embedding_dim=33),
        decoder=PatchDecoderConfig(width=256, layers=4, heads=4, patch_size=16, pixel_overlap=8),
        preprocessing=_PREPROCESSING,
        default_fit="aspect",
    ),
    # For GPUs: twelve layers of width 768 on either side, as ViT-B (arXiv 2010.11929, table 1).
    "base": ModelConfig(
        encoder=PatchEncoderConfig(width=768, layers=12, heads=12, patch_size=8),
        quantizer=CodebookConfig(codebook_size=8192, embedding_dim=33),
        decoder=PatchDecoderConfig(width=768, layers=12, heads=12, patch_size=16, pixel_overlap=8),
        preprocessing=_PREPROCESSING,
        default_fit="aspect",
    ),
    # The configuration of the original description, some 300 M parameters.
    "original": ModelConfig(
        encoder=PatchEncoderConfig(width=1024, layers=12, heads=16, patch_size=64),
        quantizer=CodebookConfig(codebook_size=8192, embedding_dim=256),
        decoder=PatchDecoderConfig(width=1024, layers=12, heads=16, patch_size=64),
    ),
}
