"""MoVQGAN (arXiv 2209.09002): a VQGAN with norms in the decoder that depend on the tokens.

For Kandinsky's, which are the same, see ``tokcodec.families.diffusers``. The authors reduced images
in two steps, the first by means (Pillow's ``reducing_gap``). tokcodec uses torchvision's bicubic
filter alone.
"""

from tokcodec.config import ModelConfig
from tokcodec.families.family import Config, Family, Model
from tokcodec.families.reading import Arrays, Tensors
from tokcodec.families.taming import convert_vqgan

_TRAINING = ("ema_",)  # copies of the weights, which the authors' own loading leaves out too


def _convert(source: Tensors, config: Config, image_size: int | None) -> tuple[ModelConfig, Arrays]:
    return convert_vqgan(source.without(_TRAINING), config, image_size, rounding="nearest")


FAMILY = Family(
    title="MoVQGAN",
    licence="Apache-2.0",
    recognises=lambda names, _: (
        "decoder.norm_out.conv_y.weight" in names and "quant_conv.weight" in names
    ),
    convert=_convert,
    models=(
        Model("movqgan-67m", 1024, 16384, "ai-forever/MoVQGAN:movqgan_67M.ckpt", verified=True),
        Model("movqgan-102m", 1024, 16384, "ai-forever/MoVQGAN:movqgan_102M.ckpt"),
        Model("movqgan-270m", 1024, 16384, "ai-forever/MoVQGAN:movqgan_270M.ckpt"),
    ),
)
