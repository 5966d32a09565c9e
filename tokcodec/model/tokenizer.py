"""The tokenizer: pixels -> z -> tokens -> z_q -> pixels, of parts of any kind."""

from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokcodec.config import ModelConfig
from tokcodec.config.parts import ModelShape, Part
from tokcodec.model.quantizer import Quantizer


def build(part: Part, model_shape: ModelShape) -> Any:
    """The network of a part's kind."""
    module, name = part.network.split(":")
    return getattr(import_module(module), name)(part, model_shape)


class Tokenizer(nn.Module):
    """An autoencoder with a quantized bottleneck: encoder, quantizer and decoder of a config."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        side = config.preprocessing.model_size
        token_shape = config.encoder.token_shape(side, side)
        model_shape = ModelShape(side, token_shape, config.quantizer.embedding_dim)
        self.encoder: nn.Module = build(config.encoder, model_shape)
        self.quantizer: Quantizer = build(config.quantizer, model_shape)
        self.decoder: nn.Module = build(config.decoder, model_shape)

    def encode(self, pixels: Tensor) -> Tensor:
        """What the encoder sees, float32 [B, 3, h, w] in [0, 1] -> tokens int64 [B,
        *token_shape]."""
        return self.quantizer.tokens(self.z(pixels))

    def z(self, pixels: Tensor) -> Tensor:
        """The same -> z [B, *token_shape, d], before quantization."""
        return self.encoder(self.normalize(pixels))  # type: ignore[no-any-return]

    def decode(self, tokens: Tensor) -> Tensor:
        """tokens int64 [B, *token_shape], or a prefix [B, n] -> float32 [B, 3, H, W] in [0, 1]."""
        pixels = self.decoder(self.quantizer.lookup(tokens)).float()
        return self.denormalize(pixels).clamp(0, 1)

    def shrink(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] -> what the encoder sees of it, [B, 3, h, w]: means."""
        scale = self.config.preprocessing.pixel_scale
        return F.avg_pool2d(pixels, scale) if scale > 1 else pixels

    def normalize(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] -> zero mean and unit deviation, by the config's figures."""
        mean, std = self._statistics(pixels)
        return (pixels - mean) / std

    def denormalize(self, pixels: Tensor) -> Tensor:
        """The inverse of ``normalize``."""
        mean, std = self._statistics(pixels)
        return pixels * std + mean

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config.preprocessing
        # Written where the pixels are, for a copy from the host would have the device wait.
        mean, std = (
            torch.cat([like.new_full((1, 1, 1), value) for value in values])
            for values in (config.mean, config.std)
        )
        return mean, std
