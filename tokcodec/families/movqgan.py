"""MoVQGAN (arXiv 2209.09002): a VQGAN whose decoder's norms take the tokens; Kandinsky's are the
same, see ``tokcodec.families.diffusers``.

Its authors made images smaller in two steps, the first by means (Pillow's ``reducing_gap``); here
they are cropped with the bicubic filter alone, as by torchvision.
"""

from tokcodec.config import ModelConfig
from tokcodec.families.family import Config, Family, Model
from tokcodec.families.reading import Arrays, Tensors
from tokcodec.families.taming import convert_vqgan

# Left out by the authors' own loading too: the discriminator, and the copies of the training.
_TRAINING = ("loss.", "ema_")


def convert(source: Tensors, config: Config, image_size: int | None) -> tuple[ModelConfig, Arrays]:
    """Config and tensors as ours.

    Raises:
        CheckpointError: something is missing, over, of another shape or not finite.
    """
    ours, out = convert_vqgan(source.without(_TRAINING), config, image_size)
    return ours.replace(rounding="nearest"), out


def _model(name: str, published: str, verified: bool = False) -> Model:
    where = f"ai-forever/MoVQGAN:{published}.ckpt"
    return Model(name, 1024, 16384, where, verified="tokens" if verified else "shapes")


FAMILY = Family(
    name="movqgan",
    title="MoVQGAN",
    paper="2209.09002",
    licence="Apache-2.0",
    recognises=lambda names, _: (
        "decoder.norm_out.conv_y.weight" in names and "quant_conv.weight" in names
    ),
    convert=convert,
    models=(
        _model("movqgan-67m", "movqgan_67M", True),
        _model("movqgan-102m", "movqgan_102M"),
        _model("movqgan-270m", "movqgan_270M"),
    ),
)
