"""Show-o's MAGVITv2 (arXiv 2408.12528): lookup-free tokens, the first channel the highest bit."""

from tokcodec.config import ModelConfig
from tokcodec.families.convolutional import Names
from tokcodec.families.family import Config, Family, Model
from tokcodec.families.open_magvit2 import convert_lookup_free
from tokcodec.families.reading import Arrays, Tensors

_NAMES = Names(quantizing="encoder.quant_conv", dequantizing="decoder.post_quant_conv")
_CONSTANTS = ("quantize.embedding", "quantize.power_vals")  # the signs and bits of every token


def convert(source: Tensors, config: Config, image_size: int | None) -> tuple[ModelConfig, Arrays]:
    """Config and tensors as ours.

    Raises:
        CheckpointError: something is missing, over, of another shape or not finite.
    """
    return convert_lookup_free(
        source.without(_CONSTANTS), _NAMES, _NAMES.quantizing, "highest", config, image_size
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
