"""LlamaGen's tokenizers (arXiv 2406.06525), and Janus's, which is the same network."""

from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.families.convolutional import Names, take_vq
from tokcodec.families.family import Config, Family, Model, square_side
from tokcodec.families.reading import Arrays, Tensors

_NAMES = Names(
    encoder_level="conv_blocks.",
    decoder_level="conv_blocks.",
    decoder_counts="place",
    block=".res.",
    middle=("mid.0", "mid.1", "mid.2"),
)
_JANUS = "gen_vision_model."  # before its names, in the file of the whole model
_FIRST = "encoder.conv_blocks.0.res.0.norm1.weight"


def convert(source: Tensors, config: Config, image_size: int | None) -> tuple[ModelConfig, Arrays]:
    """Config and tensors as ours.

    Raises:
        CheckpointError: something is missing, over, of another shape or not finite.
    """
    janus = _JANUS + _FIRST in source
    source = (source.below(_JANUS) if janus else source).without(("quantize.codebook_used",))
    encoder, decoder, sizes, out = take_vq(source, _NAMES)
    return (
        ModelConfig(
            encoder=encoder,
            quantizer=CodebookConfig(
                codebook_size=sizes["codebook_size"],
                embedding_dim=sizes["embedding_dim"],
                metric="cosine",
            ),
            decoder=decoder,
            preprocessing=PreprocessingConfig(
                image_size=square_side(image_size, config.get("image_size"), 384 if janus else 256),
                resize="adm",
            ),
            rounding="down" if janus else "nearest",
            default_fit="crop",
        ),
        out,
    )


FAMILY = Family(
    name="llamagen",
    title="LlamaGen",
    paper="2406.06525",
    licence="MIT",
    recognises=lambda names, _: _FIRST in names or _JANUS + _FIRST in names,
    convert=convert,
    models=(
        Model(
            "llamagen-vq16", 256, 16384, "FoundationVision/vq-ds16-c2i", 2.19, verified="tokens",
        ),
        Model("llamagen-vq8", 1024, 16384, "FoundationVision/LlamaGen:vq_ds8_c2i.pt", 0.59),
        Model("llamagen-vq16-t2i", 256, 16384, "peizesun/llamagen_t2i:vq_ds16_t2i.pt"),
        Model(
            "janus", 576, 16384, "deepseek-ai/Janus-1.3B", licence="DeepSeek Model License",
            image_size=384,
        ),
        Model(
            "janus-pro", 576, 16384, "deepseek-ai/Janus-Pro-1B:pytorch_model.bin",
            licence="DeepSeek Model License", image_size=384,
        ),
    ),
)  # fmt: skip
