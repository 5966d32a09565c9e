"""Haar transforms: pixels to patches of four times the channels, and back.

Scaled so that values keep their range, as Cosmos has it (arXiv 2501.03575, section 3).
"""

import torch
from torch import Tensor


def split(x: Tensor, steps: int) -> Tensor:
    """[B, C, H, W] -> [B, C·4^steps, H / 2^steps, W / 2^steps].

    The bands of a step, each of all channels: low and low, low along the width and high along the
    height, high and low, high and high.
    """
    for _ in range(steps):
        a, b = x[..., 0::2], x[..., 1::2]
        bands = []
        for band in (a + b, a - b):
            above, below = band[:, :, 0::2], band[:, :, 1::2]
            bands += [above + below, above - below]
        x = torch.cat(bands, dim=1) / 4
    return x


def join(x: Tensor, steps: int) -> Tensor:
    """The inverse of ``split``."""
    for _ in range(steps):
        bands = x.chunk(4, dim=1)
        a, b = (
            torch.stack((low + high, low - high), dim=3).flatten(2, 3)
            for low, high in (bands[:2], bands[2:])
        )
        x = torch.stack((a + b, a - b), dim=4).flatten(3, 4)
    return x
