"""Lookup-free quantization: one bit per channel."""

import torch
from torch import Tensor

from tokcodec.config.parts import ModelShape
from tokcodec.config.quantizers import BinaryConfig
from tokcodec.model.quantizer import Quantizer, require_finite


class Binary(Quantizer):
    """A token has one bit per channel: 1 where z is positive, else 0. z_q is 1 or -1, or with
    ``unit_length`` that divided by √d."""

    def __init__(self, config: BinaryConfig, model_shape: ModelShape) -> None:
        super().__init__()
        self.channels = config.embedding_dim
        self.highest_first = config.first_bit == "highest"
        self.size = config.embedding_dim**-0.5 if config.unit_length else 1.0

    def tokens(self, z: Tensor) -> Tensor:
        require_finite(z)
        return ((z > 0).long() << self._places(z)).sum(dim=-1)

    def lookup(self, tokens: Tensor) -> Tensor:
        return ((tokens[..., None] >> self._places(tokens) & 1).float() * 2 - 1) * self.size

    def margins(self, z: Tensor) -> Tensor:
        """float64 [...]: the smallest distance of a channel from 0, where its sign changes."""
        return z.double().abs().amin(dim=-1)

    def _places(self, like: Tensor) -> Tensor:
        places = torch.arange(self.channels, device=like.device)
        return places.flip(0) if self.highest_first else places
