"""The adversarial loss: a discriminator that the decoder is to deceive.

As R3GAN has it (arXiv 2501.05441, sections 2 and 3): the relativistic pairing loss, zero-centred
gradient penalties on original (R1) and decoded pictures (R2), a network without norms; no other
trick. Pictures are float32 [B, 3, s, s], normalized.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokcodec.train import ranks
from tokcodec.train.recipe import Recipe

_WIDTHS = (64, 128, 256, 256)
_SLOPE = 0.2


class Discriminator(nn.Module):
    """Pictures -> [B, 1, s / 16, s / 16]: of the surroundings of each place, how true they look
    (PatchGAN, arXiv 1611.07004, section 3.2.2)."""

    def __init__(self) -> None:
        super().__init__()
        # Four pixels are one place with more channels, for full resolution would cost the most.
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, _WIDTHS[0], 3, padding=1),
        ]
        for level, width in enumerate(_WIDTHS):
            if level:
                layers.append(nn.AvgPool2d(2))
            layers.append(_Residual(width, _WIDTHS[min(level + 1, len(_WIDTHS) - 1)]))
        layers += [nn.LeakyReLU(_SLOPE), nn.Conv2d(_WIDTHS[-1], 1, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels)  # type: ignore[no-any-return]


class _Residual(nn.Module):
    def __init__(self, width: int, wider: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.widen = nn.Conv2d(width, wider, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.widen(x + self.branch(x))  # type: ignore[no-any-return]


def generator_loss(discriminator: Discriminator, decoded: Tensor, original: Tensor) -> Tensor:
    """What the decoder makes small: that the original looks truer than what was decoded of it."""
    return F.softplus((discriminator(original) - discriminator(decoded)).float()).mean()


def discriminator_loss(
    discriminator: Discriminator, decoded: Tensor, original: Tensor, penalty: float
) -> Tensor:
    """What the discriminator makes small; ``decoded`` without gradient.

    ``penalty``, half the paper's gamma, is the weight of R1 and of R2: of the squared gradient of a
    picture's mean logit to its pixels, a mean over pictures.
    """
    pairs = torch.cat([original, decoded]).detach().requires_grad_()
    logits = discriminator(pairs).float()
    scores = logits.mean(dim=(1, 2, 3))
    (gradient,) = torch.autograd.grad(scores.sum(), pairs, create_graph=True)
    true, false = logits.chunk(2)
    steepness = gradient.square().sum(dim=(1, 2, 3)).mean() * 2
    return F.softplus(false - true).mean() + penalty * steepness


class Critic:
    """A discriminator in training."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe = recipe
        self.network = Discriminator().to(device)
        ranks.take_first(self.network.state_dict().values())
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), betas=(0.0, 0.99), weight_decay=0.0, fused=True
        )

    def loss(self, decoded: Tensor, original: Tensor) -> Tensor:
        """The decoder's share, weighed."""
        self.network.requires_grad_(False)
        with self.recipe.autocast(decoded.device):
            loss = generator_loss(self.network, decoded, original)
        return self.recipe.adversarial * loss

    def learn(self, decoded: Tensor, original: Tensor, rate: float) -> None:
        """A step of the discriminator's own."""
        self.network.requires_grad_(True)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad()
        penalty = self.recipe.gradient_penalty
        with self.recipe.autocast(decoded.device):
            loss = discriminator_loss(self.network, decoded, original, penalty)
        loss.backward()  # type: ignore[no-untyped-call]
        ranks.mean_gradients(self.network)
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
