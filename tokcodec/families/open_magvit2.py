"""Open-MAGVIT2 (arXiv 2409.04410): lookup-free tokens, a bit a channel, the first one the lowest.

Its authors made images smaller with OpenCV's bilinear filter, which does not smooth; here they
are cropped with the bicubic one that smooths, as by torchvision.
"""

from typing import Literal

from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.quantizers import BinaryConfig
from tokcodec.families.convolutional import Names, take_convolutional
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


def convert(source: Tensors, config: Config, image_size: int | None) -> tuple[ModelConfig, Arrays]:
    """Config and tensors as ours.

    Raises:
        CheckpointError: something is missing, over, of another shape or not finite.
    """
    source = source.without(("loss.",)).averaged("model_ema.")
    return convert_lookup_free(source, _NAMES, "encoder.conv_out", "lowest", config, image_size)


def convert_lookup_free(
    source: Tensors,
    names: Names,
    quantizing: str,
    first_bit: Literal["lowest", "highest"],
    config: Config,
    image_size: int | None,
) -> tuple[ModelConfig, Arrays]:
    """Config and tensors of a convolutional model without a codebook; nothing may be left.

    Args:
        source: its tensors.
        names: their names.
        quantizing: the convolution whose channels are the bits of a token.
        first_bit: the bit that the first channel is.
        config, image_size: see ``Family``.

    Raises:
        CheckpointError: something is missing, over, of another shape or not finite.
    """
    bits = source.shape(f"{quantizing}.weight", 4)[0]
    encoder, decoder, out = take_convolutional(source, names, bits)
    source.finish()
    return (
        ModelConfig(
            encoder=encoder,
            quantizer=BinaryConfig(embedding_dim=bits, first_bit=first_bit),
            decoder=decoder,
            preprocessing=PreprocessingConfig(
                image_size=square_side(image_size, config.get("image_size"), 256)
            ),
            rounding="down",
            default_fit="crop",
        ),
        out,
    )


def _model(name: str, codebook_size: int, file: str, rfid: float, side: int = 256) -> Model:
    return Model(
        name,
        256,
        codebook_size,
        f"TencentARC/Open-MAGVIT2-Tokenizer-{file}",
        rfid,
        {"image_size": side},
        verified="tokens" if codebook_size == 16384 else "shapes",
        image_size=side,
    )


FAMILY = Family(
    name="open_magvit2",
    title="Open-MAGVIT2",
    paper="2409.04410",
    licence="Apache-2.0",
    recognises=lambda names, _: "decoder.adaptive.0.gamma.weight" in names,
    convert=convert,
    models=(
        _model("open-magvit2-16384", 16384, "16384-Pretrain:pretrain256_16384.ckpt", 2.55),
        _model(
            "open-magvit2-262144-pretrain", 262144, "262144-Pretrain:pretrain256_262144.ckpt", 1.67
        ),
        _model("open-magvit2-262144", 262144, "256-resolution:imagenet_256_L.ckpt", 1.17),
        _model("open-magvit2-262144-128", 262144, "128-resolution:imagenet_128_L.ckpt", 1.18, 128),
    ),
)
