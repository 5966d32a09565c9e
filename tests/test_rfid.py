"""rFID: the network of Inception, the distance, and what ``evaluate`` makes of them."""

import csv
import hashlib
import json

import numpy as np
import pytest
import torch
from conftest import PHOTOS
from PIL import Image

pytest.importorskip("torchmetrics")

from torchmetrics.image.fid import FrechetInceptionDistance

import tokcodec
from tokcodec import Codec
from tokcodec.errors import EvaluationError
from tokcodec.evaluate import run as calls
from tokcodec.evaluate.inception import FILE, Inception, load_inception
from tokcodec.evaluate.rfid import FeatureSums

pytestmark = pytest.mark.metrics

# Names and shapes of the tensors in the published file.
LAYOUT = "e3dd03f9cf965828e1bbc1d9d1172fe1de37b53d8b23591dfcb566b2db60e00b"


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    """Random weights in the published layout, and an image."""
    shapes = {name: tuple(tensor.shape) for name, tensor in Inception().state_dict().items()}
    shapes |= {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
    layout = "".join(f"{name} {list(shape)}\n" for name, shape in sorted(shapes.items()))
    assert hashlib.sha256(layout.encode()).hexdigest() == LAYOUT
    random = np.random.default_rng(0)
    tensors = {}
    for name, shape in sorted(shapes.items()):
        if not shape or name.startswith("fc."):
            tensors[name] = torch.zeros(shape, dtype=torch.float32 if shape else torch.int64)
            continue
        values = random.standard_normal(shape, np.float32)
        if len(shape) == 4:
            values *= np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith(("running_mean", "bn.bias")):
            values *= 0.1
        else:
            values = 1 + 0.1 * np.tanh(values)
        tensors[name] = torch.from_numpy(values.astype(np.float32))
    path = tmp_path_factory.mktemp("inception") / FILE
    torch.save(tensors, path)
    return path, random.integers(0, 256, (20, 30, 3), np.uint8)


def normal(count, length, seed):
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(count, length)) @ random.normal(size=(length, length))
    return (mixed + seed).astype(np.float32)


def gaussian(vectors):
    sums = FeatureSums(vectors.shape[1])
    for vector in vectors:
        sums.add(vector)
    return sums.gaussian()


def direct(a, b):
    """The distance by its formula, of all vectors at once."""
    covariances = [np.cov(vectors.astype(np.float64), rowvar=False) for vectors in (a, b)]
    means = [vectors.astype(np.float64).mean(0) for vectors in (a, b)]
    overlap = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real.sum()
    traces = sum(np.trace(covariance) for covariance in covariances)
    return np.square(means[0] - means[1]).sum() + traces - 2 * overlap


def test_features_are_those_of_torch_fidelity(seeded):
    path, pixels = seeded
    found = load_inception(path, "cpu").features(pixels)
    assert (found.shape, found.dtype) == ((2048,), np.float32)
    # By torch-fidelity 0.4.0.
    expected = [0, 0, 0.1819809, 0.0828633, 0.2272458, 0.3524417, 0.0044541, 0.0491754]
    assert found[::256] == pytest.approx(expected, abs=1e-5)
    assert found.std() == pytest.approx(0.5143819, abs=1e-5)


def test_rfid_is_that_of_torchmetrics_and_torch_fidelity(seeded):
    pytest.importorskip("torch_fidelity", exc_type=ImportError)
    path, _ = seeded
    network = load_inception(path, "cpu")
    metric = FrechetInceptionDistance(antialias=False, feature_extractor_weights_path=str(path))
    sums = {True: FeatureSums(2048), False: FeatureSums(2048)}
    for photo in PHOTOS:
        image = Image.open(photo).convert("RGB").resize((200, 176))
        for real, shown in ((True, image), (False, image.resize((20, 20)).resize((200, 176)))):
            pixels = np.asarray(shown)
            batch = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
            features = network.features(pixels)
            assert np.array_equal(features, metric.inception(batch)[0].numpy())
            sums[real].add(features)
            metric.update(batch, real)
    found = sums[True].gaussian().distance(sums[False].gaussian())
    assert found == pytest.approx(float(metric.compute()), rel=1e-4)


@pytest.mark.parametrize("count", [2, 10, 300])  # below and above the length of the vectors
def test_the_distance_is_that_of_torchmetrics_and_of_the_formula(count):
    a, b = normal(count, 24, 1), normal(count + 7, 24, 2)
    features = torch.nn.Identity()
    features.num_features = 24
    metric = FrechetInceptionDistance(features)
    metric.update(torch.from_numpy(a), real=True)
    metric.update(torch.from_numpy(b), real=False)
    found = gaussian(a).distance(gaussian(b))
    assert found == pytest.approx(direct(a, b), rel=1e-6)
    assert found == pytest.approx(float(metric.compute()), rel=1e-5)
    assert gaussian(a).distance(gaussian(a)) == pytest.approx(0, abs=1e-4)


def test_sums_do_not_grow():
    sums = FeatureSums(8)
    for vector in normal(1000, 8, 0):
        sums.add(vector)
        assert len(sums._block) < 64
    assert sums.count == 1000
    assert FeatureSums(8).gaussian() is None


def test_weights_that_cannot_be_used_are_refused(seeded, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(EvaluationError, match=FILE):
        load_inception(None, "cpu")
    path, _ = seeded
    other = torch.load(path)
    del other["Mixed_6c.branch_pool.conv.weight"]
    torch.save(other, tmp_path / "other.pth")
    torch.save([1], tmp_path / "list.pth")
    (tmp_path / "cut.pth").write_bytes(path.read_bytes()[:1000])
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("weights")
    for name in ("other.pth", "list.pth", "cut.pth", "empty.pth", "text.pth", "none.pth", "."):
        with pytest.raises(EvaluationError) as refused:
            load_inception(tmp_path / name, "cpu")
        assert refused.value.name == str(tmp_path / name)
        assert len(str(refused.value).splitlines()) == 1
    # Where torch-fidelity and torchmetrics keep it.
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / FILE).symlink_to(path)
    load_inception(None, "cpu")


class Small:
    """In the place of the network: means of the rows and columns of a square."""

    def features(self, pixels):
        means = pixels.astype(np.float32).mean(-1)
        return np.concatenate([means[:, ::64].mean(0), means[::64].mean(1)])[:5]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in PHOTOS:
        Image.open(photo).convert("RGB").resize((176, 176)).save(folder / photo.name)
    return folder


def test_rfid_of_every_codec_and_rate(photos, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(calls, "load_inception", lambda *_: Small())
    report = tokcodec.evaluate(
        [str(photos)],
        tmp_path / "report",
        weights=[str(tiny)],
        baselines=("webp", "jxl"),
        bytes=(60, 400),
        rfid=True,
        device="cpu",
    )
    codec = Codec.load(str(tiny), device="cpu")
    originals = [Image.open(photo) for photo in sorted(photos.iterdir())]
    for row in report.rows:
        files = [
            codec.compress(image, fit="aspect", max_bytes=row.max_bytes) for image in originals
        ]
        decoded = [codec.decompress(file) for file in files]
        a, b = (
            np.stack([Small().features(np.asarray(image)) for image in images])
            for images in (originals, decoded)
        )
        assert row.own.rfid == pytest.approx(direct(a, b), abs=1e-3)
        for mean in row.baselines:
            assert (mean.rfid is None) == (mean.psnr is None)
    with (tmp_path / "report" / "images.csv").open() as file:
        assert "rfid" not in next(csv.reader(file))
    figures = json.loads((tmp_path / "report" / "report.json").read_text())
    assert figures["images"] == 3
    assert figures["rows"][1]["own"]["rfid"] == round(report.rows[1].own.rfid, 4)


def test_rfid_of_one_image_is_not_defined(photos, tiny, monkeypatch):
    monkeypatch.setattr(calls, "load_inception", lambda *_: Small())
    report = tokcodec.evaluate(
        [str(photos / PHOTOS[0].name)],
        weights=[str(tiny)],
        baselines=(),
        bytes=(60,),
        rfid=True,
        device="cpu",
    )
    assert report.rows[0].own.rfid is None


def test_the_command_says_what_it_is_of(run, photos, tiny, tmp_path, monkeypatch):
    command = ("evaluate", photos, "--weights", tiny, "--against", "", "--bytes", "60")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    refused = run(*command, "--rfid", status=1)
    assert b"--rfid-weights" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    monkeypatch.setattr(calls, "load_inception", lambda *_: Small())
    done = run(*command, "--rfid-weights", tmp_path / FILE)
    assert b"rFID" in done.stdout
    assert b"3 images" in done.stdout
    assert b"2,048" in done.stderr
