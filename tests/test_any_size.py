"""Models that take grids of any size: geometry, files, byte limits, datasets."""

import json

import numpy as np
import pytest
import torch
from conftest import PHOTOS
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tokcodec import Codec, TokenFile, checkpoint
from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.convolutional import ConvolutionalDecoderConfig, ConvolutionalEncoderConfig
from tokcodec.config.quantizers import BinaryConfig, CodebookConfig
from tokcodec.config.vit import PatchDecoderConfig, PatchEncoderConfig
from tokcodec.errors import CheckpointError, ImageError, TokenFileError
from tokcodec.model.tokenizer import Tokenizer

SHARED = {"channels": 32, "multipliers": (1, 1, 2), "blocks": 1, "middle_attention": True}
SPATIAL = {
    "channels": 32,
    "multipliers": (1, 1, 2),
    "blocks": (1, 2, 1),
    "attention": (2,),
    "haar_steps": 1,
    "embedding_channels": 7,
    "head_widths": (9, 7),
    "head_blocks": 1,
}
CONFIGS = {
    # 4 pixels per token
    "convolutional": ModelConfig(
        encoder=ConvolutionalEncoderConfig(**SHARED),
        quantizer=BinaryConfig(embedding_dim=7),
        decoder=ConvolutionalDecoderConfig(**SHARED, doubling="depth", adaptive_norm=True),
        preprocessing=PreprocessingConfig(image_size=32),
        rounding="down",
    ),
    "spatial": ModelConfig(
        encoder=ConvolutionalEncoderConfig(**SPATIAL, kept_levels=2),
        quantizer=BinaryConfig(embedding_dim=7, first_bit="highest"),
        decoder=ConvolutionalDecoderConfig(**SPATIAL, kept_levels=2, norm="spatial"),
        preprocessing=PreprocessingConfig(image_size=32),
    ),
    "patch": ModelConfig(
        encoder=PatchEncoderConfig(width=16, layers=1, heads=2, patch_size=2),
        quantizer=CodebookConfig(codebook_size=100, embedding_dim=4),
        decoder=PatchDecoderConfig(width=16, layers=1, heads=2, patch_size=4, pixel_overlap=2),
        preprocessing=PreprocessingConfig(image_size=32, pixel_scale=2, resize="direct"),
        default_fit="aspect",
    ),
}
LIMITS = (
    30,
    33,
    36,
    40,
    45,
    50,
    57,
    64,
    80,
    100,
    120,
    150,
    180,
    232,
    300,
    434,
    600,
    800,
    1000,
    1500,
)


@pytest.fixture(scope="module", params=list(CONFIGS))
def weights(request, tmp_path_factory):
    """A checkpoint with 4 pixels per token, and weights drawn from a seed."""
    config = CONFIGS[request.param]
    torch.manual_seed(0)
    model = Tokenizer(config)
    with torch.no_grad():
        if request.param != "patch":
            model.encoder.leave.weight.mul_(3)
            for name, parameter in model.named_parameters():
                if "head.blocks" in name and name.endswith(("scale", "shift")):
                    parameter.fill_(0.5)  # they have no values until they are loaded
        else:
            torch.nn.init.normal_(model.quantizer.codebook)
            torch.nn.init.normal_(model.encoder.positions.table)
            torch.nn.init.normal_(model.decoder.positions.table)
    path = tmp_path_factory.mktemp("any") / f"{request.param}.safetensors"
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return checkpoint.write(path, config, tensors, {})


@pytest.fixture(scope="module")
def codec(weights):
    return Codec.load(weights, device="cpu")


@pytest.fixture(scope="module")
def bundled():
    return Codec.load(device="cpu")


def noise(width, height):
    generator = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8))


@settings(max_examples=25)
@given(st.integers(1, 70), st.integers(1, 70))
def test_every_size_round_trips_in_native_resolution(codec, width, height):
    image = noise(width, height)
    file = codec.compress(image, fit="native", packed=True)
    assert (file.rows, file.columns) == (-(-height // 4), -(-width // 4))
    assert (file.fit, file.width, file.height) == ("native", width, height)
    again = TokenFile.from_bytes(file.to_bytes())
    assert again == file
    assert codec.decompress(again).size == (width, height)
    # The same pixels, filled up by their edges, through the network itself.
    pixels = np.pad(np.asarray(image), ((0, -height % 4), (0, -width % 4), (0, 0)), mode="edge")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    if codec.config.preprocessing.pixel_scale == 1:
        assert codec.encode(tensor).flatten().tolist() == file.tokens.tolist()


@settings(max_examples=40)
@given(st.integers(1, 32), st.integers(1, 32))
def test_every_grid_round_trips(codec, rows, columns):
    # An image whose best grid of rows * columns tokens is this one: its tokens are square.
    image = noise(columns * 4, rows * 4)
    file = codec.compress(image, fit="aspect", tokens=rows * columns)
    assert (file.rows, file.columns) == (rows, columns)
    again = TokenFile.from_bytes(file.to_bytes())
    assert again.tokens_with(codec.header).tolist() == file.tokens.tolist()
    assert codec.decompress(again).size == image.size


@settings(max_examples=40)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 200))
def test_every_aspect_ratio_round_trips(codec, width, height, tokens):
    image = Image.new("RGB", (width, height), (200, 30, 90))
    file = codec.compress(image, fit="aspect", tokens=tokens)
    assert file.num_tokens <= tokens
    assert codec.decompress(file, size=40).width <= 40
    assert (file.width, file.height) == (width, height)


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (2000, 20), (20, 2000)])
def test_extreme_shapes_with_the_bundled_model(bundled, size):
    file = bundled.compress(noise(*size))
    assert file.num_tokens <= 64
    again = TokenFile.from_bytes(file.to_bytes())
    assert bundled.decompress(again, size="original").size == size


def test_the_other_images_of_a_stream_change_no_token(codec):
    images = [noise(*size) for size in ((32, 32), (40, 9), (40, 9), (7, 64), (32, 32))]
    for fit in ("native", "aspect"):
        alone = [codec.compress(image, fit=fit, tokens=None) for image in images]
        together = dict(codec.compress_stream(enumerate(images), fit=fit))
        assert [together[number] for number in range(5)] == alone
        for number, image in codec.decompress_stream(enumerate(alone)):
            assert np.array_equal(codec.decompress(alone[number]), image)


def test_images_of_one_shape_are_encoded_together(codec, monkeypatch):
    batches = []
    encode = codec.runtime.encode
    monkeypatch.setattr(
        codec.runtime, "encode", lambda x, *rest: batches.append(len(x)) or encode(x, *rest)
    )
    wide, tall = noise(96, 32), noise(32, 96)
    count = max(2, codec.batch_size)
    mixed = [wide, tall] * count
    alone = [codec.compress(image) for image in mixed]
    batches.clear()
    assert [file for _, file in codec.compress_stream(enumerate(mixed))] == alone
    assert sum(batches) == len(mixed)
    assert len(batches) <= 2 * -(-len(mixed) // codec.batch_size)


def test_byte_limits_are_kept_and_used(bundled):
    used = []
    for number, limit in enumerate(LIMITS):
        file = bundled.compress(PHOTOS[number % len(PHOTOS)], max_bytes=limit)
        assert len(file.to_bytes()) <= limit
        used.append(file.file_bytes / limit)
    assert np.mean(used) >= 0.9
    again = bundled.compress(PHOTOS[0], max_bytes=LIMITS[0])
    assert again == bundled.compress(PHOTOS[0], max_bytes=LIMITS[0])
    text = bundled.compress(PHOTOS[0], max_bytes=100, text=True)
    assert 85 <= len(text.to_text()) <= 100


def test_the_best_of_several_grids(bundled, run, tmp_path):
    def error(file, photo):
        shown = np.asarray(bundled.decompress(file)).astype(int)
        return np.square(shown - np.asarray(Image.open(photo).convert("RGB"))).mean()

    gains = []
    for limit in ({"max_bytes": 40}, {"max_bytes": 100}, {"tokens": 24}):
        usual, best = (
            dict(bundled.compress_stream(zip(PHOTOS, PHOTOS, strict=True), best=best, **limit))
            for best in (False, True)
        )
        for photo in PHOTOS:
            assert best[photo].file_bytes <= limit.get("max_bytes", 100)
            assert best[photo].num_tokens <= limit.get("tokens", 100)
            gains.append(error(usual[photo], photo) - error(best[photo], photo))
    assert min(gains) >= 0
    assert max(gains) > 0
    run("encode", PHOTOS[-1], "--tokens", 24, "--best", "-o", tmp_path / "a.tok")
    assert TokenFile.load(tmp_path / "a.tok") == best[PHOTOS[-1]]
    for other in ({"fit": "stretch"}, {"fit": "native"}):
        with pytest.raises(CheckpointError, match="shapes"):
            bundled.compress(PHOTOS[0], best=True, **other)


def test_a_limit_below_the_smallest_file_is_refused(bundled):
    smallest = bundled.compress(PHOTOS[0], tokens=1).file_bytes
    assert bundled.compress(PHOTOS[0], max_bytes=smallest).num_tokens >= 1
    with pytest.raises(ImageError, match=str(smallest)):
        bundled.compress(PHOTOS[0], max_bytes=smallest - 1)


def test_refusals(codec, tmp_path):
    Image.new("RGB", (1000, 600)).save(tmp_path / "large.png")
    with pytest.raises(ImageError, match=r"large\.png"):
        codec.compress(tmp_path / "large.png", fit="native")
    with pytest.raises(CheckpointError):
        codec.compress(PHOTOS[0], tokens=0)
    file = codec.compress(noise(8, 8), fit="native", packed=True)
    wider = TokenFile.packed(file.grid, file.bits, file.model_id, 13, 8, "native")
    with pytest.raises(TokenFileError):
        codec.decompress(wider)
    with pytest.raises(ValueError, match="expected"):
        codec.encode(torch.zeros(1, 3, 33, 32))


def test_a_model_of_one_size_has_no_fit_of_any_size():
    from conftest import GOLDEN

    latent = Codec.load(str(GOLDEN / "latent.safetensors"), device="cpu")
    for fit in ("native", "aspect"):
        with pytest.raises(CheckpointError, match="latent"):
            latent.compress(PHOTOS[0], fit=fit)


def test_the_commands(run, weights, tmp_path):
    for number, size in enumerate(((50, 30), (33, 41))):
        Image.open(PHOTOS[number]).convert("RGB").resize(size).save(tmp_path / f"{number}.png")
    common = ("--weights", weights.path)
    for fit, grid in (("native", (8, 13)), ("aspect", (4, 8))):
        fitted = (*common, "--fit", fit)
        tokens = ("--tokens", "32") if fit == "aspect" else ()
        run("encode", "0.png", "1.png", *fitted, *tokens, "-o", fit, cwd=tmp_path)
        facts = json.loads(run("inspect", f"{fit}/0.png.tok", "--json", cwd=tmp_path).stdout)
        assert (facts["fit"], facts["rows"], facts["columns"]) == (fit, *grid)
        run("decode", fit, *common, "-o", f"{fit}-images", cwd=tmp_path)
        assert Image.open(tmp_path / f"{fit}-images" / "1.png.png").size == (33, 41)


@pytest.mark.parquet
def test_datasets_have_rows_and_columns(run, weights, codec, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    from tokcodec import TokenDataset, load_tokens

    (tmp_path / "a").mkdir()
    sizes = [(50, 30), (33, 41), (50, 30)]
    for number, size in enumerate(sizes):
        noise(*size).save(tmp_path / "a" / f"{number}.png")
    (tmp_path / "a" / "bad.png").write_bytes(b"no image")
    common = ("--weights", weights.path)
    for fit in ("native", "aspect"):
        run("tokenize", "a", *common, "--fit", fit, "-o", fit, cwd=tmp_path, status=3)
        (shard,) = (tmp_path / fit).glob("shard-*.parquet")
        table = pq.read_table(shard).to_pydict()
        expected = [codec.compress(noise(*size), fit=fit) for size in sizes]
        assert table["rows"] == [*(file.rows for file in expected), None]
        assert table["columns"] == [*(file.columns for file in expected), None]
        tokens = load_tokens(tmp_path / fit)
        assert [row.tolist() for row in tokens] == [file.tokens.tolist() for file in expected]
        rows = TokenDataset(tmp_path / fit)
        assert [len(rows[number][0]) for number in range(3)] == [f.num_tokens for f in expected]
        run("decode", fit, *common, "-o", f"{fit}-back", cwd=tmp_path, status=3)
        assert np.array_equal(
            Image.open(tmp_path / f"{fit}-back" / "1.png.png"), codec.decompress(expected[1])
        )
