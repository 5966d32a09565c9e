"""The encoder without torch: torch's codes, or none."""

import numpy as np
import pytest
from conftest import DATA, GOLDEN, PHOTOS
from PIL import Image

from tokcodec import Codec, TokenFile, checkpoint
from tokcodec.errors import CheckpointError
from tokcodec.image import read_squares
from tokcodec.model import plain

PHOTO = (DATA / "coffee.png").read_bytes()


@pytest.mark.parametrize("name", [header.name for header in checkpoint.bundled()])
def test_codes_are_torchs(name):
    codec = Codec.load(name, device="cpu")
    config = codec.config.preprocessing
    size = config.read_size
    noise = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    ramps = np.broadcast_to(np.linspace(0, 255, size).astype(np.uint8)[:, None], (1, size, size, 3))
    photos = [
        read_squares(Image.open(path).rotate(angle), config, "crop").pixels
        for path in PHOTOS
        for angle in (0, 90, 180)
    ]
    squares = np.concatenate([*photos, noise, ramps, np.zeros_like(ramps)])
    found = [plain.encode(codec.header, square[None]) for square in squares]
    called = [place for place, codes in enumerate(found) if codes is not None]
    assert len(called) > len(squares) / 2
    assert np.array_equal(
        np.concatenate([found[place] for place in called]), codec.encode_squares(squares)[called]
    )


def test_what_is_too_near_to_call_is_left_to_torch(run, tmp_path):
    header, tensors = checkpoint.read(checkpoint.find("tokcodec-16").path)
    codes = Codec.load(header, device="cpu").compress(DATA / "coffee.png").codes
    vectors = tensors["quantizer.codebook"].copy()
    twin = int(np.setdiff1d(np.arange(len(vectors)), codes)[-1])
    vectors[twin] = vectors[codes[0]]
    changed = {**tensors, "quantizer.codebook": vectors}
    twins = checkpoint.write(tmp_path / "twins.safetensors", header.config, changed, {})
    squares = read_squares(DATA / "coffee.png", header.config.preprocessing, "stretch").pixels
    assert plain.encode(header, squares) is not None
    assert plain.encode(twins, squares) is None
    run("encode", "-", "-o", tmp_path / "a.tok", "--weights", twins.path, stdin=PHOTO)
    expected = np.where(codes == twin, codes[0], codes)
    assert np.array_equal(TokenFile.load(tmp_path / "a.tok").codes, expected)


def test_what_it_cannot_do():
    header = checkpoint.find("tokcodec-16")
    squares = np.zeros((2, 64, 64, 3), np.uint8)
    assert plain.encode(header, squares) is None
    for name, side in (("latent", 16), ("patch", 32)):  # the latter's are yet to be averaged
        other = checkpoint.find(str(GOLDEN / f"{name}.safetensors"))
        assert plain.encode(other, squares[:1, :side, :side]) is None


def test_torch_says_nothing_more(run, tmp_path, tiny):
    said = run("encode", "-", "-o", tmp_path / "a.tok", "--weights", tiny, stdin=PHOTO).stderr
    assert (
        said.decode()
        == f"tokcodec: standard input -> {tmp_path / 'a.tok'}: 29 bytes, 16 codes of patch\n"
    )


def test_an_incomplete_checkpoint(run, tmp_path):
    header, tensors = checkpoint.read(checkpoint.find("tokcodec-16").path)
    del tensors["encoder.to_code.bias"]
    checkpoint.write(tmp_path / "a.safetensors", header.config, tensors, {})
    arguments = ("-o", tmp_path / "a.tok", "--weights", tmp_path / "a.safetensors")
    refused = run("encode", DATA / "coffee.png", *arguments, status=1)
    assert b"tensor encoder.to_code.bias: the config asks for" in refused.stderr


def test_a_damaged_checkpoint(tmp_path):
    data = bytearray(checkpoint.find("tokcodec-16").path.read_bytes())
    data[-1] ^= 1
    (tmp_path / "a.safetensors").write_bytes(data)
    header = checkpoint.read_header(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="damaged or altered"):
        plain.encode(header, np.zeros((1, 64, 64, 3), np.uint8))
