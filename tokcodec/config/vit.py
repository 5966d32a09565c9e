"""The kinds whose network is a vision transformer: a token a patch, or latent tokens (TiTok)."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tokcodec.config.convolutional import NORM_GROUPS, ConvolutionalDecoderConfig
from tokcodec.config.parts import (
    Blocks,
    Channels,
    Config,
    DecoderConfig,
    EncoderConfig,
    Multipliers,
    Width,
    require,
)

_PATCH = 256  # the largest side of a patch, in pixels
_GRID = 256  # the most patches along a side


class VitConfig(Config):
    """A stack of pre-norm ViT blocks, and patches of pixels.

    Attributes:
        width: channels of the residual stream.
        layers: number of blocks.
        heads: attention heads; divides ``width``.
        patch_size: side P of a patch in pixels, as the model sees them.
        mlp_ratio: hidden width of the MLP over ``width``.
        class_token: a learned token before all others, as in TiTok's code.
        outer_norms: LayerNorms before the first block and after the last.
    """

    width: Width
    layers: Annotated[int, Field(ge=1, le=256)]
    heads: Annotated[int, Field(ge=1, le=1024)]
    patch_size: Annotated[int, Field(ge=1, le=_PATCH)]
    mlp_ratio: Annotated[float, Field(ge=1 / 64, le=64)] = 4.0
    class_token: bool = False
    outer_norms: bool = False

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        require(self.width % self.heads == 0, "heads must divide width")
        return self

    def grid(self, side: int) -> int:
        """The number of patches along a side of ``side`` pixels.

        Raises:
            ValueError: ``side`` is not a multiple of ``patch_size``, or there are too many.
        """
        require(side % self.patch_size == 0, f"patch_size must divide the {side} pixels of a side")
        grid = side // self.patch_size
        require(grid <= _GRID, f"{grid} patches along a side; the limit is {_GRID}")
        return grid

    def peak_activation(self, side: int) -> int:
        return self.grid(side) ** 2 * round(self.width * self.mlp_ratio)


class PatchEncoderConfig(VitConfig, EncoderConfig):
    """A token per patch, of images of any size.

    Attributes:
        positions: rows and columns of the table of position embeddings, which is interpolated to
            the grid of patches of an image.
    """

    network: ClassVar[str] = "tokcodec.model.vit:PatchEncoder"

    kind: Literal["patch"] = "patch"
    positions: Annotated[int, Field(ge=1, le=64)] = 16

    @property
    def multiple(self) -> int:
        return self.patch_size

    def check(self, side: int) -> None:
        self.grid(side)

    def z_shape(self, height: int, width: int) -> tuple[int, ...]:
        return height // self.patch_size, width // self.patch_size


class LatentEncoderConfig(VitConfig, EncoderConfig):
    """A token for each learned latent token (TiTok, arXiv 2406.07550, section 3.2).

    Attributes:
        num_latents: number N of latent tokens.
        legacy_latents: the outputs, [N, width], are reshaped to [width, N] where they should be
            transposed, as in TiTok's first checkpoints (``is_legacy`` in its code).
    """

    network: ClassVar[str] = "tokcodec.model.vit:LatentEncoder"

    kind: Literal["latent"] = "latent"
    num_latents: Annotated[int, Field(ge=1, le=_GRID**2)]
    legacy_latents: bool = False

    def check(self, side: int) -> None:
        self.grid(side)

    def z_shape(self, height: int, width: int) -> tuple[int, ...]:  # noqa: ARG002
        return (self.num_latents,)

    def peak_activation(self, side: int) -> int:
        return (self.grid(side) ** 2 + self.num_latents) * round(self.width * self.mlp_ratio)


class PatchHeadConfig(VitConfig):
    """A transformer with a linear map from each token to a patch of pixels.

    Attributes:
        pixel_overlap: pixels by which a patch extends beyond each of its borders, where it is
            added to its neighbours to hide the borders.
        pixel_convolution: whether a 3x3 convolution smooths the pixels.
    """

    pixel_overlap: Annotated[int, Field(ge=0, le=_PATCH)] = 0
    pixel_convolution: bool = False

    @model_validator(mode="after")
    def _check_overlap(self) -> Self:
        require(self.pixel_overlap <= self.patch_size, "pixel_overlap must be from 0 to patch_size")
        return self


class PatchDecoderConfig(PatchHeadConfig, DecoderConfig):
    """From a token per patch, of images of any size.

    Attributes:
        positions: as for ``PatchEncoderConfig``.
    """

    network: ClassVar[str] = "tokcodec.model.vit:PatchDecoder"

    kind: Literal["patch"] = "patch"
    positions: Annotated[int, Field(ge=1, le=64)] = 16

    @property
    def multiple(self) -> int:
        return self.patch_size

    def check(self, side: int, z_shape: tuple[int, ...]) -> None:
        require(
            z_shape == (self.grid(side),) * 2,
            f"patches of {self.patch_size} pixels are not the encoder's",
        )


class FromLatentsConfig(VitConfig, DecoderConfig):
    """A decoder of latent tokens, with mask tokens that become the patches (TiTok, section 3.2).

    Attributes:
        prefix_tokens: the model was trained so that any prefix of the tokens decodes (One-D-Piece,
            arXiv 2501.10064, section 3).
    """

    prefix_tokens: bool = False

    @property
    def prefixes(self) -> bool:
        return self.prefix_tokens

    def check(self, side: int, z_shape: tuple[int, ...]) -> None:
        self.grid(side)
        require(len(z_shape) == 1, f"a {self.kind} decoder needs a latent encoder")


class LatentDecoderConfig(PatchHeadConfig, FromLatentsConfig):
    """From latent tokens to patches of pixels."""

    network: ClassVar[str] = "tokcodec.model.vit:LatentDecoder"

    kind: Literal["latent"] = "latent"


class VqganConfig(Config):
    """The convolutional pixel decoder of MaskGIT-VQGAN (arXiv 2202.04200).

    Attributes:
        proxy_codebook_size: number of vectors of its codebook.
        embedding_dim: channels of a vector of its codebook.
        channels: channels at full resolution, a multiple of 32.
        multipliers: factors of ``channels``, one per level, the full resolution first.
        blocks: residual blocks per level.
    """

    proxy_codebook_size: Annotated[int, Field(ge=1, le=1 << 20)] = 1024
    embedding_dim: Width = 256
    channels: Channels = 128
    multipliers: Multipliers = (1, 1, 2, 2, 4)
    blocks: Blocks = 2

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        require(self.channels % NORM_GROUPS == 0, f"channels must be a multiple of {NORM_GROUPS}")
        return self

    def convolutional(self) -> ConvolutionalDecoderConfig:
        """The same network as a convolutional decoder."""
        return ConvolutionalDecoderConfig(
            channels=self.channels,
            multipliers=self.multipliers,
            blocks=self.blocks,
            middle_blocks=self.blocks,
            bias=False,
            shortcut="output",
        )


class ProxyDecoderConfig(FromLatentsConfig):
    """From latent tokens to proxies, which are a softmax over the tokens of a MaskGIT-VQGAN, and
    to pixels by its decoder, as in TiTok's first checkpoints (section 3.4).

    Attributes:
        vqgan: the convolutional decoder.
    """

    network: ClassVar[str] = "tokcodec.model.proxy:ProxyDecoder"

    kind: Literal["proxy"] = "proxy"
    vqgan: VqganConfig

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        require(
            2 ** (len(self.vqgan.multipliers) - 1) == self.patch_size,
            "the levels of vqgan must enlarge by the decoder's patch_size",
        )
        return self

    def peak_activation(self, side: int) -> int:
        return max(super().peak_activation(side), side**2 * self.vqgan.channels)
