"""The tokenizer: pixels -> z -> tokens -> z_q -> pixels, with parts of any kind."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokcodec.config import ModelConfig
from tokcodec.config.parts import ModelShape
from tokcodec.model.parts import build
from tokcodec.model.quantizer import Quantizer


class Tokenizer(nn.Module):
    """An autoencoder with a quantized bottleneck: encoder, quantizer and decoder of a config."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        side = config.preprocessing.model_size
        z_shape = config.encoder.z_shape(side, side)
        model_shape = ModelShape(side, z_shape, config.quantizer.embedding_dim)
        self.encoder: nn.Module = build(config.encoder, model_shape)
        self.quantizer: Quantizer = build(config.quantizer, model_shape)
        self.decoder: nn.Module = build(config.decoder, model_shape)

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels as the encoder sees them, float32 [B, 3, h, w] in [0, 1] -> tokens int64
        [B, *token_shape]."""
        return self.quantizer.tokens(self.z(pixels))

    def z(self, pixels: Tensor) -> Tensor:
        """Pixels as for ``encode`` -> z [B, *z_shape, d], before quantization."""
        return self.encoder(self.normalize(pixels))  # type: ignore[no-any-return]

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens int64 [B, *token_shape], or a prefix [B, n] -> float32 [B, 3, H, W] in [0, 1]."""
        pixels = self.decoder(self.quantizer.lookup(tokens)).float()
        return self.denormalize(pixels).clamp(0, 1)

    def shrink(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] -> their means, as the encoder sees them, [B, 3, h, w]."""
        scale = self.config.preprocessing.pixel_scale
        return F.avg_pool2d(pixels, scale) if scale > 1 else pixels

    def normalize(self, pixels: Tensor) -> Tensor:
        """Normalize pixels in [0, 1] by the mean and the standard deviation in the config."""
        mean, std = self._statistics(pixels)
        return (pixels - mean) / std

    def denormalize(self, pixels: Tensor) -> Tensor:
        """The inverse of ``normalize``."""
        mean, std = self._statistics(pixels)
        return pixels * std + mean

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config.preprocessing
        # Created on the device of the pixels: a copy from the host would make the device wait.
        mean, std = (
            torch.cat([like.new_full((1, 1, 1), value) for value in values])
            for values in (config.mean, config.std)
        )
        return mean, std
