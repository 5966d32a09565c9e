"""The convolutional kind: levels of residual blocks, as in VQGAN and its successors.

One encoder and one decoder serve all of them; the fields are what differs.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tokcodec.config.parts import (
    LEVELS,
    Blocks,
    Channels,
    Config,
    DecoderConfig,
    EncoderConfig,
    Multipliers,
    Width,
    require,
)

NORM_GROUPS = 32  # in every group norm
Level = Annotated[int, Field(ge=0, lt=LEVELS)]


class ConvolutionalConfig(Config):
    """What encoder and decoder share.

    Attributes:
        channels: channels at full resolution.
        multipliers: factors of ``channels``, one per level, the full resolution first.
        kept_levels: number of levels that keep the resolution: the last ones that run in the
            encoder, and in the decoder. The others halve or double it.
        blocks: residual blocks per level: one number, or one for each level, the full resolution
            first.
        attention: the levels, from 0, with an attention after every block.
        middle_blocks: residual blocks at the lowest resolution.
        middle_attention: whether an attention follows the first of them.
        bias: whether the convolutions of residual blocks, and the encoder's first one, have biases.
        shortcut: the input of the 1x1 convolution in the shortcut of a block that changes the
            width: the ``input`` of the block, or, as in MaskGIT's published weights, the
            ``output`` of its second convolution.
        embedding_channels: channels between the network and a further convolution at the
            quantizer; 0 if there is none.
        embedding_kernel: side of that convolution, 1 or 3.
        haar_steps: number of Haar transforms between pixels and convolutions; each halves the
            resolution and makes four channels of one (Cosmos, arXiv 2501.03575, section 3).
        head_widths: output channels of each 3x3 convolution of the head, which are layers at the
            resolution of the tokens, as video tokenizers have them along time (Emu3, arXiv
            2409.18869).
        head_blocks: residual blocks of the head, after its convolutions in the encoder, before
            them in the decoder.
    """

    channels: Channels
    multipliers: Multipliers
    kept_levels: Annotated[int, Field(ge=0, le=LEVELS)] = 1
    blocks: Blocks | Annotated[tuple[Blocks, ...], Field(max_length=LEVELS)]
    attention: Annotated[tuple[Level, ...], Field(max_length=LEVELS)] = ()
    middle_blocks: Annotated[int, Field(ge=0, le=32)] = 2
    middle_attention: bool = False
    bias: bool = True
    shortcut: Literal["input", "output"] = "input"
    embedding_channels: Annotated[int, Field(ge=0, le=1 << 14)] = 0
    embedding_kernel: Literal[1, 3] = 1
    haar_steps: Annotated[int, Field(ge=0, le=4)] = 0
    head_widths: Annotated[tuple[Width, ...], Field(max_length=LEVELS)] = ()
    head_blocks: Annotated[int, Field(ge=0, le=32)] = 0

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        require(
            all(width % NORM_GROUPS == 0 for width in self.widths),
            f"channels times multipliers must be multiples of {NORM_GROUPS}",
        )
        require(
            all(level < len(self.multipliers) for level in self.attention),
            f"attention must name levels from 0 to {len(self.multipliers) - 1}",
        )
        require(
            self.middle_blocks > 0 or not self.middle_attention,
            "middle_attention needs middle_blocks",
        )
        levels = len(self.multipliers)
        require(
            isinstance(self.blocks, int) or len(self.blocks) == levels,
            f"blocks must be a number, or one of each of the {levels} levels",
        )
        require(self.kept_levels <= levels, f"kept_levels must be at most the {levels} levels")
        require(
            not self.head_widths or self.head_widths[-1] == self.embedding_channels > 0,
            "the last of head_widths must be embedding_channels",
        )
        require(bool(self.head_widths) or not self.head_blocks, "head_blocks need head_widths")
        return self

    def peak_activation(self, side: int) -> int:
        return (side >> self.haar_steps) ** 2 * self.channels

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every level, the full resolution first."""
        return tuple(self.channels * multiplier for multiplier in self.multipliers)

    @property
    def level_blocks(self) -> tuple[int, ...]:
        """Residual blocks of every level, the full resolution first."""
        if isinstance(self.blocks, int):
            return (self.blocks,) * len(self.multipliers)
        return self.blocks

    @property
    def resized_levels(self) -> int:
        """Number of levels that halve or double the resolution."""
        return len(self.multipliers) - self.kept_levels

    @property
    def multiple(self) -> int:
        """Side of a token in pixels."""
        return int(2 ** (self.resized_levels + self.haar_steps))


class ConvolutionalEncoderConfig(ConvolutionalConfig, EncoderConfig):
    """A token for each square of ``multiple`` by ``multiple`` pixels, of images of any size.

    Attributes:
        halving: how a level halves the resolution: ``behind``, a 3x3 convolution of stride 2 with
            zeros padded below and on the right; ``around``, the same with zeros on all sides;
            ``average``, means of two by two.
        last_kernel: side of the last convolution, 3 or 1.
    """

    network: ClassVar[str] = "tokcodec.model.convolutional:Encoder"

    kind: Literal["convolutional"] = "convolutional"
    halving: Literal["behind", "around", "average"] = "behind"
    last_kernel: Literal[3, 1] = 3

    def check(self, side: int) -> None:
        require(side % self.multiple == 0, f"the levels must divide the {side} pixels of a side")

    def z_shape(self, height: int, width: int) -> tuple[int, ...]:
        return height // self.multiple, width // self.multiple


class ConvolutionalDecoderConfig(ConvolutionalConfig, DecoderConfig):
    """Images of any size from rows and columns of tokens.

    Attributes:
        doubling: how a level doubles the resolution: ``nearest``, each pixel repeated, then a 3x3
            convolution; ``depth``, a 3x3 convolution to four times the channels, which become
            pixels.
        adaptive_norm: each level begins with a group norm whose scale and shift depend on the
            deviation and mean of z_q over the image (Open-MAGVIT2, arXiv 2409.04410, section 3).
        norm: the kind of all other norms: ``group``, or ``spatial``, whose scale and shift at each
            position depend on z_q there (MoVQ, arXiv 2209.09002, section 3.2).
    """

    network: ClassVar[str] = "tokcodec.model.convolutional:Decoder"

    kind: Literal["convolutional"] = "convolutional"
    doubling: Literal["nearest", "depth"] = "nearest"
    adaptive_norm: bool = False
    norm: Literal["group", "spatial"] = "group"

    def check(self, side: int, z_shape: tuple[int, ...]) -> None:
        cells = side // self.multiple
        require(
            z_shape == (cells, cells) and cells * self.multiple == side,
            "the levels of the decoder must enlarge by what the encoder has reduced",
        )
