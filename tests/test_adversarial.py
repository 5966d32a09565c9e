import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tokcodec.train.adversarial import Discriminator, discriminator_loss, generator_loss


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(side=32):
    return torch.rand(2, 3, 3, side, side, generator=seeded()) * 2 - 1


class Squares(nn.Module):
    """Logits w·Σx² of places of 8 x 8 pixels: their gradients in the pixels are 2wx."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.01))

    def forward(self, pixels):
        return self.w * F.avg_pool2d(pixels.square().sum(1, keepdim=True), 8, divisor_override=1)


def test_losses_and_their_gradients_by_hand():
    discriminator, gamma = Squares(), 3.0
    fake, real = images()
    w = discriminator.w.detach().clone().requires_grad_()
    sums = [discriminator(x) / discriminator.w for x in (fake, real)]
    margin = w * (sums[0] - sums[1]).detach()
    penalties = 4 * w**2 * (sums[0] + sums[1]).detach().mean()  # R1 + R2, per logit
    expected = F.softplus(margin).mean() + gamma / 2 * penalties
    expected.backward()
    loss = discriminator_loss(discriminator, fake, real, gamma)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(discriminator.w.grad, w.grad)

    discriminator.w.grad = None
    fake.requires_grad_()
    loss = generator_loss(discriminator, fake, real)
    torch.testing.assert_close(loss, F.softplus(-margin).mean())
    loss.backward()
    assert fake.grad.any()
    assert discriminator.w.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_learns_to_tell_blurred_images(dtype):
    discriminator = Discriminator(seeded(), width=8)
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3)
    _, real = images()
    fake = F.avg_pool2d(real, 3, stride=1, padding=1)

    def told():
        with torch.no_grad():
            return float((discriminator(real) - discriminator(fake)).mean())

    for _ in range(20):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = discriminator_loss(discriminator, fake, real, gamma=0.1)
        assert loss.dtype == torch.float32
        loss.backward()
        optimizer.step()
    assert told() > 1


def test_begins_alike_for_a_seed():
    one, same, other = (Discriminator(seeded(s), width=8).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["enter.weight"], other["enter.weight"])


def test_runs_on_any_device():
    """On meta nothing has a value, so whatever would wait for one fails."""
    with torch.device("meta"):
        discriminator = Discriminator(seeded(), width=8)
        fake, real = torch.rand(2, 2, 3, 64, 64, requires_grad=True)
        assert discriminator(fake).shape == (2, 1, 8, 8)
        generator_loss(discriminator, fake, real).backward()
        discriminator_loss(discriminator, fake, real, gamma=1.0).backward()
    assert all(p.grad.shape == p.shape for p in discriminator.parameters())
