"""Infinity's tokenizers (arXiv 2412.04431): like VAR's, with the signs of channels as tokens.

If an odd number of pixels is cropped, the authors' crop may be one pixel further left or up.
"""

import re

from tokcodec.config import ModelConfig
from tokcodec.config.quantizers import BinaryConfig, ResidualConfig
from tokcodec.errors import CheckpointError
from tokcodec.families.convolutional import Names, take_model
from tokcodec.families.family import Config, Family, Model, square_side
from tokcodec.families.reading import Arrays, Tensors

_BITS = "quantizer.lfq.mask"  # the value of each bit; the first channel is the highest
_CONSTANTS = (_BITS, "quantize.lfq.mask")
_MOST_BITS = 32  # of a token here
_SCALES = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
_SIDES = (256, 512, 1024)


def _convert(source: Tensors, config: Config, image_size: int | None) -> tuple[ModelConfig, Arrays]:
    (bits,) = source.shape(_BITS, 1)
    if bits > _MOST_BITS:
        raise CheckpointError(
            f"Infinity's d{bits} has tokens of {bits} bits, more than {_MOST_BITS}; "
            "use its d16, d24 or d32"
        )
    side = square_side(image_size, config)
    if side not in _SIDES:
        raise CheckpointError(f"sees squares of 256, 512 or 1024 pixels only, not of {side}")
    source = source.without(_CONSTANTS)
    names = {_plain(name): name for name in source.names()}
    if len(names) < len(source.names()):
        raise CheckpointError("two of its tensors have the same name without wrappers")
    quantizer = ResidualConfig(
        stage=BinaryConfig(embedding_dim=bits, first_bit="highest", unit_length=True),
        scales=tuple(scale for scale in _SCALES if scale <= side // 16),
        enlarging="bilinear",
    )
    return take_model(source.renamed(names), Names(), quantizer, image_size=side, resize="lanczos")


def _plain(name: str) -> str:
    """The name of a tensor without the module that wraps a convolution or a norm."""
    return re.sub(r"\.(?:conv|norm)(\.(?:weight|bias))$", r"\1", name)


def _model(name: str, bits: int, file: str, rfid: float) -> Model:
    return Model(
        f"infinity-{name}", 521, 2**bits, f"FoundationVision/Infinity:infinity_vae_{file}.pth", rfid
    )


FAMILY = Family(
    title="Infinity",
    licence="MIT",
    recognises=lambda names, _: _BITS in names and "encoder.conv_in.conv.weight" in names,
    convert=_convert,
    models=(
        _model("d16", 16, "d16", 1.22),
        _model("d24", 24, "d24", 0.75),
        _model("d32", 32, "d32", 0.61),
        _model("d32-reg", 32, "d32reg", 0.75),
    ),
)
