"""The codebook in training: its search, its averages, and the cost of bits."""

import pytest
import torch
import torch.nn.functional as F

from tokcodec.config.parts import ModelShape
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.model.codebook import Codebook, nearest
from tokcodec.train.codebook import MovingAverages, fast_tokens
from tokcodec.train.recipe import Recipe


@pytest.mark.parametrize(("size", "cosine"), [(8192, False), (1000, True)])
def test_the_fast_search_differs_in_near_ties_alone(size, cosine):
    generator = torch.Generator().manual_seed(0)
    z, codebook = (torch.randn(n, 32, generator=generator) for n in (2048, size))
    metric = "cosine" if cosine else "euclidean"
    config = CodebookConfig(codebook_size=size, embedding_dim=32, metric=metric)
    quantizer = Codebook(config, ModelShape(0, (), 32))
    quantizer.codebook.copy_(codebook)
    fast = fast_tokens(*quantizer.compared(z))
    if cosine:
        z, codebook = F.normalize(z, dim=1), F.normalize(codebook, dim=1)
    exact = nearest(z, codebook)
    assert (fast != exact).float().mean() < 1e-3
    a, b = ((z - codebook[tokens]).double().square().sum(dim=1) for tokens in (fast, exact))
    assert ((a - b) <= 1e-5 * b).all()


def test_vectors_follow_means_and_dead_tokens_come_back():
    codebook = torch.tensor([[0.0, 0.0], [10.0, 10.0], [-50.0, 0.0]])
    recipe = Recipe(steps=1, tokens=6, codebook_decay=0.5, dead_below=0.1)
    averages = MovingAverages(codebook, recipe)
    z = torch.tensor([[1.0, 1.0]] * 4 + [[9.0, 12.0]] * 2)
    tokens = torch.tensor([0] * 4 + [1] * 2)
    revival = torch.tensor([0, -3, 5])  # -3: a row of another process
    # Uses begin at the mean, 2: the first token now has (2 + 4) / 2 = 3, the sum (0 + 4) / 2 = 2.
    averages.update(z, tokens, revival)
    torch.testing.assert_close(codebook[0], torch.tensor([2 / 3, 2 / 3]))
    torch.testing.assert_close(codebook[1], torch.tensor([9.5, 11.0]))
    torch.testing.assert_close(codebook[2], torch.tensor([-50.0, 0.0]))
    for _ in range(4):
        averages.update(z, tokens, revival)
    # Its moving average of uses fell from 2 below 0.1 of the mean: it is the drawn z now.
    assert codebook[2].tolist() == [9.0, 12.0]


def test_the_last_channel_holds_the_cost_of_bits():
    """The nearest vector is the one of least squared distance plus the cost of its bits."""
    generator = torch.Generator().manual_seed(0)
    z = F.pad(torch.randn(4000, 2, generator=generator), (0, 1))
    codebook = F.pad(torch.randn(16, 2, generator=generator), (0, 1))
    recipe = Recipe(steps=1, tokens=4000, codebook_decay=0.0, dead_below=0.0, rate_weight=0.05)
    averages = MovingAverages(codebook, recipe)
    revival = torch.zeros(16, dtype=torch.int64)
    for _ in range(10):
        averages.update(z, nearest(z, codebook), revival)
    uses = averages.uses
    bits = (uses.sum() / uses).log2()
    used = uses > 0
    torch.testing.assert_close(codebook[used, 2].square(), 0.05 * bits[used])
    cost = torch.cdist(z[:, :2], codebook[used, :2]).square() + 0.05 * bits[used]
    assert torch.equal(nearest(z, codebook[used].contiguous()), cost.argmin(dim=1))
    # Who continues with such a codebook continues with its shares of the uses.
    again = MovingAverages(codebook[used].clone(), recipe)
    torch.testing.assert_close(again.uses, uses[used], rtol=1e-3, atol=0.1)
