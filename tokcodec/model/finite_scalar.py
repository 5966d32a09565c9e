"""Finite scalar quantization: each channel rounded to one of a few levels."""

import torch
from torch import Tensor

from tokcodec.config.parts import ModelShape
from tokcodec.config.quantizers import FiniteScalarConfig
from tokcodec.model.quantizer import Quantizer, require_finite

_EPSILON = 1e-3  # keeps the outermost levels inside the range of tanh


class FiniteScalar(Quantizer):
    """Finite scalar quantization (arXiv 2309.15505, section 3.1 and appendix A.1).

    A tanh bounds each channel of L levels to -L/2..L/2, and the result is rounded to a digit. The
    token is the number with these digits; the first channel is the lowest digit.
    """

    def __init__(self, config: FiniteScalarConfig, model_shape: ModelShape) -> None:
        super().__init__()
        self.levels = config.levels

    def tokens(self, z: Tensor) -> Tensor:
        require_finite(z)
        digits = self._bounded(z).round().long() + self._levels(z) // 2
        return (digits * self._basis(z)).sum(dim=-1)

    def lookup(self, tokens: Tensor) -> Tensor:
        half = self._levels(tokens) // 2
        digits = tokens[..., None] // self._basis(tokens) % self._levels(tokens)
        return (digits - half).float() / half

    def margins(self, z: Tensor) -> Tensor:
        """float64 [...]: twice the smallest distance of a bounded channel from the border between
        two levels."""
        bounded = self._bounded(z.double())
        return (1 - 2 * (bounded - bounded.round()).abs()).amin(dim=-1)

    def _bounded(self, z: Tensor) -> Tensor:
        levels = self._levels(z)
        half = (levels - 1) * (1 + _EPSILON) / 2
        offset = (1 - levels % 2) / 2  # an even number of levels is shifted down by half a step
        return (z + (offset / half).atanh()).tanh() * half - offset

    def _levels(self, like: Tensor) -> Tensor:
        return torch.tensor(self.levels).to(like.device, non_blocking=True)

    def _basis(self, like: Tensor) -> Tensor:
        levels = self._levels(like)
        return levels.cumprod(0) // levels
