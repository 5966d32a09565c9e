"""Cosmos' discrete image tokenizers (arXiv 2501.03575): Haar transforms, and finite scalar tokens.

They are published as TorchScript in bfloat16. Only the tensors are read, not the code; tokcodec
computes in float32. The authors pad images with zeros on all sides.
"""

from collections.abc import Collection

from tokcodec.config import ModelConfig
from tokcodec.config.quantizers import FiniteScalarConfig
from tokcodec.errors import CheckpointError
from tokcodec.families.convolutional import Names, take_model
from tokcodec.families.family import Config, Family, Model, square_side
from tokcodec.families.reading import Arrays, Tensors

_PUBLISHED = "nvidia/Cosmos-0.1-Tokenizer"
_LEVELS = "quantizer._levels"
_CONSTANTS = (
    "encoder.patcher.",
    "decoder.unpatcher.",
    "quantizer._basis",
    "quantizer.implicit_codebook",
)


def _convert(source: Tensors, config: Config, image_size: int | None) -> tuple[ModelConfig, Arrays]:
    source = source.without(_CONSTANTS)
    (channels,) = source.shape(_LEVELS, 1)
    levels = tuple(int(level) for level in source.take(_LEVELS, channels))
    side = square_side(image_size, config)
    quantizer = FiniteScalarConfig(levels=levels)
    return take_model(source, Names(), quantizer, rounding="nearest", image_size=side)


def _recognises(names: Collection[str], _config: Config | None) -> bool:
    if "inv_quant." + _LEVELS in names or (
        _LEVELS in names and "decoder.conv_in.weight" not in names
    ):
        raise CheckpointError(
            "half of a Cosmos tokenizer; use autoencoder.jit, which has both halves"
        )
    return _LEVELS in names


FAMILY = Family(
    title="Cosmos DI",
    licence="NVIDIA Open Model License",
    recognises=_recognises,
    convert=_convert,
    models=(
        Model("cosmos-di16x16", 256, 64000, f"{_PUBLISHED}-DI16x16", verified=True),
        Model("cosmos-di8x8", 1024, 64000, f"{_PUBLISHED}-DI8x8"),
    ),
)
