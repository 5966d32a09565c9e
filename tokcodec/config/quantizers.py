"""The kinds of quantizers: a learned codebook, or a fixed one."""

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tokcodec.config.parts import QuantizerConfig, Width, require

_MOST = 2**32  # tokens, which have 32 bits at most


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
    """The signs of the channels, a bit each (lookup-free, arXiv 2310.05737, section 3.1).

    Attributes:
        embedding_dim: channels d; there are 2^d tokens.
        first_bit: whether the first channel is the ``lowest`` bit of a token (Open-MAGVIT2) or the
            ``highest`` (Show-o).
    """

    network: ClassVar[str] = "tokcodec.model.binary:Binary"

    kind: Literal["binary"] = "binary"
    embedding_dim: Annotated[int, Field(ge=1, le=32)]
    first_bit: Literal["lowest", "highest"] = "lowest"

    @property
    def codebook_size(self) -> int:
        return int(2**self.embedding_dim)


class FiniteScalarConfig(QuantizerConfig):
    """Each channel rounded to one of a few levels (FSQ, arXiv 2309.15505, section 3).

    Attributes:
        levels: how many levels a channel has; the first channel is the lowest digit of a token.
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
