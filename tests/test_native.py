"""Images of any size through a convolutional model: geometry, files, datasets."""

import json
import zlib

import numpy as np
import pytest
import torch
from conftest import GOLDEN, PHOTOS, results
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tokcodec import Codec, TokenFile, checkpoint
from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.convolutional import ConvolutionalDecoderConfig, ConvolutionalEncoderConfig
from tokcodec.config.quantizers import BinaryConfig
from tokcodec.errors import CheckpointError, ImageError, TokenFileError
from tokcodec.model.tokenizer import Tokenizer

SHARED = {"channels": 32, "multipliers": (1, 1, 2), "blocks": 1, "middle_attention": True}
CONFIG = ModelConfig(
    encoder=ConvolutionalEncoderConfig(**SHARED),
    quantizer=BinaryConfig(embedding_dim=7),
    decoder=ConvolutionalDecoderConfig(**SHARED, doubling="depth", adaptive_norm=True),
    preprocessing=PreprocessingConfig(image_size=32),
    rounding="down",
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A convolutional checkpoint, 128 tokens, 4 pixels a token; weights drawn from a seed."""
    torch.manual_seed(0)
    model = Tokenizer(CONFIG)
    with torch.no_grad():
        model.encoder.leave.weight.mul_(3)
    path = tmp_path_factory.mktemp("native") / "conv.safetensors"
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return checkpoint.write(path, CONFIG, tensors, {})


@pytest.fixture(scope="module")
def codec(weights):
    return Codec.load(weights, device="cpu")


def noise(width, height):
    generator = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8))


@settings(max_examples=25)
@given(st.integers(1, 70), st.integers(1, 70))
def test_every_size_goes_there_and_back(codec, width, height):
    image = noise(width, height)
    file = codec.compress(image, fit="native")
    rows, columns = -(-height // 4), -(-width // 4)
    assert len(file.tokens) == rows * columns
    assert (file.version, file.fit, file.width, file.height) == (2, "native", width, height)
    again = TokenFile.from_bytes(file.to_bytes())
    assert again == file
    assert len(file.to_bytes()) == file.file_bytes
    back = codec.decompress(again)
    assert back.size == (width, height)
    # The same pixels, filled up by their edges, through the network itself.
    pixels = np.pad(np.asarray(image), ((0, -height % 4), (0, -width % 4), (0, 0)), mode="edge")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    tokens = codec.encode(tensor)
    assert tokens.flatten().tolist() == file.tokens.tolist()
    decoded = codec.decode(tokens)[0].permute(1, 2, 0) * 255
    assert np.array_equal(decoded.to(torch.uint8)[:height, :width], np.asarray(back))


def test_neighbours_change_no_token(codec):
    images = [noise(*size) for size in ((32, 32), (40, 9), (40, 9), (7, 64), (32, 32))]
    alone = [codec.compress(image, fit="native") for image in images]
    assert results(codec.compress_stream(enumerate(images), fit="native")) == alone
    decoded = results(codec.decompress_stream(enumerate(alone)))
    for file, back in zip(alone, decoded, strict=True):
        assert np.array_equal(codec.decompress(file), back)


def test_bytes_by_hand():
    file = TokenFile.packed(np.array([5, 0, 127]), 7, bytes.fromhex("01ab23cd"), 9, 4, "native")
    body = bytes.fromhex("544b 24 01ab23cd 0900 0400 07 03 05c01f")
    assert file.to_bytes() == body + zlib.crc32(body).to_bytes(4, "little")
    for flags in (0x20, 0x21, 0x25, 0x14, 0x1C, 0x34):
        other = body[:2] + bytes([flags]) + body[3:]
        with pytest.raises(TokenFileError):
            TokenFile.from_bytes(other + zlib.crc32(other).to_bytes(4, "little"))


def test_every_flipped_bit_is_caught(codec):
    data = codec.compress(noise(9, 5), fit="native").to_bytes()
    for place in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(TokenFileError):
            TokenFile.from_bytes(bytes(damaged))


def test_refusals(codec, tmp_path):
    latent = Codec.load(str(GOLDEN / "latent.safetensors"), device="cpu")
    with pytest.raises(CheckpointError, match="latent: sees only squares of 16 pixels"):
        latent.compress(PHOTOS[0], fit="native")
    Image.new("RGB", (1000, 600)).save(tmp_path / "large.png")
    with pytest.raises(ImageError, match=r"large\.png: 1000x600 pixels are 37,500 tokens, .*tile"):
        codec.compress(tmp_path / "large.png", fit="native")
    file = codec.compress(noise(8, 8), fit="native")
    longer = TokenFile.packed(file.tokens, file.bits, file.model_id, 13, 8, "native")
    with pytest.raises(TokenFileError, match="4 tokens of 7 bits where conv has 8 of 7"):
        codec.decompress(longer)
    with pytest.raises(ValueError, match="expected pixels"):
        codec.encode(torch.zeros(1, 3, 33, 32))
    with pytest.raises(ValueError, match="expected tokens"):
        latent.decode(torch.zeros(1, 2, 3, dtype=torch.int64))


def test_the_commands(run, weights, tmp_path):
    for number, size in enumerate(((50, 30), (33, 41))):
        Image.open(PHOTOS[number]).convert("RGB").resize(size).save(tmp_path / f"{number}.png")
    common = ("--weights", weights.path)
    run("encode", "0.png", "1.png", *common, "--fit", "native", "-o", "tokens", cwd=tmp_path)
    facts = json.loads(run("inspect", "tokens/0.png.tok", "--json", cwd=tmp_path).stdout)
    assert (facts["version"], facts["fit"], facts["num_tokens"]) == (2, "native", 13 * 8)
    again = run(
        "encode", "0.png", *common, "--fit", "native", "-o", "tokens/0.png.tok", cwd=tmp_path
    )
    assert b"skipped" in again.stderr
    run("decode", "tokens", *common, "-o", "images", cwd=tmp_path)
    assert Image.open(tmp_path / "images" / "1.png.png").size == (33, 41)
    said = run("encode", "0.png", "--fit", "native", cwd=tmp_path, status=1).stderr.decode()
    assert said.startswith("tokcodec: tokcodec: sees only squares of 256 pixels; take --fit")


@pytest.mark.parquet
def test_datasets(run, weights, codec, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    from tokcodec import TokenDataset, load_tokens

    (tmp_path / "a").mkdir()
    sizes = [(50, 30), (33, 41), (50, 30)]
    for number, size in enumerate(sizes):
        noise(*size).save(tmp_path / "a" / f"{number}.png")
    (tmp_path / "a" / "bad.png").write_bytes(b"no image")
    common = ("--weights", weights.path)
    run("tokenize", "a", *common, "--fit", "native", "-o", "set", cwd=tmp_path, status=3)
    (shard,) = (tmp_path / "set").glob("shard-*.parquet")
    table = pq.read_table(shard).to_pydict()
    assert table["rows"] == [8, 11, 8, None]
    assert table["columns"] == [13, 9, 13, None]
    expected = [codec.compress(noise(*size), fit="native") for size in sizes]
    tokens = load_tokens(tmp_path / "set")
    assert [row.tolist() for row in tokens] == [file.tokens.tolist() for file in expected]
    rows = TokenDataset(tmp_path / "set")
    assert [len(rows[number][0]) for number in range(3)] == [104, 99, 104]
    run("decode", "set", *common, "-o", "back", cwd=tmp_path, status=3)
    assert np.array_equal(
        Image.open(tmp_path / "back" / "1.png.png"), codec.decompress(expected[1])
    )
    said = run("export", "set", "-o", "x.npy", cwd=tmp_path, status=1).stderr
    assert b"differ in length; export to .jsonl" in said
    stats = json.loads(run("stats", "set", *common, "--json", cwd=tmp_path, status=3).stdout)
    assert stats["payload_bits"] == 7 * (104 + 99 + 104)

    # A prior of them codes native files, which say so, and tiles.
    flat = Image.new("RGB", (60, 40), (10, 120, 30))
    (tmp_path / "b").mkdir()
    for number in range(4):
        flat.crop((0, 0, 40 + 7 * number, 40)).save(tmp_path / "b" / f"{number}.png")
    run("tokenize", "b", *common, "--fit", "native", "-o", "whole", cwd=tmp_path)
    run("train-prior", "whole", *common, "-o", "prior.safetensors", cwd=tmp_path)
    with_prior = Codec.load(str(tmp_path / "prior.safetensors"), device="cpu")
    for fit, version in (("native", 2), ("crop", 2)):
        entropy_coded = with_prior.compress(flat, fit=fit)
        packed = with_prior.compress(flat, fit=fit, packed=True)
        assert entropy_coded.entropy_coded
        data = entropy_coded.to_bytes()
        assert data[2] >> 4 == version
        read = TokenFile.from_bytes(data)
        assert read.tokens_with(with_prior.header).tolist() == packed.tokens.tolist()
        for place in range(8 * len(data)):
            damaged = bytearray(data)
            damaged[place // 8] ^= 1 << place % 8
            with pytest.raises(TokenFileError):
                TokenFile.from_bytes(bytes(damaged))
