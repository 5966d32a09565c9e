"""Vision transformers: encoders and decoders of the kinds ``patch`` and ``latent``."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokcodec.config.parts import ModelShape
from tokcodec.config.vit import (
    LatentDecoderConfig,
    LatentEncoderConfig,
    PatchDecoderConfig,
    PatchEncoderConfig,
    PatchHeadConfig,
    ProxyDecoderConfig,
    VitConfig,
)
from tokcodec.model.positions import interpolation, log_size
from tokcodec.model.quantizer import in_float32


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, arXiv 1706.03762, section 3.2)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Tokens [B, T, width] -> [B, T, width].

        Each token attends to all tokens, or to those for which ``seen``, bool [B, 1, 1, T], is
        true.
        """
        batch, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, T, width / heads]
        y = _attend(q, k, v, seen)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, width))  # type: ignore[no-any-return]


def _attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad:
        # The backward pass of torch's own function takes three times as long here.
        scores = (q * q.shape[-1] ** -0.5) @ k.mT
        if seen is not None:
            scores = scores.masked_fill(~seen, -torch.inf)
        return torch.matmul(scores.softmax(dim=-1).to(v.dtype), v)
    return F.scaled_dot_product_attention(q, k, v, seen)


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

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm_attention(x), seen)
        return x + self.mlp(self.norm_mlp(x))  # type: ignore[no-any-return]


class Trunk(nn.Module):
    """The transformer blocks, with two options of the config.

    A class token is put before all other tokens; outer norms are applied before the first block
    and after the last.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        width = config.width
        self.class_token = nn.Parameter(torch.zeros(width)) if config.class_token else None
        self.norm_in = nn.LayerNorm(width) if config.outer_norms else nn.Identity()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm_out = nn.LayerNorm(width) if config.outer_norms else nn.Identity()

    def run(self, x: Tensor, kept: slice, seen: Tensor | None = None) -> Tensor:
        """Tokens [B, T, width] -> the output for the tokens in ``kept``, without the class token.

        ``seen`` is that of ``Attention``, and includes the class token.
        """
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), 1, -1).to(x.dtype), x], dim=1)
        x = self.norm_in(x)
        for block in self.blocks:
            x = block(x, seen)
        if self.class_token is not None:
            x = x[:, 1:]
        return self.norm_out(x[:, kept])  # type: ignore[no-any-return]


class GridPositions(nn.Module):
    """Position embeddings for a grid of any size.

    They are a table, interpolated to the rows and columns of the grid, plus a vector times the
    logarithm of the number of positions, which encodes the scale of the image.
    """

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(side, side, width))
        self.scale = nn.Parameter(torch.zeros(width))

    def forward(self, rows: int, columns: int) -> Tensor:
        """Embeddings [rows * columns, width]."""
        down, across = (
            torch.from_numpy(interpolation(len(self.table), size)).to(self.table)
            for size in (rows, columns)
        )
        table = torch.einsum("rs,std,ct->rcd", down, self.table, across)
        return table.flatten(0, 1) + self.scale * log_size(rows, columns)


class PatchEncoder(Trunk):
    """Normalized pixels [B, 3, h, w] -> z [B, rows, columns, d].

    h and w are any multiples of the patch size. Without ``outer_norms`` and with blocks that add
    nothing, z is a linear map of a patch, so training can start from the principal components of
    patches.
    """

    def __init__(self, config: PatchEncoderConfig, model_shape: ModelShape) -> None:
        super().__init__(config)
        self.patch_size = config.patch_size
        self.patch_embed = nn.Linear(3 * config.patch_size**2, config.width)
        self.positions = GridPositions(config.positions, config.width)
        self.to_embedding = nn.Linear(config.width, model_shape.embedding_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        rows, columns = (side // self.patch_size for side in pixels.shape[2:])
        x = self.patch_embed(patchify(pixels, self.patch_size)) + self.positions(rows, columns)
        z = in_float32(self.to_embedding, self.run(x, slice(None)))
        return z.view(len(z), rows, columns, -1)


class LatentEncoder(Trunk):
    """Normalized pixels [B, 3, s, s] -> z [B, N, d] of the latent tokens (TiTok, section 3.2)."""

    def __init__(self, config: LatentEncoderConfig, model_shape: ModelShape) -> None:
        super().__init__(config)
        self.patch_size = config.patch_size
        self.patch_embed = nn.Linear(3 * config.patch_size**2, config.width)
        self.patch_positions = nn.Parameter(
            torch.zeros(config.grid(model_shape.side) ** 2, config.width)
        )
        self.to_embedding = nn.Linear(config.width, model_shape.embedding_dim)
        self.legacy_latents = config.legacy_latents
        self.latent_tokens = nn.Parameter(torch.zeros(config.num_latents, config.width))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embed(patchify(pixels, self.patch_size)) + self.patch_positions
        latents = self.latent_tokens.expand(len(x), -1, -1)
        x = torch.cat([x, latents.to(x.dtype)], dim=1)  # [B, g² + N, width]
        x = self.run(x, slice(-len(self.latent_tokens), None))  # [B, N, width]
        if self.legacy_latents:
            x = x.reshape(len(x), -1, len(self.latent_tokens)).transpose(1, 2)
        return in_float32(self.to_embedding, x)


class PatchDecoder(Trunk):
    """z_q [B, rows, columns, d] -> normalized pixels [B, 3, h, w], for any grid."""

    def __init__(self, config: PatchDecoderConfig, model_shape: ModelShape) -> None:
        super().__init__(config)
        self.from_embedding = nn.Linear(model_shape.embedding_dim, config.width)
        self.positions = GridPositions(config.positions, config.width)
        self.to_pixels = PatchHead(config)

    def forward(self, z_q: Tensor) -> Tensor:
        rows, columns = z_q.shape[1:3]
        x = self.from_embedding(z_q.flatten(1, 2)) + self.positions(rows, columns)
        return self.to_pixels(self.run(x, slice(None)), rows)  # type: ignore[no-any-return]


class LatentDecoder(Trunk):
    """z_q [B, n, d] -> normalized pixels [B, 3, s, s]; n < N is a prefix of the tokens."""

    def __init__(
        self, config: LatentDecoderConfig | ProxyDecoderConfig, model_shape: ModelShape
    ) -> None:
        super().__init__(config)
        self.from_embedding = nn.Linear(model_shape.embedding_dim, config.width)
        self.token_positions = nn.Parameter(torch.zeros(*model_shape.z_shape, config.width))
        self.mask_token = nn.Parameter(torch.zeros(config.width))
        self.patch_positions = nn.Parameter(
            torch.zeros(config.grid(model_shape.side) ** 2, config.width)
        )
        self.to_pixels = self.head(config, model_shape)

    @staticmethod
    def head(config: Any, model_shape: ModelShape) -> nn.Module:
        return PatchHead(config)

    def forward(self, z_q: Tensor, kept: Tensor | None = None) -> Tensor:
        """Decode z_q; if ``kept``, int64 [B], is given, only the first ``kept`` tokens of each
        image."""
        x = self.from_embedding(z_q) + self.token_positions[: z_q.shape[1]]
        masks = (self.mask_token + self.patch_positions).expand(len(x), -1, -1)
        x = torch.cat([masks.to(x.dtype), x], dim=1)  # [B, g² + n, width]
        seen = None
        if kept is not None:
            before = x.shape[1] - z_q.shape[1] + (self.class_token is not None)
            tokens = torch.arange(before + z_q.shape[1], device=x.device)
            seen = (tokens < before + kept[:, None])[:, None, None]
        x = self.run(x, slice(len(self.patch_positions)), seen)
        return self.to_pixels(x, math.isqrt(x.shape[1]))  # type: ignore[no-any-return]


class PatchHead(nn.Linear):
    """Tokens [B, g², width] -> pixels [B, 3, g·P, g·P], one patch per token.

    A patch extends ``overlap`` pixels beyond its cell of the grid, where it is added to its
    neighbours. An optional 3x3 convolution smooths the result.
    """

    def __init__(self, config: PatchHeadConfig) -> None:
        window = config.patch_size + 2 * config.pixel_overlap
        super().__init__(config.width, 3 * window**2)
        self.patch_size, self.overlap = config.patch_size, config.pixel_overlap
        self.convolution = nn.Conv2d(3, 3, 3, padding=1) if config.pixel_convolution else None

    def forward(self, x: Tensor, rows: int) -> Tensor:  # type: ignore[override]
        pixels = unpatchify(super().forward(x), rows, self.patch_size, self.overlap)
        return self.convolution(pixels) if self.convolution else pixels


def patchify(pixels: Tensor, patch_size: int) -> Tensor:
    """[B, 3, H, W] -> [B, (H/P)(W/P), 3·P·P]: patches row by row, channels outermost in each."""
    batch, channels, height, width = pixels.shape
    rows, columns = height // patch_size, width // patch_size
    x = pixels.reshape(batch, channels, rows, patch_size, columns, patch_size)
    x = x.permute(0, 2, 4, 1, 3, 5)  # [B, rows, columns, 3, P, P]
    return x.reshape(batch, rows * columns, channels * patch_size**2)


def unpatchify(patches: Tensor, rows: int, patch_size: int, overlap: int = 0) -> Tensor:
    """[B, rows·columns, 3·W·W] -> [B, 3, rows·P, columns·P], W being P + 2·overlap.

    Each patch is centred on its cell of the grid, and overlapping patches add up; parts outside
    the image are cut off. Without overlap, this is the inverse of ``patchify``.
    """
    size = (rows * patch_size, patches.shape[1] // rows * patch_size)
    window = patch_size + 2 * overlap
    return F.fold(patches.transpose(1, 2), size, window, padding=overlap, stride=patch_size)
