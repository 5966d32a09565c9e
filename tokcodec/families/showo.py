"""Show-o's MAGVITv2 (arXiv 2408.12528): lookup-free tokens, the first channel the highest bit."""

from tokcodec.config import ModelConfig
from tokcodec.config.quantizers import BinaryConfig
from tokcodec.families.convolutional import Names, take_model
from tokcodec.families.family import Config, Family, Model, square_side
from tokcodec.families.reading import Arrays, Tensors

_NAMES = Names(quantizing="encoder.quant_conv", dequantizing="decoder.post_quant_conv")
_CONSTANTS = ("quantize.embedding", "quantize.power_vals")  # computed from the number of bits


def _convert(source: Tensors, config: Config, image_size: int | None) -> tuple[ModelConfig, Arrays]:
    source = source.without(_CONSTANTS)
    bits = source.shape(f"{_NAMES.quantizing}.weight", 4)[0]
    quantizer = BinaryConfig(embedding_dim=bits, first_bit="highest")
    return take_model(source, _NAMES, quantizer, image_size=square_side(image_size, config))


FAMILY = Family(
    title="Show-o's MAGVITv2",
    licence="MIT",
    recognises=lambda names, _: {"encoder.quant_conv.weight", *_CONSTANTS} <= set(names),
    convert=_convert,
    models=(Model("showo-magvit2", 256, 8192, "showlab/magvitv2", verified=True),),
)
