"""Convolutional encoders and decoders: levels of residual blocks.

These are the networks of VQGAN (arXiv 2012.09841, table 7) and of its successors; the config has
their differences. Channels are last in memory, which makes torch's convolutions faster, and more
precise on CPUs.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokcodec.config.convolutional import (
    NORM_GROUPS,
    ConvolutionalConfig,
    ConvolutionalDecoderConfig,
    ConvolutionalEncoderConfig,
)
from tokcodec.config.parts import ModelShape
from tokcodec.errors import ConfigError
from tokcodec.model import haar, winograd
from tokcodec.model.head import Head
from tokcodec.model.quantizer import in_float32

_EPSILON = 1e-6
_WINOGRAD_FROM = 32  # pixels a side: below, transforming the filters costs what it saves
_PIECE = 1 << 18  # numbers of an image that a norm processes at once


class Encoder(nn.Module):
    """Normalized pixels [B, 3, H, W] -> z [B, H / m, W / m, d]; m is ``config.multiple``."""

    def __init__(self, config: ConvolutionalEncoderConfig, model_shape: ModelShape) -> None:
        super().__init__()
        widths, channels = config.widths, config.embedding_channels
        before = config.channels
        self.haar_steps = config.haar_steps
        self.enter = Convolution(3 * 4**config.haar_steps, before, bias=config.bias)
        levels = []
        for level, width in enumerate(widths):
            halving = config.halving if level < config.resized_levels else None
            blocks = _blocks(config, level, before, width)
            levels.append(EncoderLevel(blocks, _halve(halving, width)))
            before = width
        self.levels = nn.Sequential(*levels)
        self.middle = _middle(config)
        self.norm = Norm(before)
        kernel = config.last_kernel
        self.leave = nn.Conv2d(
            before, channels or model_shape.embedding_dim, kernel, padding=kernel // 2
        )
        self.head = Head(config, channels, blocks_first=False)
        kernel = config.embedding_kernel
        self.to_embedding = (
            nn.Conv2d(channels, model_shape.embedding_dim, kernel, padding=kernel // 2)
            if channels
            else nn.Identity()
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return one_by_one(self._tokens, pixels)

    def _tokens(self, pixels: Tensor) -> Tensor:
        pixels = haar.split(pixels, self.haar_steps).contiguous(memory_format=torch.channels_last)
        x = self.middle(self.levels(self.enter(pixels)))
        z = in_float32(self.head, in_float32(self.leave, self.norm(x, silu=True)))
        z = in_float32(self.to_embedding, z)
        return z.permute(0, 2, 3, 1)


class Decoder(nn.Module):
    """z_q [B, rows, columns, d] -> normalized pixels [B, 3, m rows, m columns]."""

    def __init__(self, config: ConvolutionalDecoderConfig, model_shape: ModelShape) -> None:
        super().__init__()
        channels = config.embedding_channels or model_shape.embedding_dim
        kernel = config.embedding_kernel
        self.from_embedding = (
            nn.Conv2d(model_shape.embedding_dim, channels, kernel, padding=kernel // 2)
            if config.embedding_channels
            else nn.Identity()
        )
        if config.head_widths and channels != model_shape.embedding_dim:
            raise ConfigError(
                f"a head needs vectors of {channels} channels, not {model_shape.embedding_dim}",
                name="config.decoder",
            )
        self.head = Head(config, channels, blocks_first=True)
        before = config.widths[-1]
        norm_channels = model_shape.embedding_dim if config.norm == "spatial" else 0
        self.enter = Convolution(channels, before)
        self.middle = _middle(config, norm_channels)
        levels = []
        for level in reversed(range(len(config.widths))):
            width = config.widths[level]
            blocks = _blocks(config, level, before, width, norm_channels)
            adapt = AdaptiveNorm(before, channels) if config.adaptive_norm else None
            doubles = len(config.widths) - level <= config.resized_levels
            doubling = config.doubling if doubles else None
            levels.append(DecoderLevel(adapt, blocks, _double(doubling, width)))
            before = width
        self.levels = nn.ModuleList(levels)
        self.norm = _norm(before, norm_channels)
        self.haar_steps = config.haar_steps
        self.leave = Convolution(before, 3 * 4**config.haar_steps)

    def forward(self, z_q: Tensor) -> Tensor:
        return one_by_one(self._pixels, z_q)

    def _pixels(self, z_q: Tensor) -> Tensor:
        z_q = z_q.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        z = self.head(self.from_embedding(z_q))
        z_q = self.head(z_q)
        x = self.middle(self.enter(z), z_q)
        for level in self.levels:
            x = level(x, z, z_q)
        return haar.join(self.leave(self.norm(x, z_q, silu=True)), self.haar_steps)


class EncoderLevel(nn.Module):
    """Blocks at one resolution; all levels except the last then halve it."""

    def __init__(self, blocks: nn.Module, reduce: nn.Module | None) -> None:
        super().__init__()
        self.blocks, self.reduce = blocks, reduce

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        return self.reduce(x) if self.reduce else x


class DecoderLevel(nn.Module):
    """Blocks at one resolution; all levels except the last then double it."""

    def __init__(
        self, adapt: nn.Module | None, blocks: nn.Module, enlarge: nn.Module | None
    ) -> None:
        super().__init__()
        self.adapt, self.blocks, self.enlarge = adapt, blocks, enlarge

    def forward(self, x: Tensor, z: Tensor, z_q: Tensor) -> Tensor:
        if self.adapt:
            x = self.adapt(x, z)
        x = self.blocks(x, z_q)
        return self.enlarge(x) if self.enlarge else x


class Blocks(nn.Sequential):
    """Blocks one after the other, whose norms may take the looked-up tokens."""

    def forward(self, x: Tensor, z_q: Tensor | None = None) -> Tensor:
        for block in self:
            x = block(x, z_q)
        return x


class ResidualBlock(nn.Module):
    """Two norms, SiLUs and 3x3 convolutions, with a shortcut."""

    def __init__(
        self, config: ConvolutionalConfig, before: int, width: int, norm_channels: int = 0
    ) -> None:
        super().__init__()
        # Tokens must equal those of other programs; decoded pixels may differ by rounding errors.
        exact = isinstance(config, ConvolutionalEncoderConfig)
        self.norm1 = _norm(before, norm_channels)
        self.conv1 = Convolution(before, width, config.bias, exact)
        self.norm2 = _norm(width, norm_channels)
        self.conv2 = Convolution(width, width, config.bias, exact)
        self.from_output = config.shortcut == "output"
        start = width if self.from_output else before
        self.shortcut = nn.Conv2d(start, width, 1, bias=config.bias) if before != width else None

    def forward(self, x: Tensor, z_q: Tensor | None = None) -> Tensor:
        y = self.conv1(self.norm1(x, z_q, silu=True))
        y = self.conv2(self.norm2(y, z_q, silu=True))
        if self.shortcut:
            x = self.shortcut(y if self.from_output else x)
        return x + y  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention with one head among all positions of an image, with a shortcut."""

    def __init__(self, width: int, norm_channels: int = 0) -> None:
        super().__init__()
        self.norm = _norm(width, norm_channels)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, z_q: Tensor | None = None) -> Tensor:
        batch, width, height, _ = x.shape
        # [B, 1, places, 3 width]
        qkv = self.qkv(self.norm(x, z_q)).permute(0, 2, 3, 1).reshape(batch, 1, -1, 3 * width)
        q, k, v = qkv.chunk(3, dim=-1)
        y = F.scaled_dot_product_attention(q, k, v)
        y = y.reshape(batch, height, -1, width).permute(0, 3, 1, 2)
        return x + self.out(y)  # type: ignore[no-any-return]


class Norm(nn.GroupNorm):
    """A group norm, optionally followed by a SiLU.

    On CPUs with channels last, torch computes the variance from sums of squares, which loses up to
    half of the digits if the mean is large. Here it is computed around the mean, in pieces that
    fit in the caches.
    """

    def __init__(self, width: int, affine: bool = True) -> None:
        super().__init__(NORM_GROUPS, width, _EPSILON, affine)

    def forward(self, x: Tensor, z_q: Tensor | None = None, silu: bool = False) -> Tensor:
        if x.device.type != "cpu" or torch.is_grad_enabled():
            y = super().forward(x)
            return F.silu(y) if silu else y
        x = x.permute(0, 2, 3, 1).float()  # channels last; autocast makes it float32 elsewhere
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        for source, target in zip(x.flatten(1, 2), y.view(len(x), -1, x.shape[-1]), strict=True):
            self._normalize(source, target, silu)
        return y.permute(0, 3, 1, 2)

    def _normalize(self, x: Tensor, y: Tensor, silu: bool) -> None:
        """Normalize one image x [positions, channels] into y."""
        parts = x.split(max(1, _PIECE // x.shape[1]))  # type: ignore[no-untyped-call]
        mean = self._by_group(sum(part.sum(dim=0) for part in parts), len(x))
        squares = sum((part - mean).square_().sum(dim=0) for part in parts)
        scale = (self._by_group(squares, len(x)) + self.eps).rsqrt()
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        for part, out in zip(parts, y.split(len(parts[0])), strict=True):  # type: ignore[no-untyped-call]
            torch.addcmul(shift, part, scale, out=out)
            if silu:
                F.silu(out, inplace=True)

    def _by_group(self, sums: Tensor, places: int) -> Tensor:
        """Sums of each channel -> the mean of its group, for each channel."""
        means = sums.view(self.num_groups, -1).mean(dim=1) / places
        return means.repeat_interleave(len(sums) // self.num_groups)


class SpatialNorm(nn.Module):
    """A group norm whose scale and shift at every place are linear maps of the looked-up token
    there (MoVQ, arXiv 2209.09002, section 3.2)."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.norm = Norm(width)
        self.scale = nn.Conv2d(channels, width, 1)
        self.shift = nn.Conv2d(channels, width, 1)

    def forward(self, x: Tensor, z_q: Tensor, silu: bool = False) -> Tensor:
        rows, columns = z_q.shape[2:]
        # A cell of pixels has one token, and so one scale and shift: they are never enlarged.
        cells = self.norm(x).unflatten(3, (columns, -1)).unflatten(2, (rows, -1))
        scale, shift = (
            layer(z_q)[:, :, :, None, :, None].to(cells.dtype) for layer in (self.scale, self.shift)
        )
        y = torch.addcmul(shift, cells, scale).flatten(4, 5).flatten(2, 3)
        return F.silu(y) if silu else y


class AdaptiveNorm(nn.Module):
    """A group norm with scale and shift from z_q (Open-MAGVIT2, arXiv 2409.04410, section 3).

    They are linear maps of the standard deviation and the mean of each channel over the image.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.norm = Norm(width, affine=False)
        self.gamma = nn.Linear(channels, width)
        self.beta = nn.Linear(channels, width)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        places = z.flatten(2)
        # A single position has no unbiased variance; the published code returns NaN.
        variance = places.var(dim=-1, correction=min(1, places.shape[-1] - 1))
        scale = self.gamma((variance + _EPSILON).sqrt())[..., None, None]
        shift = self.beta(places.mean(dim=-1))[..., None, None]
        return self.norm(x) * scale + shift  # type: ignore[no-any-return]


class _ZerosBehind(nn.Conv2d):
    """A 3x3 convolution of stride 2, padded by zeros below and on the right."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class Convolution(nn.Conv2d):
    """A 3x3 convolution; on a CPU by Winograd's method if ``exact`` is false and it is faster."""

    def __init__(self, before: int, width: int, bias: bool = True, exact: bool = True) -> None:
        super().__init__(before, width, 3, padding=1, bias=bias)
        self.exact = exact

    def forward(self, x: Tensor, doubled: bool = False) -> Tensor:
        """[B, C, H, W] -> [B, K, H, W]; with ``doubled``, x is enlarged to twice its size first."""
        height, width = (side * (2 if doubled else 1) for side in x.shape[2:])
        one = len(x) == 1 and x.device.type == "cpu" and not torch.is_grad_enabled()
        fits = min(height, width) >= _WINOGRAD_FROM and not (height % 4 or width % 4)
        if one and fits and not self.exact and not torch.is_autocast_enabled("cpu"):
            return winograd.convolve(x, self.weight, self.bias, doubled)
        if doubled:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return super().forward(x)


class _Nearest(Convolution):
    """Repeat each pixel two by two, then apply a 3x3 convolution."""

    def forward(self, x: Tensor, doubled: bool = True) -> Tensor:
        return super().forward(x, doubled)


def _halve(halving: str | None, width: int) -> nn.Module | None:
    if halving == "behind":
        return _ZerosBehind(width, width, 3, stride=2)
    if halving == "around":
        return nn.Conv2d(width, width, 3, stride=2, padding=1)
    return nn.AvgPool2d(2) if halving == "average" else None


def _double(doubling: str | None, width: int) -> nn.Module | None:
    if doubling == "nearest":
        return _Nearest(width, width, exact=False)
    if doubling == "depth":
        return nn.Sequential(Convolution(width, 4 * width, exact=False), nn.PixelShuffle(2))
    return None


def _norm(width: int, channels: int) -> Norm | SpatialNorm:
    return SpatialNorm(width, channels) if channels else Norm(width)


def _blocks(
    config: ConvolutionalConfig, level: int, before: int, width: int, norm_channels: int = 0
) -> Blocks:
    blocks: list[nn.Module] = []
    for _ in range(config.level_blocks[level]):
        blocks.append(ResidualBlock(config, before, width, norm_channels))
        if level in config.attention:
            blocks.append(Attention(width, norm_channels))
        before = width
    return Blocks(*blocks)


def _middle(config: ConvolutionalConfig, norm_channels: int = 0) -> Blocks:
    width = config.widths[-1]
    blocks: list[nn.Module] = []
    for _ in range(config.middle_blocks):
        blocks.append(ResidualBlock(config, width, width, norm_channels))
    if config.middle_attention:
        blocks.insert(1, Attention(width, norm_channels))
    return Blocks(*blocks)


def one_by_one(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function to a batch; on a CPU to one row at a time, whose activations fit in caches.

    Rows that equal the first one, as those that fill a batch up, reuse its result.
    """
    if x.device.type != "cpu" or len(x) == 1:
        return function(x)
    first = function(x[:1])
    others = (first if torch.equal(row, x[0]) else function(row[None]) for row in x[1:])
    return torch.cat([first, *others])
