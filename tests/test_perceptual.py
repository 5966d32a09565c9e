import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from tokcodec.errors import CheckpointError, TrainingError
from tokcodec.train import perceptual
from tokcodec.train.perceptual import Lpips, Spectra, load_lpips

META = torch.device("meta")


def images(count=2, side=64):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, count, 3, side, side, generator=generator)


@pytest.fixture(scope="module")
def lpips_files(tmp_path_factory):
    """Seeded weights under the published names: VGG16's as torch.save wrote them before 1.6, the
    heads as safetensors."""
    folder = tmp_path_factory.mktemp("lpips")
    generator = torch.Generator().manual_seed(0)
    features = {
        f"features.{name}": torch.randn(p.shape, generator=generator) * (2 / p[0].numel()) ** 0.5
        for name, p in Lpips().features.named_parameters()
    }
    features["classifier.0.weight"] = torch.zeros(2, 2)
    torch.save(features, folder / "vgg16.pth", _use_new_zipfile_serialization=False)
    heads = {
        f"lin{number}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator)
        for number, width in enumerate((64, 128, 256, 512, 512))
    }
    save_file(heads, folder / "heads.safetensors")
    return features, heads, [folder / "vgg16.pth", folder / "heads.safetensors"]


@pytest.mark.metrics
def test_lpips_is_that_of_torchmetrics(lpips_files, monkeypatch):
    theirs = pytest.importorskip("torchmetrics.functional.image.lpips")
    features, heads, paths = lpips_files
    # Only for this does torchmetrics need torchvision; its layers are plain.
    network = nn.Sequential()
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            network.extend([nn.LazyConv2d(width, 3, padding=1), nn.ReLU()])
        network.append(nn.MaxPool2d(2))
    decoded, original = images()
    network(decoded)
    names = network.state_dict()
    network.load_state_dict({name: features[f"features.{name}"] for name in names})
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda *_: network)
    reference = theirs._LPIPS(pretrained=False, net="vgg", pnet_rand=True)
    reference.load_state_dict(heads, strict=False)
    expected = reference(decoded, original, normalize=True).mean()
    assert expected > 0.1
    loss = load_lpips(paths)
    torch.testing.assert_close(loss(decoded, original), expected, rtol=1e-5, atol=0)
    assert loss(original, original) == 0


def test_lpips_names_what_is_missing(lpips_files, tmp_path, monkeypatch):
    paths = lpips_files[2]
    monkeypatch.setattr(perceptual, "_heads", list)  # without torchmetrics
    with pytest.raises(TrainingError, match=r"vgg16.pth: tensor lin0.* is missing; .*vgg\.pth"):
        load_lpips(paths[:1])
    with pytest.raises(TrainingError, match=r"tensor features.0.weight is missing; .*vgg16-"):
        load_lpips(paths[1:])
    with pytest.raises(CheckpointError, match=r"none\.pth"):
        load_lpips([tmp_path / "none.pth"])
    with pytest.raises(TrainingError, match=r"^--lpips needs --lpips-file: torchvision's vgg16"):
        load_lpips([])


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


@pytest.mark.parametrize("kind", [Lpips, Spectra])
def test_losses_run_on_any_device(kind):
    """On meta nothing has a value, so whatever would wait for one fails."""
    with META:
        loss = kind()
        decoded = torch.rand(2, 3, 64, 64, requires_grad=True)
        value = loss(decoded, torch.rand(2, 3, 64, 64))
    value.backward()
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert decoded.grad.shape == decoded.shape
    assert decoded.grad.device == META
