"""The training side of the codebook: a fast search, moving averages, revival of dead tokens."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tokcodec.model.codebook import as_products
from tokcodec.train import ranks

_BLOCK = 64  # scores that are looked at together
# Scores at once: on a processor what its caches hold, elsewhere 1 GB.
_SCORES, _SCORES_ELSEWHERE = 1 << 21, 1 << 28


@torch.no_grad()
def fast_tokens(z: Tensor, codebook: Tensor) -> Tensor:
    """The token of each row of ``z`` float32 [M, d] among vectors [K, d], both as
    ``Codebook.compared`` gives them: int64 [M].

    One matrix product in float32 and its largest scores. It waits for nothing and its shapes are
    fixed, but of two vectors that are as near within roundings it takes either;
    ``Quantizer.tokens`` is exact.
    """
    z, vectors = as_products(z, codebook, torch.linalg.vector_norm(codebook, dim=1))
    scores = _SCORES if z.device.type == "cpu" else _SCORES_ELSEWHERE
    rows = max(1, scores // len(codebook))
    return torch.cat([_largest(part @ vectors.T) for part in torch.split(z, rows)])


def _largest(scores: Tensor) -> Tensor:
    """Where the largest of each row [M, K] stands: first among blocks, which is faster."""
    size = math.gcd(scores.shape[1], _BLOCK)
    blocks = scores.view(len(scores), -1, size)
    block = blocks.amax(dim=2).argmax(dim=1)
    rows = torch.arange(len(scores), device=scores.device)
    return torch.add(blocks[rows, block].argmax(dim=1), block, alpha=size)


class MovingAverages:
    """Each vector follows the mean of the z that chose it (VQ-VAE, arXiv 1711.00937, app. A.1).

    This takes the place of the codebook term ‖sg(z) - e‖² of the loss. A token whose moving
    average of uses falls below ``dead_below`` of the mean token's starts again at a z of the
    current step.
    """

    def __init__(
        self,
        codebook: Tensor,
        tokens_per_step: int,
        decay: float,
        dead_below: float,
        rate_weight: float = 0.0,
    ) -> None:
        """
        Args:
            codebook: float32 [K, d], which is changed in place.
            tokens_per_step: of all processes.
            rate_weight: if not 0, the last channel of z is 0, and that of each vector becomes the
                square root of this times its bits: so the nearest vector is the one of least
                squared distance plus ``rate_weight`` per bit (entropy-constrained vector
                quantization, Chou, Lookabaugh and Gray, IEEE Transactions on Acoustics, Speech,
                and Signal Processing 37(1), 1989).
        """
        self.rate_weight = rate_weight
        self.codebook = codebook
        self.mean_uses = tokens_per_step / len(codebook)
        self.decay = decay
        self.dead_below = dead_below
        self.uses = codebook.new_full((len(codebook),), self.mean_uses)
        self.sums = codebook * self.mean_uses

    @torch.no_grad()
    def update(self, z: Tensor, tokens: Tensor, revival: Tensor) -> None:
        """z float32 [M, d] and their tokens int64 [M] of this process; ``revival`` as in
        ``Batch``."""
        # Of every token: uses, the sum of their z, and the z that would revive it.
        step = z.new_zeros(len(self.uses), 1 + 2 * z.shape[1])
        step[:, : 1 + z.shape[1]].index_add_(0, tokens, F.pad(z, (1, 0), value=1.0))
        owner, own = revival // len(z), revival % len(z)
        step[:, 1 + z.shape[1] :] = torch.where((owner == ranks.rank())[:, None], z[own], 0.0)
        uses, sums, reviving = torch.split(ranks.sum_(step), [1, z.shape[1], z.shape[1]], dim=1)
        self.uses.lerp_(uses.squeeze(1), 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        dead = self.uses < self.dead_below * self.mean_uses
        self.uses.masked_fill_(dead, self.mean_uses)
        self.sums.copy_(torch.where(dead[:, None], reviving * self.mean_uses, self.sums))
        self.codebook.copy_(self.sums / self.uses[:, None])
        if self.rate_weight:
            bits = (self.uses.sum() / self.uses).log2()
            self.codebook[:, -1] = (self.rate_weight * bits).sqrt()

    def state(self) -> dict[str, Tensor]:
        return {"uses": self.uses, "sums": self.sums}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.uses.copy_(state["uses"])
        self.sums.copy_(state["sums"])
