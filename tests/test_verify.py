"""``tokcodec verify``."""

import json
import shutil

from conftest import DATA
from tokenized import TINY


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
    assert "2 images, patch; compared with cpu, float32, batch 16" in text
