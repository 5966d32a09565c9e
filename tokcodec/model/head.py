"""Layers at the resolution of the tokens, as video tokenizers have them along time.

The first frame of a still image sees one tap of their kernels in time, or a sum of taps, so each is
a convolution in the plane (Emu3, arXiv 2409.18869).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokcodec.config.convolutional import ConvolutionalConfig


class _Head(nn.Module):
    def __init__(self, config: ConvolutionalConfig, channels: int, block_channels: int) -> None:
        super().__init__()
        before = (channels, *config.head_widths)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(b, w, 3, padding=1) for b, w in zip(before, config.head_widths, strict=False)
        )
        self.blocks = nn.Sequential(*(HeadBlock(block_channels) for _ in range(config.head_blocks)))

    def convolve(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = F.silu(convolution(x))
        return x


class EncoderHead(_Head):
    """The convolutions, then the blocks."""

    def __init__(self, config: ConvolutionalConfig, channels: int) -> None:
        super().__init__(config, channels, config.head_widths[-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.convolve(x))  # type: ignore[no-any-return]


class DecoderHead(_Head):
    """The blocks, then the convolutions."""

    def __init__(self, config: ConvolutionalConfig, channels: int) -> None:
        super().__init__(config, channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(self.blocks(x))


class HeadBlock(nn.Module):
    """A scale and a shift a channel, then two SiLUs and 3x3 convolutions, beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(width))
        self.shift = nn.Parameter(torch.empty(width))
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.scale[:, None, None] + self.shift[:, None, None]
        return x + self.conv2(F.silu(self.conv1(F.silu(y))))  # type: ignore[no-any-return]
