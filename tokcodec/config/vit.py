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
_GRID = 256  # patches along a side, the most


class VitConfig(Config):
    """A stack of pre-norm ViT blocks and the patches at its image end.

    Attributes:
        width: channels of the residual stream.
        layers: number of blocks.
        heads: attention heads; divides ``width``.
        patch_size: side P of a patch, in pixels of the image that the model sees.
        mlp_ratio: hidden width of the MLP over ``width``.
        class_token: a further learned token before all others, as in TiTok's code.
        outer_norms: LayerNorms before the first block and behind the last.
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
        """Patches along one side of a square of ``side`` pixels.

        Raises:
            ValueError: they do not fill it.
        """
        require(side % self.patch_size == 0, f"patch_size must divide the {side} pixels seen")
        grid = side // self.patch_size
        require(grid <= _GRID, f"{grid} patches along a side, where there are {_GRID} at most")
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
    """A token for each of its learned latent tokens (TiTok, arXiv 2406.07550, section 3.2).

    Attributes:
        num_latents: how many there are.
        legacy_latents: the latents, [N, width], are read as [width, N] without transposing them,
            as TiTok's first checkpoints were trained to (``is_legacy`` in its code).
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
    """A transformer whose tokens become pixels by a linear map, a patch a token.

    Attributes:
        pixel_overlap: pixels by which a patch reaches over each of its borders, where it is added
            to its neighbours; so borders need not show.
        pixel_convolution: a 3x3 convolution smooths the pixels.
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
            f"patches of {self.patch_size} pixels are not those of the encoder",
        )


class LatentDecoderConfig(PatchHeadConfig, DecoderConfig):
    """From latent tokens, by mask tokens that become the patches (TiTok, section 3.2).

    Attributes:
        prefix_tokens: trained so that any prefix of the tokens decodes (One-D-Piece, arXiv
            2501.10064, section 3).
    """

    network: ClassVar[str] = "tokcodec.model.vit:LatentDecoder"

    kind: Literal["latent"] = "latent"
    prefix_tokens: bool = False

    @property
    def prefixes(self) -> bool:
        return self.prefix_tokens

    def check(self, side: int, z_shape: tuple[int, ...]) -> None:
        self.grid(side)
        require(len(z_shape) == 1, "a latent decoder needs a latent encoder")


class VqganConfig(Config):
    """The convolutional pixel decoder of MaskGIT-VQGAN (arXiv 2202.04200).

    Attributes:
        proxy_codebook_size: size of its codebook.
        embedding_dim: channels of a vector of its codebook.
        channels: channels at full resolution; multiples of 32.
        multipliers: of ``channels``, a level each, the full resolution first; a level halves it.
        blocks: residual blocks a level.
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


class ProxyDecoderConfig(VitConfig, DecoderConfig):
    """From latent tokens to a softmax over the tokens of a MaskGIT-VQGAN, their proxies, whose
    decoder gives the pixels, as in TiTok's first checkpoints (section 3.4).

    Attributes:
        vqgan: the convolutional decoder.
        prefix_tokens: as for ``LatentDecoderConfig``.
    """

    network: ClassVar[str] = "tokcodec.model.proxy:ProxyDecoder"

    kind: Literal["proxy"] = "proxy"
    vqgan: VqganConfig
    prefix_tokens: bool = False

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        require(
            2 ** (len(self.vqgan.multipliers) - 1) == self.patch_size,
            "the levels of vqgan must enlarge by the decoder's patch_size",
        )
        return self

    @property
    def prefixes(self) -> bool:
        return self.prefix_tokens

    def check(self, side: int, z_shape: tuple[int, ...]) -> None:
        self.grid(side)
        require(len(z_shape) == 1, "a proxy decoder needs a latent encoder")

    def peak_activation(self, side: int) -> int:
        return max(super().peak_activation(side), side**2 * self.vqgan.channels)
