"""The codebook in training: a fast search, moving averages, and revival of dead tokens."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tokcodec.model.codebook import as_products
from tokcodec.train import ranks
from tokcodec.train.recipe import Recipe

_BLOCK = 64  # scores that are compared together
# Scores that are computed at once: on a CPU as many as fit into its caches, elsewhere 1 GB.
_SCORES, _SCORES_ELSEWHERE = 1 << 21, 1 << 28


@torch.no_grad()
def fast_tokens(z: Tensor, codebook: Tensor) -> Tensor:
    """The token of each row of ``z`` float32 [M, d] among vectors [K, d], both as
    ``Codebook.compared`` gives them: int64 [M].

    It finds the largest scores of a matrix product in float32, without waiting for the device. If
    two vectors are equally near within rounding errors, it may choose either;
    ``Quantizer.tokens`` is exact.
    """
    z, vectors = as_products(z, codebook, torch.linalg.vector_norm(codebook, dim=1))
    scores = _SCORES if z.device.type == "cpu" else _SCORES_ELSEWHERE
    rows = max(1, scores // len(codebook))
    return torch.cat([_largest(part @ vectors.T) for part in torch.split(z, rows)])


def _largest(scores: Tensor) -> Tensor:
    """The column of the largest score of each row [M, K]. Comparing blocks first is faster."""
    size = math.gcd(scores.shape[1], _BLOCK)
    blocks = scores.view(len(scores), -1, size)
    block = blocks.amax(dim=2).argmax(dim=1)
    rows = torch.arange(len(scores), device=scores.device)
    return torch.add(blocks[rows, block].argmax(dim=1), block, alpha=size)


class MovingAverages:
    """Each vector follows the mean of the z that chose it (VQ-VAE, arXiv 1711.00937, app. A.1).

    This replaces the codebook term ‖sg(z) - e‖² of the loss. A token whose moving average of uses
    falls below ``dead_below`` of the mean token's is revived: it starts again at a z of the step.

    With a ``rate_weight``, the last channel of z is 0 and that of each vector is the square root
    of ``rate_weight`` times the token's bits, log2(1 / its share of the uses). So the nearest
    vector is the one with the least squared distance plus ``rate_weight`` per bit
    (entropy-constrained vector quantization: Chou, Lookabaugh and Gray, IEEE Transactions on
    Acoustics, Speech, and Signal Processing 37(1), 1989).
    """

    def __init__(self, codebook: Tensor, recipe: Recipe) -> None:
        """``codebook``, float32 [K, d], is changed in place."""
        self.codebook, self.recipe = codebook, recipe
        self.mean_uses = recipe.tokens / len(codebook)
        self.uses = codebook.new_full((len(codebook),), self.mean_uses)
        if recipe.rate_weight:  # the last channel of a checkpoint that was trained so has the uses
            bits = codebook[:, -1].square() / recipe.rate_weight
            self.uses = torch.softmax(-bits * math.log(2), dim=0) * recipe.tokens
        self.sums = codebook * self.uses[:, None]

    @torch.no_grad()
    def update(self, z: Tensor, tokens: Tensor, revival: Tensor) -> None:
        """Updates the averages and the codebook after a step.

        Args:
            z: float32 [M, d], of this process.
            tokens: int64 [M], the nearest vectors.
            revival: see ``Batch``.
        """
        decay, dead_below = self.recipe.codebook_decay, self.recipe.dead_below
        # Of every token: its uses, the sum of their z, and the z that would revive it.
        channels = z.shape[1]
        step = z.new_zeros(len(self.uses), 1 + 2 * channels)
        step[:, : 1 + channels].index_add_(0, tokens, F.pad(z, (1, 0), value=1.0))
        here = (revival >= 0) & (revival < len(z))
        step[:, 1 + channels :] = torch.where(here[:, None], z[revival.clamp(0, len(z) - 1)], 0.0)
        uses, sums, reviving = torch.split(ranks.sum_(step), [1, channels, channels], dim=1)
        self.uses.lerp_(uses.squeeze(1), 1 - decay)
        self.sums.lerp_(sums, 1 - decay)
        dead = self.uses < dead_below * self.mean_uses
        self.uses.masked_fill_(dead, self.mean_uses)
        self.sums.copy_(torch.where(dead[:, None], reviving * self.mean_uses, self.sums))
        self.codebook.copy_(self.sums / self.uses[:, None])
        if self.recipe.rate_weight:
            bits = (self.uses.sum() / self.uses).log2()
            self.codebook[:, -1] = (self.recipe.rate_weight * bits).sqrt()

    def state_dict(self) -> dict[str, Tensor]:
        return {"uses": self.uses, "sums": self.sums}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.uses.copy_(state["uses"])
        self.sums.copy_(state["sums"])
