"""The bundled checkpoint, through the command, against what was measured when it was bundled."""

import numpy as np
import pytest
from conftest import DATA
from PIL import Image

from tokcodec import checkpoint

# PSNR in dB of the whole photo in its own size, by the number of tokens.
MEASURED = {
    16: {"astronaut.png": 14.04, "chelsea.png": 20.51, "coffee.png": 16.97},
    64: {"astronaut.png": 16.75, "chelsea.png": 22.92, "coffee.png": 19.95},
    256: {"astronaut.png": 19.75, "chelsea.png": 25.84, "coffee.png": 22.28},
}


@pytest.mark.parametrize("tokens", list(MEASURED))
def test_quality_is_what_was_measured(run, tmp_path, tokens):
    photos = [DATA / name for name in MEASURED[tokens]]
    run("encode", *photos, "-o", tmp_path / "tokens", "--tokens", tokens)
    run("decode", tmp_path / "tokens", "-o", tmp_path / "decoded")
    for photo in photos:
        original = np.asarray(Image.open(photo).convert("RGB")).astype(float)
        decoded = np.asarray(Image.open(tmp_path / "decoded" / f"{photo.name}.png"))
        psnr = 10 * np.log10(255**2 / np.mean((original - decoded) ** 2))
        assert psnr == pytest.approx(MEASURED[tokens][photo.name], abs=0.05), photo.name


def test_the_file_is_sound_and_small():
    (header,) = checkpoint.bundled()
    _, tensors = checkpoint.read(header.path)
    assert header.name == "tokcodec"
    assert header.prior_id
    assert header.path.stat().st_size < 20e6
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())
    assert header.provenance["step"] == header.provenance["recipe"]["steps"]
    psnr, start = (header.provenance[f"held_out_psnr{when}"] for when in ("", "_at_start"))
    assert psnr.keys() == start.keys() == {"16", "64", "256", "576"}
