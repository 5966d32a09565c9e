"""Layers at the resolution of the tokens, as video tokenizers have them along time.

For the first frame of a still image, a layer along time is a 3x3 convolution (Emu3, arXiv
2409.18869).
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokcodec.config.convolutional import ConvolutionalConfig


class Head(nn.Module):
    """Convolutions, each followed by a SiLU, and residual blocks: first, or last."""

    def __init__(self, config: ConvolutionalConfig, channels: int, blocks_first: bool) -> None:
        super().__init__()
        widths = (channels, *config.head_widths)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, width, 3, padding=1) for before, width in itertools.pairwise(widths)
        )
        block_width = channels if blocks_first else widths[-1]
        self.blocks = nn.Sequential(*(HeadBlock(block_width) for _ in range(config.head_blocks)))
        self.blocks_first = blocks_first

    def forward(self, x: Tensor) -> Tensor:
        if self.blocks_first:
            x = self.blocks(x)
        for convolution in self.convolutions:
            x = F.silu(convolution(x))
        return x if self.blocks_first else self.blocks(x)


class HeadBlock(nn.Module):
    """Scale and shift of each channel, two SiLUs and 3x3 convolutions, with a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(width))
        self.shift = nn.Parameter(torch.empty(width))
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.scale[:, None, None] + self.shift[:, None, None]
        return x + self.conv2(F.silu(self.conv1(F.silu(y))))  # type: ignore[no-any-return]
