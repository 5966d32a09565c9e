"""Emu3's VisionTokenizer (arXiv 2409.18869): a MoVQGAN with layers along time.

An image is a video of four equal frames, of which only the first is kept. The frames before it are
zeros, so only some taps of each kernel in time matter, and each layer becomes one in the plane.
"""

from collections.abc import Collection

import numpy as np

from tokcodec.config import ModelConfig
from tokcodec.errors import CheckpointError
from tokcodec.families.convolutional import Names, take_vq
from tokcodec.families.family import Config, Family, Model, square_side
from tokcodec.families.reading import Array, Arrays, Tensors

_EPSILON = 1e-5  # of torch's batch norms
_COUNTERS = "num_batches_tracked"


def _convert(source: Tensors, config: Config, image_size: int | None) -> tuple[ModelConfig, Arrays]:
    source = source.without(name for name in source.names() if name.endswith(_COUNTERS))
    channels = source.shape("encoder.conv_out.weight", 4)[0]
    head = _encoder_convolutions(source, channels)
    head |= _decoder_convolutions(source, channels)
    blocks = {side: source.count(f"{side}.time_res_stack.") for side in ("encoder", "decoder")}
    for side, count in blocks.items():
        for number in range(count):
            theirs = f"{side}.time_res_stack.{number}"
            head |= _block(source, theirs, f"{side}.head.blocks.{number}", channels)
    if odd := [name for name, array in head.items() if not np.isfinite(array).all()]:
        raise CheckpointError(f"its running averages make NaN or infinite values of {odd[0]}")
    embedding_dim = source.shape("quantize.embedding.weight", 2)[1]
    around = {
        "quant_conv": (embedding_dim, channels),
        "post_quant_conv": (channels, embedding_dim),
    }
    for name, shape in around.items():
        layer = source.take_layer(f"{name}.conv", name, *shape, 3, 1, 1)
        layer[f"{name}.weight"] = layer[f"{name}.weight"][:, :, -1]
        source = source.with_arrays(layer)
    ours, tensors = take_vq(source, Names(), image_size=square_side(image_size, config, 512))
    encoder = ours.encoder.replace(
        head_widths=(2 * channels, channels), head_blocks=blocks["encoder"]
    )
    decoder = ours.decoder.replace(head_widths=(channels, channels), head_blocks=blocks["decoder"])
    return ours.replace(encoder=encoder, decoder=decoder), tensors | head


def _encoder_convolutions(source: Tensors, channels: int) -> Arrays:
    """Fold the convolutions along time, with four taps, stride 2 and two zeros before.

    The first one makes two frames of four equal ones, by its last two taps and by all four. The
    second one makes one frame of these two, by its last two taps.
    """
    (first, first_bias), (second, second_bias) = (
        _convolution(source, f"encoder.time_conv.{number}.conv.conv", channels, 4)
        for number in range(2)
    )
    return {
        "encoder.head.convolutions.0.weight": np.concatenate(
            [first[:, :, 2:].sum(axis=2), first.sum(axis=2)]
        ),
        "encoder.head.convolutions.0.bias": np.concatenate([first_bias, first_bias]),
        "encoder.head.convolutions.1.weight": np.concatenate(
            [second[:, :, 2], second[:, :, 3]], axis=1
        ),
        "encoder.head.convolutions.1.bias": second_bias,
    }


def _decoder_convolutions(source: Tensors, channels: int) -> Arrays:
    """Fold the convolutions along time: with two zeros before it, the first frame sees one tap."""
    out: Arrays = {}
    for number in range(2):
        name = f"decoder.time_conv.{number}.conv.conv"
        weight, bias = _convolution(source, name, channels)
        out[f"decoder.head.convolutions.{number}.weight"] = weight[:, :, -1].copy()
        out[f"decoder.head.convolutions.{number}.bias"] = bias
    return out


def _block(source: Tensors, theirs: str, ours: str, channels: int) -> Arrays:
    """Two batch norms and convolutions; the second norm is folded into the first convolution."""
    scale, shift = _batch_norm(source, f"{theirs}.norm1", channels)
    weight1, bias1 = _convolution(source, f"{theirs}.conv1.conv", channels)
    scale2, shift2 = _batch_norm(source, f"{theirs}.norm2", channels)
    weight2, bias2 = _convolution(source, f"{theirs}.conv2.conv", channels)
    return {
        f"{ours}.scale": scale,
        f"{ours}.shift": shift,
        f"{ours}.conv1.weight": weight1[:, :, -1] * scale2[:, None, None, None],
        f"{ours}.conv1.bias": bias1 * scale2 + shift2,
        f"{ours}.conv2.weight": weight2[:, :, -1].copy(),
        f"{ours}.conv2.bias": bias2,
    }


def _convolution(source: Tensors, name: str, channels: int, taps: int = 3) -> tuple[Array, Array]:
    weight = source.take(f"{name}.weight", channels, channels, taps, 3, 3)
    return weight, source.take(f"{name}.bias", channels)


def _batch_norm(source: Tensors, name: str, channels: int) -> tuple[Array, Array]:
    """The scale and the shift of a batch norm with running averages."""
    weight, bias, mean, variance = (
        source.take(f"{name}.{leaf}", channels)
        for leaf in ("weight", "bias", "running_mean", "running_var")
    )
    with np.errstate(all="ignore"):
        scale = weight / np.sqrt(variance + np.float32(_EPSILON))
    return scale, bias - mean * scale


def _recognises(names: Collection[str], _config: Config | None) -> bool:
    return "encoder.time_conv.0.conv.conv.weight" in names


FAMILY = Family(
    title="Emu3",
    licence="Apache-2.0",
    recognises=_recognises,
    convert=_convert,
    models=(
        Model("emu3", 4096, 32768, "BAAI/Emu3-VisionTokenizer", verified=True, image_size=512),
    ),
)
