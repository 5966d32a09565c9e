"""A discriminator of patches, and the losses of R3GAN (arXiv 2501.05441, sections 2 and 3).

Images are float32 [B, 3, H, W] in [-1, 1], with H and W multiples of 8. Decoded images are compared
with their originals. Under autocast the convolutions run in bfloat16; logits, losses and penalties
are float32.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from tokcodec.train import ranks
from tokcodec.train.recipe import Recipe

_LEAK = 0.2


class Discriminator(nn.Module):
    """Images -> logits float32 [B, 1, H/8, W/8], larger where they look like originals.

    A residual network without normalization; each logit sees 66 x 66 pixels.
    """

    def __init__(self, generator: torch.Generator, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 4, stride=2, padding=1)
        self.stages = nn.Sequential(
            Block(width), Halving(width), Block(2 * width), Halving(2 * width), Block(4 * width)
        )
        self.leave = nn.Conv2d(4 * width, 1, 1)
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d):
                    assert layer.bias is not None
                    layer.bias.zero_()
                    # Drawn on the CPU, so that it is the same on every device.
                    draws = torch.randn(layer.weight.shape, generator=generator, device="cpu")
                    layer.weight.copy_(draws / layer.weight[0].numel() ** 0.5)
            for layer in self.modules():
                if isinstance(layer, Block):
                    layer.second.weight.zero_()  # it begins as the identity

    def forward(self, pixels: Tensor) -> Tensor:
        return self.leave(self.stages(self.enter(pixels))).float()  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(F.leaky_relu(x, _LEAK))
        return x + self.second(F.leaky_relu(y, _LEAK))  # type: ignore[no-any-return]


class Halving(nn.Sequential):
    """Halves both sides, and doubles the channels."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.AvgPool2d(2), nn.Conv2d(width, 2 * width, 1))


def generator_loss(discriminator: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
    """The decoder's loss: how well the discriminator tells decoded images from originals.

    The discriminator gets no gradient.
    """
    frozen = {name: p.detach() for name, p in discriminator.named_parameters()}
    margin = functional_call(discriminator, frozen, fake) - functional_call(
        discriminator, frozen, real
    )
    return F.softplus(-margin).mean()


def discriminator_loss(
    discriminator: nn.Module, fake: Tensor, real: Tensor, gamma: float
) -> Tensor:
    """The discriminator's loss, with ``gamma`` / 2 times both penalties R1 and R2.

    A penalty is the squared gradient of the logits with respect to the pixels, summed over an image
    and divided by its logits, so one ``gamma`` serves images of every size.
    """
    fake, real = fake.detach().requires_grad_(), real.detach().requires_grad_()
    of_fake, of_real = discriminator(fake), discriminator(real)
    logits = of_fake.sum() + of_real.sum()
    gradients = torch.autograd.grad(logits, (fake, real), create_graph=True)
    penalties = torch.cat(gradients).square().sum() / of_real.numel()
    loss: Tensor = F.softplus(of_fake - of_real).mean() + gamma / 2 * penalties
    return loss


class Critic:
    """A discriminator in training. Images are as in ``Outcome``: normalized."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe = recipe
        self.network = Discriminator(torch.Generator().manual_seed(recipe.seed)).to(device)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), betas=(0.0, 0.99), weight_decay=0.0, fused=True
        )

    def deception(self, decoded: Tensor, original: Tensor) -> Tensor:
        """The adversarial term of the decoder's loss."""
        with self.recipe.autocast(decoded.device):
            return generator_loss(self.network, decoded, original)

    def learn(self, decoded: Tensor, original: Tensor, rate: float, share: float) -> Tensor:
        """Trains the discriminator one step and returns its loss; ``share`` as in ``Batch``."""
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad()
        with self.recipe.autocast(decoded.device):
            loss = discriminator_loss(self.network, decoded, original, self.recipe.r3gan_gamma)
        (loss * share).backward()  # type: ignore[no-untyped-call]
        ranks.mean_gradients(self.network)
        self.optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
