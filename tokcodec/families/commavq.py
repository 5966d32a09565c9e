"""commaVQ: a VQGAN of driving video, frame by frame, published as an encoder and a decoder.

Its encoder takes 8-bit levels. The range of its decoder, -1 to 1, is scaled to 8-bit levels in the
last convolution.
"""

from collections.abc import Collection

import numpy as np

from tokcodec.config import ModelConfig
from tokcodec.errors import CheckpointError
from tokcodec.families.convolutional import Names, take_vq
from tokcodec.families.family import Config, Family, Model, square_side
from tokcodec.families.reading import Arrays, Tensors

_NAMES = Names(quantizing="encoder.quant_conv", dequantizing="decoder.post_quant_conv")
_CODEBOOK = "quantize._embedding.weight"


def _convert(source: Tensors, config: Config, image_size: int | None) -> tuple[ModelConfig, Arrays]:
    codebooks = [f"{side}.{_CODEBOOK}" for side in ("encoder", "decoder")]
    decoder_codebook = source.take(codebooks[1], *source.shape(codebooks[1], 2))
    side = square_side(image_size, config)
    ours, tensors = take_vq(
        source, _NAMES, codebooks[0],
        image_size=side, mean=(0.0,) * 3, std=(1 / 255,) * 3,
    )  # fmt: skip
    if not np.array_equal(tensors["quantizer.codebook"], decoder_codebook):
        raise CheckpointError("its encoder and its decoder have different codebooks")
    tensors["decoder.leave.weight"] = tensors["decoder.leave.weight"] * 127.5
    tensors["decoder.leave.bias"] = (tensors["decoder.leave.bias"] + 1) * 127.5
    return ours, tensors


def _recognises(names: Collection[str], _config: Config | None) -> bool:
    if _CODEBOOK in names:
        raise CheckpointError(
            "half of a commaVQ; name encoder_pytorch_model.bin, with decoder_pytorch_model.bin "
            "in the same folder"
        )
    return f"encoder.{_CODEBOOK}" in names


FAMILY = Family(
    title="commaVQ",
    licence="MIT",
    recognises=_recognises,
    convert=_convert,
    models=(Model("commavq", 256, 1024, "commaai/commavq-gpt2m:encoder_pytorch_model.bin"),),
)
