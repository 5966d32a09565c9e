"""Batches: grids, crops, and that they depend on nothing but the seed and the step."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from training import CPU, LATENT, PATCH, PREFIXES, make_images

from tokcodec.train import ranks
from tokcodec.train.batches import Batches, crop_and_resize, draw_crops, draw_size
from tokcodec.train.presets import PRESETS
from tokcodec.train.recipe import Recipe

SEEDS = st.integers(0, 1 << 30)


@pytest.fixture(scope="module")
def images():
    return make_images(20)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def tensors(batch):
    return [part for part in batch if isinstance(part, torch.Tensor)]


def same(one, other):
    return all(map(torch.equal, tensors(one), tensors(other)))


@pytest.mark.parametrize("config", [PATCH, PREFIXES], ids=["patch", "prefixes"])
def test_batches_depend_on_seed_and_step_alone(images, config):
    recipe = Recipe(steps=9, tokens=256, seed=1)

    def draw(seed, step):
        of_seed = dataclasses.replace(recipe, seed=seed)
        return Batches(images.train, config, of_seed, CPU).draw(step)

    first = draw(1, 4)
    assert same(first, draw(1, 4))
    assert not same(first, draw(2, 4))
    assert not same(first, draw(1, 5))
    ahead = list(Batches(images.train, config, recipe, CPU).since(4))
    assert len(ahead) == 5
    assert same(ahead[0], first)
    # If tokens stay, none is revived and all else is the same.
    staying = Batches(images.train, config, recipe, CPU, tokens_stay=True).draw(4)
    assert len(staying.revival) == 0
    assert same(staying._replace(revival=first.revival), first)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_images_of_a_step(images, monkeypatch, processes):
    recipe = Recipe(steps=9, tokens=256)
    whole = Batches(images.train, PATCH, recipe, CPU).draw(3)
    rows = math.prod(PATCH.token_shape(*whole.size))
    z = torch.arange(len(whole.crops) * rows)
    monkeypatch.setattr(ranks, "count", lambda: processes)
    parts, revived = [], torch.zeros_like(whole.revival)
    for rank in range(processes):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        part = Batches(images.train, PATCH, recipe, CPU).draw(3)
        own = z[ranks.share(len(whole.crops)).start * rows :][: len(part.crops) * rows]
        here = (part.revival >= 0) & (part.revival < len(own))
        revived += torch.where(here, own[part.revival.clamp(0, len(own) - 1)], 0)
        parts.append(part)
    assert torch.equal(torch.cat([part.crops for part in parts]), whole.crops)
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(revived, whole.revival)
    assert sum(part.share for part in parts) == pytest.approx(processes)
    assert whole.share == 1


@settings(max_examples=30)
@given(SEEDS)
def test_grids_are_those_that_are_promised(seed):
    config = PRESETS["tokcodec"]
    rows, columns = config.token_shape(*draw_size(config, 256, seeded(seed)))
    assert 1 <= min(rows, columns) <= max(rows, columns) <= 32
    assert 6 <= rows * columns <= 1024  # 9 to 1,024, before rows and columns are rounded
    assert max(rows, columns) / min(rows, columns) <= 2.5 * 1.6


def test_grids_spread_evenly_over_the_logarithm_of_their_tokens():
    config = PRESETS["tokcodec"]
    generator = seeded(0)
    grids = [config.token_shape(*draw_size(config, 256, generator)) for _ in range(2000)]
    tokens = np.array([math.prod(grid) for grid in grids])
    assert abs((tokens < 96).mean() - 0.5) < 0.05  # the geometric mean of 9 and 1,024
    assert abs(np.mean([rows > columns for rows, columns in grids]) - 0.45) < 0.05


def test_grids_of_a_model_of_large_patches_have_pixels():
    config = PRESETS["original"]
    for seed in range(50):
        assert max(draw_size(config, 256, seeded(seed))) <= 256
    assert draw_size(LATENT, 256, seeded(0)) == (32, 32)


@settings(max_examples=30)
@given(SEEDS, st.integers(8, 64), st.integers(8, 64))
def test_crops_lie_in_the_image_and_have_the_shape_of_the_grid(seed, height, width):
    crops = draw_crops(20, 64, height, width, seeded(seed))
    top, left, high, wide, mirrored = crops.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + high <= 64.001).all()
    assert (left + wide <= 64.001).all()
    torch.testing.assert_close(high * width, wide * height)
    assert (high >= height - 1e-3).all()  # a pixel of the model is at least one of the image
    assert set(mirrored.tolist()) <= {0, 1}


def test_half_of_the_crops_are_as_large_as_fits():
    crops = draw_crops(4000, 64, 16, 32, seeded(0))
    assert 0.47 < (crops[:, 3] == 64).float().mean() < 0.53
    assert 0.47 < crops[:, 4].mean() < 0.53


def test_the_size_tells_whether_crops_are_sharp(images):
    batches = Batches(images.train, PATCH, Recipe(steps=100, tokens=256), CPU)
    found = set()
    for step in range(100):
        batch = batches.draw(step)
        found.add(batch.sharp)
        height, width = batch.size
        assert batch.sharp == (max(height, width) <= 64)
        assert batch.crops[:, 2].min() >= (height if batch.sharp else height / 2) - 1e-3
        assert len(batch.crops) == max(1, 256 // math.prod(PATCH.token_shape(height, width)))
    assert found == {True, False}


def test_prefixes_of_every_length(images):
    batch = Batches(images.train, PREFIXES, Recipe(steps=9, tokens=2048), CPU).draw(0)
    assert set(batch.kept.tolist()) == set(range(1, 9))
    assert 0.45 < (batch.kept == 8).float().mean() < 0.7


@settings(max_examples=30)
@given(SEEDS, st.integers(1, 16), st.integers(1, 16))
def test_resizing_keeps_means_and_mirrors(seed, height, width):
    image = torch.randint(256, (1, 3, 16, 16), generator=seeded(seed), dtype=torch.uint8)
    whole = torch.tensor([[0.0, 0, 16, 16, 0]])
    small = crop_and_resize(image, whole, height, width)
    torch.testing.assert_close(small.mean((2, 3)), image.float().mean((2, 3)) / 255)
    mirrored = crop_and_resize(image, whole + torch.tensor([0, 0, 0, 0, 1]), height, width)
    torch.testing.assert_close(mirrored, small.flip(-1))


def test_crops_are_means_over_areas(images):
    some = torch.from_numpy(images.train[:5].copy())
    whole, corner = torch.tensor([0.0, 0, 64, 64, 0]), torch.tensor([3.0, 32, 16, 32, 1])
    means = F.avg_pool2d(some.float() / 255, 2)
    torch.testing.assert_close(crop_and_resize(some, whole.expand(5, 5), 32, 32), means)
    expected = some[:, :, 3:19, 32:64].flip(-1) / 255
    torch.testing.assert_close(crop_and_resize(some, corner.expand(5, 5), 16, 32), expected)
    # A size that is no multiple: 5 thirds of a pixel each.
    odd = crop_and_resize(some, torch.tensor([1.0, 2, 20, 20, 0]).expand(5, 5), 12, 12)
    row = some[:, :, 1:21, 2:22].float().mean(dim=2) / 255
    torch.testing.assert_close(odd[..., 0].mean(dim=2), row[..., 0] * 0.6 + row[..., 1] * 0.4)
