"""The NumPy runtime gives what torch gives; ``Codec`` needs no torch for it."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import DATA, GOLDEN, PHOTOS
from small_models import CONFIGS, write

from tokcodec import Codec, checkpoint
from tokcodec.errors import CheckpointError, ImageError
from tokcodec.model.codebook import nearest
from tokcodec.model.numpy_runtime import best, erf
from tokcodec.model.runtime import choose_runtime


@pytest.fixture(params=CONFIGS)
def both(request, tmp_path):
    """One checkpoint, weights drawn from a seed, in both runtimes."""
    header = write(tmp_path / "small.safetensors", CONFIGS[request.param])
    return [Codec.load(header, "cpu", runtime=name) for name in ("torch", "numpy")]


def compare(codecs, images):
    in_torch, in_numpy = codecs
    for pixels in images:
        tokens = in_torch.encode(pixels)
        assert np.array_equal(in_numpy.encode(pixels), tokens)
        away = in_torch.decode(tokens).astype(int) - in_numpy.decode(tokens)
        assert np.abs(away).max() <= 1


def test_small_models_on_several_grids(both):
    generator = np.random.default_rng(0)
    shapes = [(2, 32, 32, 3), (1, 8, 8, 3), (1, 16, 72, 3), (1, 104, 8, 3)]
    compare(both, [generator.integers(0, 256, shape, np.uint8) for shape in shapes])


def test_the_bundled_model():
    codecs = [Codec.load(device="cpu", runtime=name) for name in ("torch", "numpy")]
    for photo in PHOTOS:
        files = [codec.compress(photo) for codec in codecs]
        assert files[0] == files[1]
        images = [np.asarray(codec.decompress(files[0])).astype(int) for codec in codecs]
        assert np.abs(images[0] - images[1]).max() <= 2  # resized after each was rounded
    noise = np.random.default_rng(0).integers(0, 256, (1, 160, 48, 3), np.uint8)
    compare(codecs, [noise, np.zeros_like(noise)])


def test_near_ties_are_decided_as_in_torch():
    torch.manual_seed(0)
    codebook = torch.randn(300, 7)
    codebook[100:200] = codebook[:100]  # twins
    codebook[200:] = codebook[:100] * (1 + 2**-22)
    z = torch.cat([codebook[::3], torch.randn(100, 7)])
    assert np.array_equal(best(z.numpy(), codebook.numpy(), dot=False), nearest(z, codebook))
    with pytest.raises(ValueError, match="NaN"):
        best(np.array([[np.nan]], np.float32), np.ones((2, 1), np.float32), dot=False)


def test_erf():
    x = np.linspace(-6, 6, 100_001, dtype=np.float32)
    exact = np.array([math.erf(value) for value in x])
    assert np.abs(erf(x) - exact).max() < 4e-7


def test_which_runtime_is_chosen():
    patch = checkpoint.find("tokcodec").config
    latent = checkpoint.find(str(GOLDEN / "latent.safetensors")).config
    assert choose_runtime(patch, "auto", "float32", 8) == "numpy"
    assert choose_runtime(patch, "auto", "float32", 9) == "torch"
    assert choose_runtime(patch, "auto", "float32") == "torch"
    assert choose_runtime(patch, "cuda", "float32", 1) == "torch"
    assert choose_runtime(patch, "cpu", "bfloat16", 1) == "torch"
    assert choose_runtime(latent, "cpu", "float32", 1) == "torch"
    with pytest.raises(ValueError, match="kind patch"):
        Codec.load(str(GOLDEN / "latent.safetensors"), runtime="numpy")
    with pytest.raises(ValueError, match="CPU"):
        Codec.load(device="cuda", runtime="numpy")


def test_one_image_each_way_does_not_load_torch(tmp_path):
    program = (
        "import json, sys\n"
        "from tokcodec.codec import Codec\n"
        "from tokcodec.cli import main\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    assert not main(arguments)\n"
        "print('torch' in sys.modules)"
    )
    there = ["encode", str(DATA / "coffee.jpg"), "-o", str(tmp_path / "a.tok")]
    back = ["decode", str(tmp_path / "a.tok"), "-o", str(tmp_path / "a.png")]
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps([there, back])], capture_output=True, check=True
    )
    assert done.stdout.split() == [b"False"], done.stderr
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize("runtime", ["torch", "numpy"])
def test_damaged_checkpoints(tmp_path, runtime):
    header, tensors = checkpoint.read(checkpoint.find("tokcodec").path)
    for change, message in (
        ({"encoder.to_embedding.bias": None}, "to_embedding.bias: the config needs"),
        ({"decoder.more": np.zeros(2, np.float32)}, "decoder.more: the config needs none"),
        ({"decoder.to_pixels.bias": np.full(3072, np.nan, np.float32)}, "NaN"),
    ):
        changed = {n: t for n, t in {**tensors, **change}.items() if t is not None}
        path = tmp_path / "a.safetensors"
        checkpoint.write(path, header.config, changed, {})
        with pytest.raises(CheckpointError, match=message):
            Codec.load(str(path), device="cpu", runtime=runtime)
    data = bytearray(header.path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged or altered"):
        Codec.load(str(path), device="cpu", runtime=runtime)


def test_the_examples_of_codec_run(monkeypatch):
    import doctest

    from tokcodec import codec

    monkeypatch.chdir(DATA.parents[1])
    given = {"np": np, "Codec": Codec, "codec": Codec.load(device="cpu", runtime="numpy")}
    given["token_file"] = given["codec"].compress("tests/data/coffee.jpg")
    failed, tried = doctest.testmod(codec, extraglobs=given)
    assert failed == 0
    assert tried > 10


def test_the_largest_file_within_a_limit():
    codec = Codec.load(device="cpu", runtime="numpy")
    for limit in (60, 150):
        file = codec.compress(PHOTOS[1], max_bytes=limit)
        assert file.file_bytes <= limit
        more = codec.compress(PHOTOS[1], tokens=file.num_tokens + 8)
        assert more.num_tokens > file.num_tokens
        assert more.file_bytes > limit
        assert list(codec.compress_stream([("a", PHOTOS[1])], max_bytes=limit)) == [("a", file)]
    assert codec.compress(PHOTOS[1], max_bytes=150, tokens=9).num_tokens == 9
    with pytest.raises(ImageError, match="smallest file has"):
        codec.compress(PHOTOS[1], max_bytes=10)
    with pytest.raises(ImageError, match="smallest file has"):
        codec.compress(PHOTOS[1], fit="tile", max_bytes=60)
