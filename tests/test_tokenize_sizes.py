"""Datasets of other sizes than a checkpoint's own: aspect ratios and squares of any model."""

import io

import numpy as np
import published
import pytest
import torch
from conftest import GOLDEN
from PIL import Image
from test_families import CONVOLUTIONAL

from tokcodec import Codec, checkpoint, load_tokens
from tokcodec.errors import ArgumentError, CheckpointError, DatasetError, OutputError
from tokcodec.families import convert
from tokcodec.families.source import locate

pytest.importorskip("pyarrow")

from tokenized import TINY, go, image, rows

from tokcodec.dataset.reader import open_dataset, token_files

pytestmark = pytest.mark.parquet


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_every_convolutional_family_takes_any_size(name, tmp_path):
    config, tensors = convert(locate(str(published.write_golden(name, tmp_path))), image_size=64)
    weights = str(checkpoint.write(tmp_path / "own.safetensors", config, tensors, {}).path)
    codec, multiple = Codec.load(weights, "cpu"), config.multiple
    (tmp_path / "a.png").write_bytes(image(1, (90, 60)))
    for output, options, grid in (
        ("aspect", {"fit": "aspect", "tokens": 6}, (2, 3)),
        ("square", {"fit": "stretch", "image_size": 2 * multiple}, (2, 2)),
    ):
        go([tmp_path / "a.png"], tmp_path / output, weights=weights, **options)
        (row,) = rows(tmp_path / output)
        size = (grid[1] * multiple, grid[0] * multiple)
        seen = Image.open(tmp_path / "a.png").resize(size, Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(seen)).permute(2, 0, 1)[None] / 255
        with torch.inference_mode():
            assert row["tokens"] == codec.encode(pixels).flatten().tolist()
        ((_, file),) = token_files(open_dataset(tmp_path / output))
        assert (file.rows, file.columns) == grid
        assert codec.decompress(file).size == (90, 60)


@pytest.mark.parametrize("fit", ["stretch", "crop", "aspect"])
def test_image_sizes_of_the_bundled_kind(run, fit, tmp_path):
    (tmp_path / "a.png").write_bytes(image(1, (90, 60)))
    command = ("tokenize", tmp_path / "a.png", "--weights", TINY, "--fit", fit, "-o")
    side = Codec.load(TINY, "cpu").config.multiple * 6
    run(*command, tmp_path / "out", "--image-size", side)
    run(*command, tmp_path / "same", "--tokens", 36)
    assert rows(tmp_path / "out") == rows(tmp_path / "same")
    run(*command, tmp_path / "out", "--tokens", 36)  # which is the same run
    with pytest.raises(OutputError, match="was made with tokens 36, not 16"):
        go([tmp_path / "a.png"], tmp_path / "out", fit=fit, rows_per_shard=10_000)
    if fit != "aspect":
        assert load_tokens(tmp_path / "out").shape == (1, 36)
        run("export", tmp_path / "out", "-o", tmp_path / "out.npy")
        assert np.load(tmp_path / "out.npy").shape == (1, 36)
    run("decode", tmp_path / "out", "-o", tmp_path / "back", "--weights", TINY)
    expected = (60, 60) if fit == "crop" else (90, 60)
    assert Image.open(tmp_path / "back" / "a.png.png").size == expected


def test_sizes_that_a_checkpoint_does_not_take(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    source, latent = [tmp_path / "a.png"], str(GOLDEN / "latent.safetensors")
    own = checkpoint.find(latent).config.preprocessing.image_size
    assert go(source, tmp_path / "own", weights=latent, image_size=own, fit="crop") == (1, 0)
    for options, error, message in (
        ({"weights": latent, "image_size": own * 2}, CheckpointError, "latent: takes only squares"),
        ({"image_size": 33}, CheckpointError, "patch: takes image sizes that are multiples of 8"),
        ({"image_size": 1 << 14}, CheckpointError, "takes from 1 to 16,384 tokens"),
        ({"image_size": 64, "tokens": 9}, ArgumentError, "exclude each other"),
        ({"image_size": 64, "fit": "native"}, DatasetError, "native has no number of tokens"),
    ):
        with pytest.raises(error, match=message):
            go(source, tmp_path / "x", **options)
