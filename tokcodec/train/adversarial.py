"""A discriminator of patches, and the losses of R3GAN (arXiv 2501.05441, sections 2 and 3).

Pictures are float32 [B, 3, s, s] in [-1, 1], s a multiple of 8; decoded ones beside the originals
that they were decoded from, and compared with them place by place. Under autocast the convolutions
run in bfloat16; logits, losses and penalties are float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

_LEAK = 0.2


class Discriminator(nn.Module):
    """Pictures -> logits float32 [B, 1, s/8, s/8], larger where they look like an original.

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
                    # Drawn on the CPU, so a run begins alike on every device.
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
    """Half the pixels a side, twice the channels."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.AvgPool2d(2), nn.Conv2d(width, 2 * width, 1))


def generator_loss(discriminator: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
    """How clearly decoded pictures are told from originals; leaves no gradient on the
    discriminator."""
    frozen = {name: p.detach() for name, p in discriminator.named_parameters()}
    margin = functional_call(discriminator, frozen, fake) - functional_call(
        discriminator, frozen, real
    )
    return F.softplus(-margin).mean()


def discriminator_loss(
    discriminator: nn.Module, fake: Tensor, real: Tensor, gamma: float
) -> Tensor:
    """How badly they are told apart, and ``gamma`` / 2 times both penalties R1 and R2.

    A penalty is the squared gradient of the logits in the pixels, summed over those of a picture,
    per logit: so one ``gamma`` serves pictures of every size.
    """
    fake, real = fake.detach().requires_grad_(), real.detach().requires_grad_()
    of_fake, of_real = discriminator(fake), discriminator(real)
    logits = of_fake.sum() + of_real.sum()
    gradients = torch.autograd.grad(logits, (fake, real), create_graph=True)
    penalties: Tensor = torch.cat(gradients).square().sum() / of_real.numel()
    return F.softplus(of_fake - of_real).mean() + gamma / 2 * penalties
