"""Convert the networks of VQGAN and its descendants.

Sizes are read from the shapes of the tensors; ``Names`` has the names that a program gives them.
"""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.convolutional import ConvolutionalDecoderConfig, ConvolutionalEncoderConfig
from tokcodec.config.model import Quantizer
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.errors import CheckpointError
from tokcodec.families.reading import Array, Arrays, Tensors


@dataclass(frozen=True)
class Names:
    """The names that a program gives its tensors, and how its networks differ from VQGAN's.

    Attributes:
        encoder_level, decoder_level: prefix of a level, before its number.
        decoder_counts: how the decoder's levels are numbered: ``level``, from the full resolution
            down, or ``place``, in the order in which they run.
        block, attention: prefixes of the residual blocks and attentions in a level, before their
            numbers.
        widen: the 1x1 convolution of a block that changes the width.
        attention_norms: the names that the norm of an attention may have.
        attention_layers: the layers of an attention for queries, keys and values, or one for all
            three, then the output layer; linear layers or 1x1 convolutions.
        norm_out: the last norm.
        quantizing, dequantizing: the convolutions around the quantizer, 1x1 or 3x3.
        middle: residual blocks and attention at the lowest resolution, in order.
        reduce, enlarge: the convolution from a level to the next; None if there is none.
        halving, doubling, shortcut: see ``ConvolutionalEncoderConfig`` and
            ``ConvolutionalDecoderConfig``.
        adapt: prefix of the adaptive norms, before the number of the level; None if there are none.
    """

    encoder_level: str = "down."
    decoder_level: str = "up."
    decoder_counts: Literal["level", "place"] = "level"
    block: str = ".block."
    attention: str = ".attn."
    widen: str = ".nin_shortcut"
    attention_norms: tuple[str, ...] = ("norm",)
    attention_layers: tuple[str, ...] = ("q", "k", "v", "proj_out")
    norm_out: str = "norm_out"
    quantizing: str = "quant_conv"
    dequantizing: str = "post_quant_conv"
    middle: tuple[str, ...] = ("mid.block_1", "mid.attn_1", "mid.block_2")
    reduce: str | None = ".downsample.conv"
    enlarge: str = ".upsample.conv"
    halving: Literal["behind", "around", "average"] = "behind"
    doubling: Literal["nearest", "depth"] = "nearest"
    shortcut: Literal["input", "output"] = "input"
    adapt: str | None = None


def take_vq(
    source: Tensors,
    names: Names,
    codebook: str = "quantize.embedding.weight",
    metric: Literal["euclidean", "cosine", "dot"] = "euclidean",
    **fields: Any,
) -> tuple[ModelConfig, Arrays]:
    """Convert a whole model with a codebook. See ``take_model`` for ``fields``.

    Raises:
        CheckpointError: a tensor is missing, left over, of another shape or not finite.
    """
    size, dim = source.shape(codebook, 2)
    vectors = source.take(codebook, size, dim)
    quantizer = CodebookConfig(codebook_size=size, embedding_dim=dim, metric=metric)
    config, tensors = take_model(source, names, quantizer, **fields)
    return config, tensors | {"quantizer.codebook": vectors}


def take_model(
    source: Tensors,
    names: Names,
    quantizer: Quantizer,
    rounding: Literal["nearest", "down"] = "down",
    **preprocessing: Any,
) -> tuple[ModelConfig, Arrays]:
    """Convert encoder and decoder, the last tensors of a model.

    Args:
        source: the tensors that are left.
        names: what they are called.
        quantizer: the quantizer, whose tensors the caller adds.
        rounding: see ``ModelConfig``.
        preprocessing: fields of ``PreprocessingConfig``.

    Raises:
        CheckpointError: a tensor is missing, left over, of another shape or not finite, or sizes
            contradict each other.
    """
    encoder, decoder = _Encoder(source, names), Decoder(source, names)
    dim = quantizer.embedding_dim
    encoder_config, decoder_config = encoder.take(dim), decoder.take(dim)
    source.finish()
    config = ModelConfig(
        encoder=encoder_config,
        quantizer=quantizer,
        decoder=decoder_config,
        preprocessing=PreprocessingConfig(**preprocessing),
        rounding=rounding,
        default_fit="crop",
    )
    return config, encoder.out | decoder.out


class _Network:
    """What encoder and decoder have in common."""

    def __init__(self, source: Tensors, names: Names, side: str, levels: list[str]) -> None:
        self.source, self.names, self.side = source, names, side
        self.out: Arrays = {}
        self.levels = [f"{side}.{level}" for level in levels]  # the full resolution first
        if not levels:
            raise CheckpointError(f"its {side} has no levels that tokcodec knows")
        self.blocks = [source.count(f"{level}{names.block}") for level in self.levels]
        self.bias = f"{self.levels[0]}{names.block}0.conv1.bias" in source
        self.widths = [
            source.shape(f"{level}{names.block}0.conv1.weight", 4)[0] for level in self.levels
        ]
        self.attention = tuple(
            number
            for number, level in enumerate(self.levels)
            if source.has_below(f"{level}{names.attention}")
        )

    def give(self, theirs: str, ours: str, *shape: int, bias: bool = True) -> None:
        self.out |= self.source.take_layer(theirs, f"{self.side}.{ours}", *shape, bias=bias)

    def give_norm(self, theirs: str, ours: str, width: int) -> None:
        """Take a group norm, or one whose scale and shift depend on the tokens."""
        if not self.source.has_below(f"{theirs}.norm_layer."):
            self.give(theirs, ours, width)
            return
        self.give(f"{theirs}.norm_layer", f"{ours}.norm", width)
        channels = self.source.shape(f"{theirs}.conv_y.weight", 4)[1]
        self.give(f"{theirs}.conv_y", f"{ours}.scale", width, channels, 1, 1)
        self.give(f"{theirs}.conv_b", f"{ours}.shift", width, channels, 1, 1)

    def give_level(self, number: int, ours: str, before: int) -> None:
        """Take the residual blocks of a level, and the attentions after them."""
        width, theirs, attended = self.widths[number], self.levels[number], number in self.attention
        for block in range(self.blocks[number]):
            place = 2 * block if attended else block
            self.give_block(f"{theirs}{self.names.block}{block}", f"{ours}.{place}", before, width)
            if attended:
                name = f"{theirs}{self.names.attention}{block}"
                self.give_attention(name, f"{ours}.{place + 1}", width)
            before = width

    def give_block(self, theirs: str, ours: str, before: int, width: int) -> None:
        self.give_norm(f"{theirs}.norm1", f"{ours}.norm1", before)
        self.give(f"{theirs}.conv1", f"{ours}.conv1", width, before, 3, 3, bias=self.bias)
        self.give_norm(f"{theirs}.norm2", f"{ours}.norm2", width)
        self.give(f"{theirs}.conv2", f"{ours}.conv2", width, width, 3, 3, bias=self.bias)
        if before != width:
            start = width if self.names.shortcut == "output" else before
            shortcut = (theirs + self.names.widen, f"{ours}.shortcut")
            self.give(*shortcut, width, start, 1, 1, bias=self.bias)

    def give_attention(self, theirs: str, ours: str, width: int) -> None:
        norms = [f"{theirs}.{norm}" for norm in self.names.attention_norms]
        norm = next((norm for norm in norms if self.source.has_below(f"{norm}.")), norms[0])
        self.give_norm(norm, f"{ours}.norm", width)
        *parts, last = (f"{theirs}.{layer}" for layer in self.names.attention_layers)
        ours = f"{self.side}.{ours}"
        for name, layers, outputs in (
            (f"{ours}.qkv", parts, 3 * width // len(parts)),
            (f"{ours}.out", [last], width),
        ):
            weights = [self.source.take_1x1(f"{layer}.weight", outputs, width) for layer in layers]
            self.out[f"{name}.weight"] = np.concatenate(weights)
            biases = [self.source.take(f"{layer}.bias", outputs) for layer in layers]
            self.out[f"{name}.bias"] = np.concatenate(biases)

    def give_embedding(
        self, theirs: str, ours: str, channels: int, shape: tuple[int, int]
    ) -> dict[str, Any]:
        """Take the convolution at the quantizer, if there is one; return its config fields.

        ``shape`` has its numbers of outputs and inputs.
        """
        if f"{theirs}.weight" not in self.source and len(set(shape)) == 1:
            return {}
        kernel = self.source.shape(f"{theirs}.weight", 4)[2]
        self.give(theirs, ours, *shape, kernel, kernel)
        return {"embedding_channels": channels, "embedding_kernel": kernel}

    def give_middle(self) -> dict[str, Any]:
        """Take the layers at the lowest resolution; return their config fields."""
        width, kinds = self.widths[-1], ""
        for name in (f"{self.side}.{name}" for name in self.names.middle):
            ours = f"middle.{len(kinds)}"
            if f"{name}.{self.names.attention_layers[0]}.weight" in self.source:
                self.give_attention(name, ours, width)
                kinds += "a"
            elif f"{name}.conv1.weight" in self.source:
                self.give_block(name, ours, width, width)
                kinds += "b"
        if not re.fullmatch("b*|bab*", kinds):
            raise CheckpointError(f"its {self.side}'s middle has attention in an unknown place")
        return {"middle_blocks": kinds.count("b"), "middle_attention": "a" in kinds}

    def resized(self, layer: str) -> int:
        """The number of levels with this layer, which changes the resolution."""
        return sum(self.source.has_below(level + layer) for level in self.levels)

    def fields(self, channels: int) -> dict[str, Any]:
        """The config fields that follow from the shapes."""
        if not channels or any(width % channels for width in self.widths):
            raise CheckpointError(
                f"its {self.side} has levels whose channels are not multiples of {channels}"
            )
        return {
            "channels": channels,
            "multipliers": tuple(width // channels for width in self.widths),
            "blocks": self.blocks[0] if len(set(self.blocks)) == 1 else tuple(self.blocks),
            "attention": self.attention,
            "bias": self.bias,
            "shortcut": self.names.shortcut,
        }


class _Encoder(_Network):
    def __init__(self, source: Tensors, names: Names) -> None:
        count = source.count(f"encoder.{names.encoder_level}")
        levels = [f"{names.encoder_level}{number}" for number in range(count)]
        super().__init__(source, names, "encoder", levels)

    def take(self, embedding_dim: int) -> ConvolutionalEncoderConfig:
        channels, colours, _, _ = self.source.shape("encoder.conv_in.weight", 4)
        before = channels
        fields = self.fields(channels) | {"haar_steps": _haar_steps(colours)}
        self.give("encoder.conv_in", "enter", channels, colours, 3, 3, bias=self.bias)
        halvings = len(self.levels) - 1
        if self.names.reduce:
            halvings = self.resized(self.names.reduce)
        for number, width in enumerate(self.widths):
            self.give_level(number, f"levels.{number}.blocks", before)
            if self.names.reduce and number < halvings:
                reduce = (self.levels[number] + self.names.reduce, f"levels.{number}.reduce")
                self.give(*reduce, width, width, 3, 3)
            before = width
        fields |= self.give_middle()
        self.give_norm(f"encoder.{self.names.norm_out}", "norm", before)
        leave, _, kernel, _ = self.source.shape("encoder.conv_out.weight", 4)
        self.give("encoder.conv_out", "leave", leave, before, kernel, kernel)
        fields |= self.give_embedding(
            self.names.quantizing, "to_embedding", leave, (embedding_dim, leave)
        )
        return ConvolutionalEncoderConfig(
            **fields,
            kept_levels=len(self.levels) - halvings,
            halving=self.names.halving,
            last_kernel=kernel,  # type: ignore[arg-type]
        )


class Decoder(_Network):
    """A decoder whose tensors have the prefix ``side`` and the names that ``names`` gives."""

    def __init__(self, source: Tensors, names: Names, side: str = "decoder") -> None:
        count = source.count(f"{side}.{names.decoder_level}")
        numbers = range(count) if names.decoder_counts == "level" else reversed(range(count))
        levels = [f"{names.decoder_level}{number}" for number in numbers]
        super().__init__(source, names, side, levels)

    def take(self, embedding_dim: int) -> ConvolutionalDecoderConfig:
        before = self.widths[-1]
        fields = self.fields(math.gcd(*self.widths))
        _, enter, _, _ = self.source.shape(f"{self.side}.conv_in.weight", 4)
        fields |= self.give_embedding(
            self.names.dequantizing, "from_embedding", enter, (enter, embedding_dim)
        )
        self.give(f"{self.side}.conv_in", "enter", before, enter, 3, 3)
        fields |= self.give_middle()
        spatial = self.source.has_below(f"{self.side}.{self.names.norm_out}.norm_layer.")
        doublings = self.resized(self.names.enlarge)
        for place, number in enumerate(reversed(range(len(self.widths)))):
            ours = f"levels.{place}"
            if self.names.adapt:
                for part in ("gamma", "beta"):
                    adapt = f"{self.side}.{self.names.adapt}{number}.{part}"
                    self.give(adapt, f"{ours}.adapt.{part}", before, enter)
            self.give_level(number, f"{ours}.blocks", before)
            before = self.widths[number]
            if place < doublings:
                self.give_enlarge(self.levels[number] + self.names.enlarge, ours, before)
        self.give_norm(f"{self.side}.{self.names.norm_out}", "norm", before)
        colours = self.source.shape(f"{self.side}.conv_out.weight", 4)[0]
        self.give(f"{self.side}.conv_out", "leave", colours, before, 3, 3)
        return ConvolutionalDecoderConfig(
            **fields,
            kept_levels=len(self.levels) - doublings,
            haar_steps=_haar_steps(colours),
            doubling=self.names.doubling,
            adaptive_norm=self.names.adapt is not None,
            norm="spatial" if spatial else "group",
        )

    def give_enlarge(self, theirs: str, ours: str, width: int) -> None:
        if self.names.doubling == "nearest":
            self.give(theirs, f"{ours}.enlarge", width, width, 3, 3)
            return
        self.give(theirs, f"{ours}.enlarge.0", 4 * width, width, 3, 3)
        for leaf in ("weight", "bias"):
            name = f"{self.side}.{ours}.enlarge.0.{leaf}"
            self.out[name] = _places_last(self.out[name])


def _haar_steps(colours: int) -> int:
    """The number of Haar transforms that make this many channels from three."""
    steps = next((steps for steps in range(5) if 3 * 4**steps == colours), None)
    if steps is None:
        raise CheckpointError(f"its images have {colours} channels, not 3 or 3 times a power of 4")
    return steps


def _places_last(rows: Array) -> Array:
    """Reorder channels that become pixels: (row, column, channel) to (channel, row, column)."""
    cells = rows.reshape(4, -1, *rows.shape[1:])
    return np.ascontiguousarray(cells.swapaxes(0, 1)).reshape(rows.shape)
