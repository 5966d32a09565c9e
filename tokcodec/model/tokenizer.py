"""The tokenizer: pixels -> z -> codes -> z_q -> pixels, of parts of any kind."""

from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokcodec.config import ModelConfig
from tokcodec.config.parts import Frame, Part
from tokcodec.model.quantizer import Quantizer


def build(part: Part, frame: Frame) -> Any:
    """The network of a part's kind."""
    module, name = part.network.split(":")
    return getattr(import_module(module), name)(part, frame)


class Tokenizer(nn.Module):
    """An autoencoder with a quantized bottleneck: encoder, quantizer and decoder of a config."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        side = config.preprocessing.model_size
        code_shape = config.encoder.code_shape(side, side)
        frame = Frame(side, code_shape, config.quantizer.code_dim)
        self.encoder: nn.Module = build(config.encoder, frame)
        self.quantizer: Quantizer = build(config.quantizer, frame)
        self.decoder: nn.Module = build(config.decoder, frame)

    def encode(self, pixels: Tensor) -> Tensor:
        """What the encoder sees, float32 [B, 3, h, w] in [0, 1] -> codes int64 [B, *code_shape]."""
        return self.quantizer.codes(self.z(pixels))

    def z(self, pixels: Tensor) -> Tensor:
        """The same -> z [B, *code_shape, d], before quantization."""
        return self.encoder(self.normalize(pixels))  # type: ignore[no-any-return]

    def decode(self, codes: Tensor) -> Tensor:
        """codes int64 [B, *code_shape], or a prefix [B, n] -> float32 [B, 3, H, W] in [0, 1]."""
        return self.enlarge(self.decoder(self.quantizer.lookup(codes)).float()).clamp(0, 1)

    def shrink(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] -> what the encoder sees of it, [B, 3, h, w]: means."""
        scale = self.config.preprocessing.pixel_scale
        return F.avg_pool2d(pixels, scale) if scale > 1 else pixels

    def enlarge(self, pixels: Tensor) -> Tensor:
        """What the decoder gives, [B, 3, h, w] -> [B, 3, H, W] in [0, 1], not yet clamped."""
        pixels = self.denormalize(pixels)
        scale = self.config.preprocessing.pixel_scale
        if scale > 1:
            pixels = F.interpolate(pixels, scale_factor=float(scale), mode="bicubic")
        return pixels

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
