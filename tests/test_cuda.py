"""On a GPU: ``pytest -m cuda``. What it gives is compared with the processor."""

import shutil
import signal
import subprocess
import time

import numpy as np
import published
import pytest
import torch
from conftest import COMMAND, DATA, GOLDEN, PHOTOS, read_fitted, results

from tokcodec import Codec, checkpoint
from tokcodec.errors import DeviceError

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: -m cuda"),
]
DEVICE = "cuda"
DTYPES = ("float32", "bfloat16")
# By how much z may differ from the processor's, over its largest number. Of float32 in another
# order of summation, TF32 in convolutions included (11 bits, as many layers as there are); of
# bfloat16 (8 bits).
NEAR = {"float32": 2e-2, "bfloat16": 1e-1}
LEVELS = {"float32": 2, "bfloat16": 16}  # of 255, that decoded pixels may differ by

MODELS = [header.name for header in checkpoint.bundled()]
MODELS += ["patch", "latent"]
MODELS += sorted(path.name for path in published.FOLDER.iterdir() if path.is_dir())


@pytest.fixture(scope="module", params=MODELS)
def reference(request, tmp_path_factory):
    """A model on the processor, three tiles as it reads them, its z and tokens of them, and what
    it decodes of the first two."""
    name = request.param
    if (published.FOLDER / name).is_dir():
        folder = tmp_path_factory.mktemp(name)
        if "file" in (published.FOLDER / name / "parameters.json").read_text():
            name = str(published.write_golden(name, folder))
        else:
            name = str(published.write(folder, *published.golden(name)))
    elif name in ("patch", "latent"):
        name = str(GOLDEN / f"{name}.safetensors")
    codec = Codec.load(name, "cpu", batch_size=2)
    read = [read_fitted(photo, codec.config.preprocessing, "crop").pixels for photo in PHOTOS]
    tiles = np.concatenate(read)
    tokens = codec.encode_tiles(tiles)
    images = codec.decode(torch.from_numpy(tokens[:2]))
    return request.param, codec, tiles, z_of(codec, tiles), tokens, images


def skip_if_chaotic(name, dtype):
    """The deep transformers with weights drawn from a seed: roundings of float32 grow to 1e-3 of
    z in them (tests/test_families.py), 2^16 times as large ones to z itself."""
    if dtype == "bfloat16" and name.startswith(("titok", "one_d_piece")):
        pytest.skip("bfloat16 means nothing in this network, whose weights are random")


@torch.inference_mode()
def z_of(codec, tiles):
    runtime, config = codec.runtime, codec.config.preprocessing
    low = runtime.dtype == "bfloat16"
    with torch.autocast(runtime.torch_device.type, torch.bfloat16, enabled=low):
        pixels = torch.from_numpy(tiles).to(runtime.device)
        scale = config.pixel_scale // config.read_scale
        return codec.model.z(runtime.preprocess(pixels, scale)).cpu()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tokens_are_those_of_the_processor(reference, dtype, compiled):
    name, cpu, tiles, expected, theirs, _ = reference
    skip_if_chaotic(name, dtype)
    codec = Codec.load(cpu.header, DEVICE, batch_size=2, dtype=dtype, compiled=compiled)
    z = z_of(codec, tiles)
    moved = (z - expected).abs().max() / expected.abs().max()
    assert moved < NEAR[dtype]
    # Where the processor's margin is larger than any z that has moved so far could bridge.
    quantizer = cpu.model.quantizer
    margins = quantizer.margins(expected).numpy()
    far = float(quantizer.margins(z).sub(torch.from_numpy(margins)).abs().max())
    decided = margins > 4 * far
    tokens = codec.encode_tiles(tiles)
    assert np.array_equal(tokens[decided], theirs[decided])
    # The search itself is exact: of the same z, the same tokens everywhere.
    with torch.inference_mode():
        there = codec.model.quantizer.tokens(z.to(codec.runtime.device)).cpu()
        assert torch.equal(there, quantizer.tokens(z))


@pytest.mark.parametrize("dtype", DTYPES)
def test_images_are_those_of_the_processor(reference, dtype):
    name, cpu, _, _, tokens, images = reference
    skip_if_chaotic(name, dtype)
    codec = Codec.load(cpu.header, DEVICE, batch_size=2, dtype=dtype)
    away = (codec.decode(torch.from_numpy(tokens[:2])).cpu() - images).abs()
    assert away.max() * 255 < 8 * LEVELS[dtype]
    assert away.mean() * 255 < LEVELS[dtype] / 4


@pytest.mark.parametrize("setting", ["highest", "high", "medium"])
def test_the_search_is_exact_whatever_is_set(setting):
    cpu = Codec.load("tokcodec", "cpu")
    z = torch.randn(3000, 32, generator=torch.Generator().manual_seed(0)) / 8
    codec = Codec.load("tokcodec", DEVICE)
    expected = cpu.model.quantizer.tokens(z)
    torch.set_float32_matmul_precision(setting)
    try:
        tokens = codec.model.quantizer.tokens(z.to(DEVICE))
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(tokens.cpu(), expected)


def test_many_batches_at_once_are_the_same_as_one_by_one():
    codec = Codec.load("tokcodec", DEVICE, batch_size=4)
    photos = [*PHOTOS] * 20
    alone = [codec.compress(photo) for photo in PHOTOS] * 20
    assert results(codec.compress_stream(enumerate(photos), workers=4)) == alone
    images = results(codec.decompress_stream(enumerate(alone), workers=4))
    for file, image in zip(alone[:3], images[-3:], strict=True):
        assert np.array_equal(codec.decompress(file), image)


def tokenize(source, output, *options, stop_at=None):
    """The command, killed when there are so many shards."""
    command = [COMMAND, "tokenize", source, "-o", output, "--rows-per-shard", "4", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while stop_at and process.poll() is None:
        if len(list(output.glob("shard-*"))) >= stop_at:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.01)
    said = process.communicate()[1].decode()
    assert process.returncode in ((0, -signal.SIGKILL) if stop_at else (0,)), said


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("shard-*.parquet")}


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(40):
        shutil.copy(DATA / "coffee.jpg", tmp_path / "photos" / f"{number:02}.jpg")
    shutil.copy(PHOTOS[0], tmp_path / "photos" / "astronaut.png")
    return tmp_path / "photos"


@pytest.mark.parquet
def test_tokenize_goes_on_after_a_kill(photos, tmp_path):
    pytest.importorskip("pyarrow")
    from tokcodec import load_tokens

    tokenize(photos, tmp_path / "whole", "--device", DEVICE)
    tokenize(photos, tmp_path / "broken", "--device", DEVICE, stop_at=2)
    tokenize(photos, tmp_path / "broken", "--device", DEVICE)
    size = load_tokens(tmp_path / "whole").shape
    assert size == (41, 64)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
    tokenize(photos, tmp_path / "cpu", "--device", "cpu")
    there, here = (load_tokens(tmp_path / name) for name in ("whole", "cpu"))
    assert (there == here).mean() > 0.98  # NEAR z, few tokens of these photos are near a border


@pytest.mark.parquet
@pytest.mark.ray
def test_an_actor_with_a_gpu(photos, tmp_path):
    pytest.importorskip("pyarrow")
    pytest.importorskip("ray")
    tokenize(photos, tmp_path / "here", "--device", DEVICE)
    tokenize(photos, tmp_path / "ray", "--device", "auto", "--engine", "ray")
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")


def test_too_little_memory_is_an_error():
    codec = Codec.load("tokcodec", DEVICE)
    total = torch.cuda.get_device_properties(codec.runtime.device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(100e6 / total)  # weights and context take some
    try:
        with pytest.raises(DeviceError, match="memory"):
            list(codec.compress_stream(enumerate(PHOTOS)))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(results(codec.compress_stream(enumerate(PHOTOS)))) == 3
