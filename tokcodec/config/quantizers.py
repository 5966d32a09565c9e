"""The kinds of quantizers: a learned codebook, fixed ones, and several stages of these."""

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tokcodec.config.geometry import MAX_TILE_TOKENS
from tokcodec.config.parts import QuantizerConfig, Width, require

_MOST = 2**32  # the largest codebook, because tokens have up to 32 bits


class CodebookConfig(QuantizerConfig):
    """The nearest of K learned vectors (VQ-VAE, arXiv 1711.00937, section 3.1).

    Attributes:
        codebook_size: number of vectors K.
        embedding_dim: channels d of a vector.
        metric: ``euclidean`` distance; ``cosine`` distance, which also decodes from unit vectors;
            or the largest ``dot`` product (IBQ, arXiv 2412.02692, section 3.2).
    """

    network: ClassVar[str] = "tokcodec.model.codebook:Codebook"

    kind: Literal["codebook"] = "codebook"
    codebook_size: Annotated[int, Field(ge=2, le=_MOST)]
    embedding_dim: Width
    metric: Literal["euclidean", "cosine", "dot"] = "euclidean"


class BinaryConfig(QuantizerConfig):
    """The sign of each channel is a bit (lookup-free, arXiv 2310.05737, section 3.1).

    Attributes:
        embedding_dim: channels d; there are 2^d tokens.
        first_bit: whether the first channel is the ``lowest`` bit of a token (Open-MAGVIT2) or the
            ``highest`` (Show-o).
        unit_length: whether z_q has length 1 (BSQ, arXiv 2406.07548); else channels are 1 or -1.
    """

    network: ClassVar[str] = "tokcodec.model.binary:Binary"

    kind: Literal["binary"] = "binary"
    embedding_dim: Annotated[int, Field(ge=1, le=32)]
    first_bit: Literal["lowest", "highest"] = "lowest"
    unit_length: bool = False

    @property
    def codebook_size(self) -> int:
        return int(2**self.embedding_dim)


class FiniteScalarConfig(QuantizerConfig):
    """Each channel rounded to one of a few levels (FSQ, arXiv 2309.15505, section 3).

    Attributes:
        levels: number of levels of each channel; the first one is the lowest digit of a token.
    """

    network: ClassVar[str] = "tokcodec.model.finite_scalar:FiniteScalar"

    kind: Literal["finite_scalar"] = "finite_scalar"
    levels: Annotated[
        tuple[Annotated[int, Field(ge=2, le=_MOST)], ...], Field(min_length=1, max_length=32)
    ]

    @model_validator(mode="after")
    def _check_product(self) -> Self:
        require(self.codebook_size <= _MOST, "the product of levels must be at most 2**32")
        return self

    @property
    def embedding_dim(self) -> int:
        return len(self.levels)

    @property
    def codebook_size(self) -> int:
        return math.prod(self.levels)


class ResidualConfig(QuantizerConfig):
    """Several scales, each of which quantizes the residual of those before it (RQ-VAE, arXiv
    2203.01941, section 3.1; with scales of several sizes, VAR, arXiv 2404.02905, section 3.2).

    The tokens of the first scale come first, so those of the first scales decode to a coarser
    image.

    Attributes:
        stage: the quantizer of every scale.
        scales: number of rows, and of columns, of each scale; the last is that of z.
        enlarging: how the looked-up vectors of a scale are interpolated to the size of z.
        filters: for each scale, the index of the 3x3 convolution that is then applied to its
            vectors; empty if there are none.
    """

    network: ClassVar[str] = "tokcodec.model.residual:Residual"
    any_grid: ClassVar[bool] = False

    kind: Literal["residual"] = "residual"
    stage: Annotated[
        CodebookConfig | BinaryConfig | FiniteScalarConfig, Field(discriminator="kind")
    ]
    scales: Annotated[
        tuple[Annotated[int, Field(ge=1, le=128)], ...], Field(min_length=1, max_length=64)
    ]
    enlarging: Literal["bicubic", "bilinear"] = "bicubic"
    filters: tuple[Annotated[int, Field(ge=0, lt=64)], ...] = ()

    @model_validator(mode="after")
    def _check_scales(self) -> Self:
        require(
            sum(side**2 for side in self.scales) <= MAX_TILE_TOKENS,
            f"scales must have at most {MAX_TILE_TOKENS:,} tokens together",
        )
        require(
            not self.filters or len(self.filters) == len(self.scales),
            f"filters must be one for each of the {len(self.scales)} scales",
        )
        return self

    @property
    def embedding_dim(self) -> int:
        return self.stage.embedding_dim

    @property
    def codebook_size(self) -> int:
        return self.stage.codebook_size

    def check(self, z_shape: tuple[int, ...]) -> None:
        require(z_shape == self.scales[-1:] * 2, "the last of scales must be the rows of z")

    def token_shape(self, z_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.token_counts(z_shape)[-1],)

    def token_counts(self, z_shape: tuple[int, ...]) -> Sequence[int]:  # noqa: ARG002
        return tuple(itertools.accumulate(side**2 for side in self.scales))
