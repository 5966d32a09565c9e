"""MaskGIT's VQGAN (arXiv 2202.04200), as published by the authors of TiTok and RAR."""

from tokcodec.config import ModelConfig
from tokcodec.families.convolutional import Names, take_vq
from tokcodec.families.family import Config, Family, Model, square_side
from tokcodec.families.reading import Arrays, Tensors

NAMES = Names(
    middle=tuple(f"mid.{n}" for n in range(16)),
    reduce=None,
    enlarge=".upsample_conv",
    halving="average",
    shortcut="output",
)


def _convert(source: Tensors, config: Config, image_size: int | None) -> tuple[ModelConfig, Arrays]:
    side = square_side(image_size, config)
    return take_vq(source, NAMES, image_size=side, mean=(0.0,) * 3, std=(1.0,) * 3)


FAMILY = Family(
    title="MaskGIT-VQGAN",
    licence="Apache-2.0",
    recognises=lambda names, _: (
        "decoder.up.1.upsample_conv.weight" in names and "encoder.mid.0.conv1.weight" in names
    ),
    convert=_convert,
    models=(
        Model(
            "maskgit-vqgan",
            256,
            1024,
            "fun-research/TiTok:maskgit-vqgan-imagenet-f16-256.bin",
            2.28,
            verified=True,
        ),
    ),
)
