"""commaVQ: a VQGAN of driving video, frame by frame, published as an encoder and a decoder.

Its encoder sees 8-bit levels as they are. Its decoder's range of -1 to 1 is brought to theirs in
its last convolution.
"""

from collections.abc import Collection

from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.errors import CheckpointError
from tokcodec.families.convolutional import Names, take_convolutional
from tokcodec.families.family import Config, Family, Model, square_side
from tokcodec.families.reading import Arrays, Tensors

_NAMES = Names(quantizing="encoder.quant_conv", dequantizing="decoder.post_quant_conv")
_CODEBOOK = "quantize._embedding.weight"


def convert(source: Tensors, config: Config, image_size: int | None) -> tuple[ModelConfig, Arrays]:
    """Config and tensors as ours.

    Raises:
        CheckpointError: something is missing, over, of another shape or not finite.
    """
    size, dim = source.shape(f"encoder.{_CODEBOOK}", 2)
    codebook = source.take(f"encoder.{_CODEBOOK}", size, dim)
    if not (codebook == source.take(f"decoder.{_CODEBOOK}", size, dim)).all():
        raise CheckpointError("its encoder and its decoder have different codebooks")
    encoder, decoder, out = take_convolutional(source, _NAMES, dim)
    source.finish()
    out["quantizer.codebook"] = codebook
    out["decoder.leave.weight"] = out["decoder.leave.weight"] * 127.5
    out["decoder.leave.bias"] = (out["decoder.leave.bias"] + 1) * 127.5
    return (
        ModelConfig(
            encoder=encoder,
            quantizer=CodebookConfig(codebook_size=size, embedding_dim=dim),
            decoder=decoder,
            preprocessing=PreprocessingConfig(
                image_size=square_side(image_size, config.get("image_size"), 256),
                mean=(0.0,) * 3,
                std=(1 / 255,) * 3,
            ),
            rounding="down",
            default_fit="crop",
        ),
        out,
    )


def _recognises(names: Collection[str], _config: Config | None) -> bool:
    if _CODEBOOK in names:
        raise CheckpointError(
            "half of a commaVQ; name encoder_pytorch_model.bin, with decoder_pytorch_model.bin "
            "beside it"
        )
    return f"encoder.{_CODEBOOK}" in names


FAMILY = Family(
    name="commavq",
    title="commaVQ",
    paper=None,
    licence="MIT",
    recognises=_recognises,
    convert=convert,
    models=(Model("commavq", 256, 1024, "commaai/commavq-gpt2m:encoder_pytorch_model.bin"),),
)
