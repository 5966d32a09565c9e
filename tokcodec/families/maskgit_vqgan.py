"""MaskGIT's VQGAN (arXiv 2202.04200), as TiTok's and RAR's authors publish it."""

from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.families.convolutional import Names, take_vq
from tokcodec.families.family import Config, Family, Model, square_side
from tokcodec.families.reading import Arrays, Tensors

_NAMES = Names(
    middle=tuple(f"mid.{n}" for n in range(16)),
    reduce=None,
    enlarge=".upsample_conv",
    halving="average",
    shortcut="output",
)


def convert(source: Tensors, config: Config, image_size: int | None) -> tuple[ModelConfig, Arrays]:
    """Config and tensors as ours.

    Raises:
        CheckpointError: something is missing, over, of another shape or not finite.
    """
    encoder, decoder, sizes, out = take_vq(source, _NAMES)
    return (
        ModelConfig(
            encoder=encoder,
            quantizer=CodebookConfig(
                codebook_size=sizes["codebook_size"],
                embedding_dim=sizes["embedding_dim"],
                metric="euclidean",
            ),
            decoder=decoder,
            preprocessing=PreprocessingConfig(
                image_size=square_side(image_size, config.get("image_size"), 256),
                mean=(0.0, 0.0, 0.0),
                std=(1.0, 1.0, 1.0),
            ),
            rounding="down",
            default_fit="crop",
        ),
        out,
    )


FAMILY = Family(
    name="maskgit_vqgan",
    title="MaskGIT-VQGAN",
    paper="2202.04200",
    licence="Apache-2.0",
    recognises=lambda names, _: (
        "decoder.up.1.upsample_conv.weight" in names and "encoder.mid.0.conv1.weight" in names
    ),
    convert=convert,
    models=(
        Model(
            "maskgit-vqgan",
            256,
            1024,
            "fun-research/TiTok:maskgit-vqgan-imagenet-f16-256.bin",
            2.28,
            verified="tokens",
        ),
    ),
)
