"""One step: the loss, its devices, and the averages."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn
from training import CPU, LATENT, PATCH, PREFIXES, RECIPE, make_images, train, with_decoder

from tokcodec.errors import TrainingError
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.train.batches import Batches
from tokcodec.train.objective import Objective
from tokcodec.train.perceptual import blockiness
from tokcodec.train.recipe import Recipe
from tokcodec.train.start import begin
from tokcodec.train.trainer import Trainer

CONFIGS = {"patch": PATCH, "latent": LATENT, "prefixes": PREFIXES}
CUDA = "cuda"


@pytest.fixture(scope="module")
def images():
    return make_images(40)


@pytest.fixture
def model(images):
    """As training begins with it."""
    model = Tokenizer(PATCH)
    begin(model, images.train, 0)
    return model


class Distance(nn.Module):
    """Stands for LPIPS, whose weights are not here."""

    def forward(self, decoded, original):
        return (decoded - original).abs().mean(dim=(1, 2, 3))


@pytest.mark.parametrize("tokens_stay", [False, True])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_step_waits_for_nothing_and_mixes_no_devices(config, tokens_stay, monkeypatch):
    # The meta device has no numbers to wait for, and takes no tensors of others. What it lacks:
    # autocast, so in float32, and the fused optimizer, so in its plain form.
    plain = torch.optim.AdamW.__init__
    monkeypatch.setattr(
        torch.optim.AdamW, "__init__", lambda *args, **kw: plain(*args, **{**kw, "fused": None})
    )
    meta = torch.device("meta")
    recipe = Recipe(
        steps=9,
        tokens=256,
        deblocking=0.1,
        spectra=1.0,
        lpips=1.0,
        rate_weight=0.1,
        adversarial=0.1 * tokens_stay,
    )
    trainer = Trainer(Tokenizer(config).to(meta), recipe, tokens_stay, Distance())
    images = np.zeros((20, 3, 64, 64), np.uint8)
    for batch in Batches(images, config, recipe, meta, tokens_stay).since(7):
        terms = trainer.step(batch)
        assert {term.device for term in terms.values()} == {meta}
    assert trainer.steps_done == 2
    expected = {"loss", "mse", "deblocking", "spectra", "lpips"}
    expected |= {"adversarial", "discriminator"} if tokens_stay else {"commitment"}
    assert terms.keys() == expected


def test_the_loss_is_the_weighted_sum_of_its_terms(images, model):
    recipe = Recipe(steps=9, tokens=256, commitment=0.5, deblocking=0.2, spectra=0.3)
    trainer = Trainer(model, recipe)
    terms = trainer.step(Batches(images.train, PATCH, recipe, CPU).draw(0))
    weights = {"mse": 1.0, "commitment": 0.5, "deblocking": 0.2, "spectra": 0.3}
    total = sum(weights[name] * float(terms[name]) for name in weights)
    assert float(terms["loss"]) == pytest.approx(total)


def test_errors_are_taken_at_full_resolution_if_crops_have_it(images, model):
    objective = Objective(model, RECIPE, False)
    batches = Batches(images.train, PATCH, dataclasses.replace(RECIPE, steps=50), CPU)
    found = set()
    for step in range(50):
        batch = batches.draw(step)
        if batch.sharp in found:
            continue
        found.add(batch.sharp)
        outcome = objective(batch)
        scale = 1 if batch.sharp else 2
        size = tuple(edge // scale for edge in batch.size)
        assert outcome.target.shape[2:] == outcome.decoded.shape[2:] == size
    assert found == {True, False}


def test_the_average_follows_from_the_first_step_on(images, model):
    recipe = Recipe(steps=9, tokens=256, warmup=0)
    trainer = Trainer(model, recipe)
    name = "decoder.to_pixels.bias"
    before = trainer.model.state_dict()[name].clone()
    trainer.step(Batches(images.train, PATCH, recipe, CPU).draw(0))
    after = trainer.model.state_dict()[name]
    torch.testing.assert_close(trainer.averaged().state_dict()[name], 0.1 * before + 0.9 * after)
    assert not torch.equal(before, after)


def test_the_learning_rate_rises_stays_and_falls():
    recipe = Recipe(steps=100, warmup=10, learning_rate=1.0)
    rates = [recipe.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(rates[10:65]) == {1.0}
    assert rates[66:] == pytest.approx([(100 - step) / 35 for step in range(66, 100)])


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"tokens": 0},
        {"learning_rate": -1.0},
        {"deblocking": math.inf},
        {"spectra": math.nan},
        {"dtype": "float16"},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(TrainingError, match=next(iter(settings))):
        Recipe(**{"steps": 1, **settings})


def test_kinks_are_steps_across_borders_beside_the_slopes_there():
    nothing = pytest.approx(1 / 255)
    row = torch.linspace(-1, 1, 16)
    ramp = torch.stack([row.expand(16, 16), row.expand(16, 16).T, row + row[:, None]])[None]
    assert blockiness(ramp, 4) == nothing
    steps = (torch.arange(16) // 4 * 0.5).expand(1, 3, 16, 16)
    assert blockiness(steps, 4) == pytest.approx(0.25, abs=0.01)  # 0.5 along one of two axes
    assert blockiness(steps.mT + ramp, 4) == pytest.approx(0.25, abs=0.01)
    assert blockiness(steps.roll(2, dims=-1), 4) == nothing  # inside patches
    assert blockiness(ramp[..., :8], 4) == nothing  # of any shape


@pytest.mark.parametrize("class_token", [False, True])
def test_a_masked_tail_of_tokens_is_as_if_it_were_not_there(class_token):
    torch.manual_seed(0)
    decoder = Tokenizer(with_decoder(PREFIXES, class_token=class_token)).decoder
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    z_q = torch.randn(3, 8, 8)
    kept = torch.tensor([1, 5, 8])
    masked = decoder(z_q, kept)
    for row, count in enumerate(kept.tolist()):
        torch.testing.assert_close(masked[row], decoder(z_q[row : row + 1, :count])[0])


def test_diverging_is_an_error(images, tmp_path):
    wild = dataclasses.replace(RECIPE, steps=8, learning_rate=1e9)
    with pytest.raises(TrainingError, match="diverged"):
        train(PATCH, wild, images, tmp_path)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_step_on_cuda_is_that_of_the_cpu(config, compiled, images):
    torch.manual_seed(0)
    begun = Tokenizer(config)
    begin(begun, images.train, 0)
    recipe = Recipe(steps=9, tokens=256, warmup=0, deblocking=0.1, spectra=0.1)
    ends = []
    for name in ("cpu", CUDA):
        device = torch.device(name)
        own = dataclasses.replace(recipe, compiled=compiled and name == CUDA)
        trainer = Trainer(copy.deepcopy(begun).to(device), own)
        batches = Batches(images.train, config, own, device)
        losses = [float(trainer.step(batches.draw(number))["loss"]) for number in range(3)]
        ends.append((losses, {n: t.cpu() for n, t in trainer.model.state_dict().items()}))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-3)
    for name, tensor in ends[0][1].items():
        torch.testing.assert_close(ends[1][1][name], tensor, atol=5e-3, rtol=0, msg=name)
