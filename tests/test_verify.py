"""``tokcodec verify``."""

import json
import shutil
from functools import partial

import numpy as np
from conftest import DATA
from PIL import Image
from tokenized import TINY

from tokcodec import checkpoint
from tokcodec.evaluate.agreement import Way, compare
from tokcodec.image import read_tiles


def test_verify(start, run, tmp_path):
    shutil.copytree(DATA, tmp_path / "photos")
    found = json.loads(start("verify", tmp_path / "photos", "--weights", TINY, "--json").stdout)
    assert [way["tokens"] for way in found] == [64] * len(found)
    assert {way["way"]["batch_size"] for way in found} == {1, 4, 16, 64}
    assert {way["way"]["dtype"] for way in found} == {"float32", "bfloat16"}
    assert found[0]["differing"] == 0
    for way in found:
        assert (way["largest_margin"] is None) == (way["differing"] == 0)
        if way["way"]["dtype"] == "float32" and way["differing"]:
            assert way["largest_margin"] < 1e-3
    text = run("verify", tmp_path / "photos", "--weights", TINY, "--limit", "2").stdout.decode()
    assert text.startswith("2 images")
    assert len(text.splitlines()) == len(found)


def test_images_of_different_grids_are_compared_together(tmp_path):
    for number, size in enumerate(((64, 48), (48, 64), (64, 48))):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    header = checkpoint.find(TINY)
    place = partial(header.config.place, "aspect")
    tiles = [
        read_tiles(path, header.config.preprocessing, lambda size: place(size)[0]).pixels
        for path in sorted(tmp_path.iterdir())
    ]
    first, second = compare(header, tiles, [Way(), Way(batch_size=2)])
    assert first.images == 3
    assert first.tokens == sum(tile.shape[1] * tile.shape[2] // 64 for tile in tiles)
    assert (first.differing, second.tokens) == (0, first.tokens)
