"""The training side of the codebook: moving averages, and revival of dead codes."""

import torch
from torch import Tensor


class MovingAverages:
    """Each vector follows the mean of the z that chose it (VQ-VAE, arXiv 1711.00937, app. A.1).

    This takes the place of the codebook term ‖sg(z) - e‖² of the loss. A code whose moving
    average of uses falls below ``dead_below`` of the mean code's starts again at a z of the
    current batch.
    """

    def __init__(self, codebook: Tensor, codes_per_batch: int, decay: float, dead_below: float):
        self.codebook = codebook
        self.mean_uses = codes_per_batch / len(codebook)
        self.decay = decay
        self.dead_below = dead_below
        self.uses = codebook.new_full((len(codebook),), self.mean_uses)
        self.sums = codebook * self.mean_uses

    @torch.no_grad()
    def update(self, z: Tensor, codes: Tensor, generator: torch.Generator) -> None:
        """z float32 [M, d] and their codes int64 [M]."""
        counts = torch.bincount(codes, minlength=len(self.uses)).to(self.uses)
        sums = torch.zeros_like(self.sums).index_add_(0, codes, z)
        self.uses.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        dead = (self.uses < self.dead_below * self.mean_uses).nonzero().flatten()
        picks = torch.randint(len(z), (len(dead),), generator=generator)
        self.uses[dead] = self.mean_uses
        self.sums[dead] = z[picks.to(z.device)] * self.mean_uses
        self.codebook.copy_(self.sums / self.uses.unsqueeze(1))

    def state(self) -> dict[str, Tensor]:
        return {"uses": self.uses, "sums": self.sums}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.uses.copy_(state["uses"])
        self.sums.copy_(state["sums"])
