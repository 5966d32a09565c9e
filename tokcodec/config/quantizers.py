"""The kinds of quantizers: a learned codebook, or one that is there without learning."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from tokcodec.config.parts import QuantizerConfig, require


@dataclass(frozen=True, kw_only=True)
class CodebookConfig(QuantizerConfig):
    """The nearest of K learned vectors (VQ-VAE, arXiv 1711.00937, section 3.1).

    Attributes:
        codebook_size: number of vectors K.
        code_dim: channels d of a vector.
        metric: ``euclidean`` distance; ``cosine`` distance, which also decodes from unit vectors;
            or the largest ``dot`` product (IBQ, arXiv 2412.02692, section 3.2).
    """

    kind: ClassVar[str] = "codebook"
    network: ClassVar[str] = "tokcodec.model.codebook:Codebook"

    codebook_size: int
    code_dim: int
    metric: Literal["euclidean", "cosine", "dot"] = "euclidean"

    def __post_init__(self) -> None:
        require(2 <= self.codebook_size <= 2**32, "codebook_size must be from 2 to 2**32")
        require(self.code_dim > 0, "code_dim must be positive")


@dataclass(frozen=True, kw_only=True)
class BinaryConfig(QuantizerConfig):
    """The signs of the channels, a bit each (lookup-free, arXiv 2310.05737, section 3.1).

    Attributes:
        code_dim: channels d; there are 2^d codes.
        first_bit: whether the first channel is the ``lowest`` bit of a code (Open-MAGVIT2) or the
            ``highest`` (Show-o).
    """

    kind: ClassVar[str] = "binary"
    network: ClassVar[str] = "tokcodec.model.binary:Binary"

    code_dim: int
    first_bit: Literal["lowest", "highest"] = "lowest"

    def __post_init__(self) -> None:
        require(1 <= self.code_dim <= 32, "code_dim must be from 1 to 32")

    @property
    def codebook_size(self) -> int:
        return int(2**self.code_dim)


@dataclass(frozen=True, kw_only=True)
class FiniteScalarConfig(QuantizerConfig):
    """Each channel rounded to one of a few levels (FSQ, arXiv 2309.15505, section 3).

    Attributes:
        levels: how many levels a channel has; the first channel is the lowest digit of a code.
    """

    kind: ClassVar[str] = "finite_scalar"
    network: ClassVar[str] = "tokcodec.model.finite_scalar:FiniteScalar"

    levels: tuple[int, ...]

    def __post_init__(self) -> None:
        require(
            bool(self.levels) and min(self.levels) >= 2 and self.codebook_size <= 2**32,
            "levels must be 2 or more each, and their product at most 2**32",
        )

    @property
    def code_dim(self) -> int:
        return len(self.levels)

    @property
    def codebook_size(self) -> int:
        return math.prod(self.levels)
