"""The kinds of quantizers: a learned codebook, or one that is there without learning."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from tokcodec.config.parts import Bounds, QuantizerConfig, Width, require

_MOST = 2**32  # tokens, which have 32 bits at most


@dataclass(frozen=True, kw_only=True)
class CodebookConfig(QuantizerConfig):
    """The nearest of K learned vectors (VQ-VAE, arXiv 1711.00937, section 3.1).

    Attributes:
        codebook_size: number of vectors K.
        embedding_dim: channels d of a vector.
        metric: ``euclidean`` distance; ``cosine`` distance, which also decodes from unit vectors;
            or the largest ``dot`` product (IBQ, arXiv 2412.02692, section 3.2).
    """

    kind: ClassVar[str] = "codebook"
    network: ClassVar[str] = "tokcodec.model.codebook:Codebook"

    codebook_size: Annotated[int, Bounds(2, _MOST)]
    embedding_dim: Width
    metric: Literal["euclidean", "cosine", "dot"] = "euclidean"


@dataclass(frozen=True, kw_only=True)
class BinaryConfig(QuantizerConfig):
    """The signs of the channels, a bit each (lookup-free, arXiv 2310.05737, section 3.1).

    Attributes:
        embedding_dim: channels d; there are 2^d tokens.
        first_bit: whether the first channel is the ``lowest`` bit of a token (Open-MAGVIT2) or the
            ``highest`` (Show-o).
    """

    kind: ClassVar[str] = "binary"
    network: ClassVar[str] = "tokcodec.model.binary:Binary"

    embedding_dim: Annotated[int, Bounds(1, 32)]
    first_bit: Literal["lowest", "highest"] = "lowest"

    @property
    def codebook_size(self) -> int:
        return int(2**self.embedding_dim)


@dataclass(frozen=True, kw_only=True)
class FiniteScalarConfig(QuantizerConfig):
    """Each channel rounded to one of a few levels (FSQ, arXiv 2309.15505, section 3).

    Attributes:
        levels: how many levels a channel has; the first channel is the lowest digit of a token.
    """

    kind: ClassVar[str] = "finite_scalar"
    network: ClassVar[str] = "tokcodec.model.finite_scalar:FiniteScalar"

    levels: Annotated[tuple[int, ...], Bounds(2, _MOST, items=32)]

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            bool(self.levels) and self.codebook_size <= _MOST,
            "there must be levels, and their product at most 2**32",
        )

    @property
    def embedding_dim(self) -> int:
        return len(self.levels)

    @property
    def codebook_size(self) -> int:
        return math.prod(self.levels)
