"""Open-MAGVIT2 (arXiv 2409.04410): lookup-free tokens; the first channel is the lowest bit.

The authors reduced images with OpenCV's bilinear filter, which does not antialias. tokcodec uses
torchvision's bicubic filter, which does.
"""

from tokcodec.config import ModelConfig
from tokcodec.config.quantizers import BinaryConfig
from tokcodec.families.convolutional import Names, take_model
from tokcodec.families.family import Config, Family, Model, square_side
from tokcodec.families.reading import Arrays, Tensors

_NAMES = Names(
    middle=tuple(f"mid_block.{n}" for n in range(16)),
    reduce=".downsample",
    enlarge=".upsample.conv1",
    halving="around",
    doubling="depth",
    adapt="adaptive.",
)


def _convert(source: Tensors, config: Config, image_size: int | None) -> tuple[ModelConfig, Arrays]:
    source = source.without(("loss.",)).averaged("model_ema.")
    bits = source.shape("encoder.conv_out.weight", 4)[0]
    side = square_side(image_size, config)
    return take_model(source, _NAMES, BinaryConfig(embedding_dim=bits), image_size=side)


def _model(name: str, codebook_size: int, file: str, rfid: float, side: int = 256) -> Model:
    return Model(
        name,
        256,
        codebook_size,
        f"TencentARC/Open-MAGVIT2-Tokenizer-{file}",
        rfid,
        {"image_size": side},
        verified=codebook_size == 16384,
        image_size=side,
    )


FAMILY = Family(
    title="Open-MAGVIT2",
    licence="Apache-2.0",
    recognises=lambda names, _: "decoder.adaptive.0.gamma.weight" in names,
    convert=_convert,
    models=(
        _model("open-magvit2-16384", 16384, "16384-Pretrain:pretrain256_16384.ckpt", 2.55),
        _model(
            "open-magvit2-262144-pretrain", 262144, "262144-Pretrain:pretrain256_262144.ckpt", 1.67
        ),
        _model("open-magvit2-262144", 262144, "256-resolution:imagenet_256_L.ckpt", 1.17),
        _model("open-magvit2-262144-128", 262144, "128-resolution:imagenet_128_L.ckpt", 1.18, 128),
    ),
)
