"""Show-o's MAGVITv2 (arXiv 2408.12528): lookup-free tokens, the first channel the highest bit."""

from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.quantizers import BinaryConfig
from tokcodec.families.convolutional import Names, take_convolutional
from tokcodec.families.family import Config, Family, Model, square_side
from tokcodec.families.reading import Arrays, Tensors

_NAMES = Names(quantizing="encoder.quant_conv", dequantizing="decoder.post_quant_conv")
_CONSTANTS = ("quantize.embedding", "quantize.power_vals")  # the signs and bits of every token


def convert(source: Tensors, config: Config, image_size: int | None) -> tuple[ModelConfig, Arrays]:
    """Config and tensors as ours.

    Raises:
        CheckpointError: something is missing, over, of another shape or not finite.
    """
    source = source.without(_CONSTANTS)
    bits = source.shape(f"{_NAMES.quantizing}.weight", 4)[0]
    encoder, decoder, out = take_convolutional(source, _NAMES, bits)
    source.finish()
    return (
        ModelConfig(
            encoder=encoder,
            quantizer=BinaryConfig(embedding_dim=bits, first_bit="highest"),
            decoder=decoder,
            preprocessing=PreprocessingConfig(
                image_size=square_side(image_size, config.get("image_size"), 256)
            ),
            rounding="down",
            default_fit="crop",
        ),
        out,
    )


FAMILY = Family(
    name="showo",
    title="Show-o's MAGVITv2",
    paper="2408.12528",
    licence="MIT",
    recognises=lambda names, _: {"encoder.quant_conv.weight", *_CONSTANTS} <= set(names),
    convert=convert,
    models=(Model("showo-magvit2", 256, 8192, "showlab/magvitv2", verified="tokens"),),
)
