"""LlamaGen's tokenizers (arXiv 2406.06525), and Janus's, which is the same network."""

from tokcodec.config import ModelConfig
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
_JANUS = "gen_vision_model."  # prefix of its names in the file of the whole model
_FIRST = "encoder.conv_blocks.0.res.0.norm1.weight"


def _convert(source: Tensors, config: Config, image_size: int | None) -> tuple[ModelConfig, Arrays]:
    janus = _JANUS + _FIRST in source
    source = (source.below(_JANUS) if janus else source).without(("quantize.codebook_used",))
    return take_vq(
        source, _NAMES, metric="cosine", rounding="down" if janus else "nearest",
        image_size=square_side(image_size, config, 384 if janus else 256), resize="adm",
    )  # fmt: skip


FAMILY = Family(
    title="LlamaGen",
    licence="MIT",
    recognises=lambda names, _: _FIRST in names or _JANUS + _FIRST in names,
    convert=_convert,
    models=(
        Model(
            "llamagen-vq16", 256, 16384, "FoundationVision/vq-ds16-c2i", 2.19, verified=True,
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
