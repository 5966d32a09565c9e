import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tokcodec.errors import TrainingError
from tokcodec.train.perceptual import Spectra, load_lpips

META = torch.device("meta")


def images(count=2, side=64):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, count, 3, side, side, generator=generator)


@pytest.mark.metrics
def test_lpips_is_that_of_torchmetrics(monkeypatch):
    torchmetrics = pytest.importorskip("torchmetrics.functional.image.lpips")
    metric = pytest.importorskip("torchmetrics.image.lpip")

    def make_features(*_):
        """As torchvision's VGG16, which may not be installed, with random weights."""
        torch.manual_seed(0)
        layers = []
        before = 3
        for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(depth):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            layers.append(nn.MaxPool2d(2))
        return nn.Sequential(*layers)

    monkeypatch.setattr(metric, "_TORCHVISION_AVAILABLE", True)
    monkeypatch.setattr(torchmetrics, "_get_tv_model_features", make_features)
    lpips = load_lpips()
    decoded, original = images(side=32)
    decoded.requires_grad_()
    distance = lpips(decoded, original)
    assert distance.numel() == len(decoded)
    distance.mean().backward()
    assert decoded.grad.any()
    assert not any(parameter.requires_grad for parameter in lpips.parameters())
    assert (lpips(original, original) == 0).all()


def test_lpips_that_cannot_be_loaded_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.image.lpip", None)
    with pytest.raises(TrainingError):
        load_lpips()


def test_spectra_prefer_other_grain_to_none():
    """Squared error is the other way round: of two draws it is twice that of their mean."""
    original, other = 0.5 + 0.2 * (images() - 0.5)
    smooth = torch.full_like(original, 0.5)
    loss = Spectra()
    assert loss(other, original) < 0.9 * loss(smooth, original)
    assert F.mse_loss(other, original) > 1.8 * F.mse_loss(smooth, original)
    assert loss(original, original) < 0.01 * loss(smooth, original)


def test_spectra_mask_errors_where_there_is_much():
    original = images()[0]
    flat, error = torch.full_like(original, 0.5), 0.02 * images()[1]
    assert Spectra()(original + error, original) < 0.75 * Spectra()(flat + error, flat)


def test_spectra_run_on_any_device():
    """On meta nothing has a value, so whatever would wait for one fails."""
    with META:
        loss = Spectra()
        decoded = torch.rand(2, 3, 64, 64, requires_grad=True)
        value = loss(decoded, torch.rand(2, 3, 64, 64))
    value.backward()
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert decoded.grad.shape == decoded.shape
    assert decoded.grad.device == META
