"""The convolutional pixel decoder of MaskGIT-VQGAN, behind a softmax over its codes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokcodec.config import VqganConfig
from tokcodec.model import winograd

_GROUPS, _EPSILON = 32, 1e-6
_WINOGRAD_FROM = 32  # pixels a side: below, transforming the filters costs what it saves


class Convolution(nn.Conv2d):
    """3x3, on a CPU by Winograd's way where the picture is large enough for it to pay."""

    def __init__(self, before: int, width: int, bias: bool = True) -> None:
        super().__init__(before, width, 3, padding=1, bias=bias)

    def forward(self, x: Tensor, doubled: bool = False) -> Tensor:
        """[B, C, H, W] -> [B, K, H, W]; with ``doubled``, of x at twice its size."""
        height, width = (side * (2 if doubled else 1) for side in x.shape[2:])
        one = len(x) == 1 and x.device.type == "cpu" and not torch.is_grad_enabled()
        if one and min(height, width) >= _WINOGRAD_FROM and not (height % 4 or width % 4):
            return winograd.convolve(x, self.weight, self.bias, doubled)
        if doubled:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return super().forward(x)


class VqganHead(nn.Module):
    """Tokens [B, g², width] -> pixels [B, 3, g·2^(levels - 1), ...] (TiTok, section 3.4).

    An MLP turns each token into logits over the proxy codes; the mean of the proxy codebook under
    their softmax is what the VQGAN's decoder (MaskGIT, arXiv 2202.04200, section 3.1) sees.
    """

    def __init__(self, width: int, config: VqganConfig) -> None:
        super().__init__()
        self.to_proxy = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.Tanh(),
            nn.Linear(2 * width, config.proxy_codes),
        )
        self.register_buffer("proxy_codebook", torch.empty(config.proxy_codes, config.code_dim))
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        widest = widths[-1]
        self.enter = Convolution(config.code_dim, widest)
        self.middle = nn.Sequential(*(ResidualBlock(widest, widest) for _ in range(config.blocks)))
        levels = []
        before = widest
        for level in reversed(range(len(widths))):
            levels.append(Level(before, widths[level], config.blocks, enlarge=level > 0))
            before = widths[level]
        self.levels = nn.Sequential(*levels)
        self.norm = nn.GroupNorm(_GROUPS, before, _EPSILON)
        self.leave = nn.Conv2d(before, 3, 3, padding=1)

    proxy_codebook: Tensor

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        grid = round(tokens**0.5)
        x = self.to_proxy(x).softmax(dim=-1) @ self.proxy_codebook  # [B, g², code_dim]
        x = x.view(batch, grid, grid, -1).permute(0, 3, 1, 2)  # channels stay last in memory
        if x.device.type != "cpu":
            return self._pixels(x)
        # One at a time: the activations of more would leave the processor's caches. Rows equal to
        # the first only fill a batch up, and their pixels are known.
        first = self._pixels(x[:1])
        others = (first if torch.equal(row, x[0]) else self._pixels(row[None]) for row in x[1:])
        return torch.cat([first, *others])

    def _pixels(self, x: Tensor) -> Tensor:
        x = self.levels(self.middle(self.enter(x)))
        return self.leave(F.silu(self.norm(x), inplace=True))  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """Two norms, SiLUs and 3x3 convolutions beside a shortcut."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_GROUPS, before, _EPSILON)
        self.conv1 = Convolution(before, width, bias=False)
        self.norm2 = nn.GroupNorm(_GROUPS, width, _EPSILON)
        self.conv2 = Convolution(width, width, bias=False)
        self.shortcut = nn.Conv2d(width, width, 1, bias=False) if before != width else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x), inplace=True))
        y = self.conv2(F.silu(self.norm2(y), inplace=True))
        # Where the width changes, the published weights have the shortcut lead around nothing:
        # it starts at y, not at x.
        return y + (self.shortcut(y) if self.shortcut else x)  # type: ignore[no-any-return]


class Level(nn.Module):
    """Residual blocks at one resolution, then, but for the last, twice the resolution."""

    def __init__(self, before: int, width: int, blocks: int, enlarge: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(ResidualBlock(width if i else before, width) for i in range(blocks))
        )
        self.enlarge = Convolution(width, width) if enlarge else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        if self.enlarge:
            x = self.enlarge(x, doubled=True)
        return x
