"""Residual quantization: scale by scale, each of what those before it leave."""

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokcodec.config.parts import ModelShape
from tokcodec.config.quantizers import ResidualConfig
from tokcodec.model.parts import build
from tokcodec.model.quantizer import Quantizer, in_float32


class Residual(Quantizer):
    """z [B, rows, columns, d] <-> tokens int64 [B, n], scale by scale, each row by row.

    A scale quantizes the means of what is left of z over its cells. Its looked-up vectors are
    enlarged to the rows and columns of z, filtered, and subtracted; z_q is the sum of all scales
    (RQ-VAE, arXiv 2203.01941, section 3.1; VAR, arXiv 2404.02905, algorithms 1 and 2). The first
    n tokens, of whole scales, can be looked up alone.
    """

    def __init__(self, config: ResidualConfig, model_shape: ModelShape) -> None:
        super().__init__()
        self.scales, self.enlarging = config.scales, config.enlarging
        self.stage: Quantizer = build(config.stage, model_shape)
        self.filter_of_scale = config.filters
        width = config.embedding_dim
        self.filters = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1)
            for _ in range(max(config.filters, default=-1) + 1)
        )

    def tokens(self, z: Tensor) -> Tensor:
        return torch.cat([tokens.flatten(1) for _, tokens in self._stages(z)], dim=1)

    def lookup(self, tokens: Tensor) -> Tensor:
        sizes = [side**2 for side in self.scales]
        used = 1 + list(itertools.accumulate(sizes)).index(tokens.shape[1])
        first, *others = (
            self._vectors(scale, part.reshape(len(part), self.scales[scale], -1))
            for scale, part in enumerate(torch.split(tokens, sizes[:used], dim=1))
        )
        return sum(others, first).permute(0, 2, 3, 1)

    def margins(self, z: Tensor) -> Tensor:
        """float64 [B, n]: the margin at the token's scale or, if it is smaller, the smallest of the
        scales before, where another token changes all that follow."""
        margins: list[Tensor] = []
        least = torch.full((len(z), 1), torch.inf, dtype=torch.float64, device=z.device)
        for part, _ in self._stages(z):
            margins.append(self.stage.margins(part).flatten(1).minimum(least))
            least = margins[-1].amin(dim=1, keepdim=True)
        return torch.cat(margins, dim=1)

    def _stages(self, z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """What each scale quantizes, [B, side, side, d], and its tokens."""
        rest = z.detach().float().permute(0, 3, 1, 2)
        for scale, side in enumerate(self.scales):
            part = F.interpolate(rest, side, mode="area").permute(0, 2, 3, 1)
            tokens = self.stage.tokens(part)
            yield part, tokens
            rest = rest - self._vectors(scale, tokens)

    def _vectors(self, scale: int, tokens: Tensor) -> Tensor:
        """What a scale adds to z_q, [B, d, rows, columns]."""
        vectors = self.stage.lookup(tokens).permute(0, 3, 1, 2)
        if self.scales[scale] != self.scales[-1]:
            vectors = F.interpolate(vectors, self.scales[-1], mode=self.enlarging)
        if not self.filter_of_scale:
            return vectors
        return in_float32(self.filters[self.filter_of_scale[scale]], vectors)
