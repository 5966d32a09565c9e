"""The blocks that encoder and decoder, in both layouts, are made of."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokcodec.config import VitConfig


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, arXiv 1706.03762, section 3.2)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, T, width / heads]
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, width))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm transformer block with a GELU MLP (ViT, arXiv 2010.11929, section 3.1)."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        hidden = round(config.width * config.mlp_ratio)
        self.norm_attention = nn.LayerNorm(config.width)
        self.attention = Attention(config.width, config.heads)
        self.norm_mlp = nn.LayerNorm(config.width)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, hidden), nn.GELU(), nn.Linear(hidden, config.width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_attention(x))
        return x + self.mlp(self.norm_mlp(x))  # type: ignore[no-any-return]


def class_token(config: VitConfig) -> nn.Parameter | None:
    """The token [width] before all others, where the config has one."""
    return nn.Parameter(torch.zeros(config.width)) if config.class_token else None


def outer_norms(config: VitConfig) -> tuple[nn.Module, nn.Module]:
    """What stands before the first block and behind the last."""
    if config.outer_norms:
        return nn.LayerNorm(config.width), nn.LayerNorm(config.width)
    return nn.Identity(), nn.Identity()


class PatchHead(nn.Linear):
    """Tokens [B, g², width] -> pixels [B, 3, g·P, g·P], a patch a token.

    Patches reach ``overlap`` pixels over their borders, where neighbours add up; an optional 3x3
    convolution smooths the whole.
    """

    def __init__(self, width: int, patch_size: int, overlap: int, convolution: bool) -> None:
        super().__init__(width, 3 * (patch_size + 2 * overlap) ** 2)
        self.patch_size = patch_size
        self.overlap = overlap
        self.convolution = nn.Conv2d(3, 3, 3, padding=1) if convolution else None

    def forward(self, x: Tensor) -> Tensor:
        pixels = unpatchify(super().forward(x), self.patch_size, self.overlap)
        return self.convolution(pixels) if self.convolution else pixels


def patchify(pixels: Tensor, patch_size: int) -> Tensor:
    """[B, 3, H, W] -> [B, (H/P)(W/P), 3·P·P]: patches row by row, channels outermost in each."""
    batch, channels, height, width = pixels.shape
    rows, columns = height // patch_size, width // patch_size
    x = pixels.reshape(batch, channels, rows, patch_size, columns, patch_size)
    x = x.permute(0, 2, 4, 1, 3, 5)  # [B, rows, columns, 3, P, P]
    return x.reshape(batch, rows * columns, channels * patch_size**2)


def unpatchify(patches: Tensor, patch_size: int, overlap: int = 0) -> Tensor:
    """[B, g·g, 3·W·W] -> [B, 3, g·P, g·P], W being P + 2·overlap.

    Each patch is centred on its cell of the grid and added to what its neighbours give there;
    what reaches beyond the square is cut off. Without overlap, the inverse of ``patchify``.
    """
    side = round(patches.shape[1] ** 0.5) * patch_size
    window = patch_size + 2 * overlap
    return F.fold(patches.transpose(1, 2), side, window, padding=overlap, stride=patch_size)
