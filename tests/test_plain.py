"""The encoder without torch: torch's tokens, or none."""

import numpy as np
import pytest
from conftest import DATA, GOLDEN, PHOTOS
from PIL import Image

from tokcodec import Codec, TokenFile, checkpoint
from tokcodec.errors import CheckpointError
from tokcodec.image import read_tiles
from tokcodec.model import plain

PHOTO = (DATA / "coffee.png").read_bytes()


@pytest.mark.parametrize("name", [header.name for header in checkpoint.bundled()])
def test_tokens_are_torchs(name):
    codec = Codec.load(name, device="cpu")
    config = codec.config.preprocessing
    size = config.read_size
    noise = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    ramps = np.broadcast_to(np.linspace(0, 255, size).astype(np.uint8)[:, None], (1, size, size, 3))
    photos = [
        read_tiles(Image.open(path).rotate(angle), config, "crop").pixels
        for path in PHOTOS
        for angle in (0, 90, 180)
    ]
    tiles = np.concatenate([*photos, noise, ramps, np.zeros_like(ramps)])
    found = [plain.encode(codec.header, square[None]) for square in tiles]
    called = [place for place, tokens in enumerate(found) if tokens is not None]
    assert len(called) > len(tiles) / 2
    assert np.array_equal(
        np.concatenate([found[place] for place in called]),
        codec.encode_tiles(tiles)[called].reshape(len(called), -1),
    )


def test_what_is_too_near_to_call_is_left_to_torch(run, tmp_path):
    header, tensors = checkpoint.read(checkpoint.find("tokcodec").path)
    tokens = Codec.load(header, device="cpu").compress(DATA / "coffee.png").tokens
    vectors = tensors["quantizer.codebook"].copy()
    twin = int(np.setdiff1d(np.arange(len(vectors)), tokens)[-1])
    vectors[twin] = vectors[tokens[0]]
    changed = {**tensors, "quantizer.codebook": vectors}
    twins = checkpoint.write(tmp_path / "twins.safetensors", header.config, changed, {})
    tiles = read_tiles(DATA / "coffee.png", header.config.preprocessing, "stretch").pixels
    assert plain.encode(header, tiles) is not None
    assert plain.encode(twins, tiles) is None
    run("encode", "-", "-o", tmp_path / "a.tok", "--weights", twins.path, stdin=PHOTO)
    expected = np.where(tokens == twin, tokens[0], tokens)
    assert np.array_equal(TokenFile.load(tmp_path / "a.tok").tokens, expected)


def test_what_it_cannot_do():
    header = checkpoint.find("tokcodec")
    tiles = np.zeros((2, 64, 64, 3), np.uint8)
    assert plain.encode(header, tiles) is None
    for name, side in (("latent", 16), ("patch", 32)):  # the latter's are yet to be averaged
        other = checkpoint.find(str(GOLDEN / f"{name}.safetensors"))
        assert plain.encode(other, tiles[:1, :side, :side]) is None


def test_torch_says_nothing_more(run, tmp_path, tiny):
    said = run("encode", "-", "-o", tmp_path / "a.tok", "--weights", tiny, stdin=PHOTO).stderr
    assert (
        said.decode()
        == f"tokcodec: standard input -> {tmp_path / 'a.tok'}: 29 bytes, 16 tokens of patch\n"
    )


def test_an_incomplete_checkpoint(run, tmp_path):
    header, tensors = checkpoint.read(checkpoint.find("tokcodec").path)
    del tensors["encoder.to_embedding.bias"]
    checkpoint.write(tmp_path / "a.safetensors", header.config, tensors, {})
    arguments = ("-o", tmp_path / "a.tok", "--weights", tmp_path / "a.safetensors")
    refused = run("encode", DATA / "coffee.png", *arguments, status=1)
    assert b"tensor encoder.to_embedding.bias: the config asks for" in refused.stderr


def test_a_damaged_checkpoint(tmp_path):
    data = bytearray(checkpoint.find("tokcodec").path.read_bytes())
    data[-1] ^= 1
    (tmp_path / "a.safetensors").write_bytes(data)
    header = checkpoint.read_header(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="damaged or altered"):
        plain.encode(header, np.zeros((1, 64, 64, 3), np.uint8))
