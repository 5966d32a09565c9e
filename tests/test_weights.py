"""The bundled checkpoints, through the command, against what was measured."""

import zlib

import numpy as np
import pytest
from conftest import DATA
from PIL import Image

from tokcodec import Codec, TokenFile, checkpoint

# Measured by encode and decode when they were bundled, on centre crops of 256x256.
MEASURED = {
    "tokcodec": {"astronaut.png": 14.24, "chelsea.png": 20.49, "coffee.png": 16.88},
    "tokcodec": {"astronaut.png": 16.84, "chelsea.png": 22.89, "coffee.png": 20.34},
    "tokcodec": {"astronaut.png": 19.61, "chelsea.png": 25.45, "coffee.png": 22.96},
}


@pytest.mark.parametrize("name", list(MEASURED))
def test_quality_is_what_was_measured(run, tmp_path, name):
    originals = tmp_path / "originals"
    originals.mkdir()
    for photo in MEASURED[name]:
        image = Image.open(DATA / photo).convert("RGB")
        short = min(image.size)
        size = (256 * image.width // short, 256 * image.height // short)
        image = image.resize(size, Image.Resampling.BICUBIC)
        left, top = (round((edge - 256) / 2) for edge in size)
        image.crop((left, top, left + 256, top + 256)).save(originals / photo)
    run("encode", originals, "-o", tmp_path / "tokens", "--weights", name)
    run("decode", tmp_path / "tokens", "-o", tmp_path / "decoded")
    for photo, expected in MEASURED[name].items():
        a = np.asarray(Image.open(originals / photo)).astype(float)
        b = np.asarray(Image.open(tmp_path / "decoded" / f"{photo}.png"))
        psnr = 10 * np.log10(255**2 / np.mean((a - b) ** 2))
        assert psnr == pytest.approx(expected, abs=0.2), photo


@pytest.mark.parametrize("name", list(MEASURED))
def test_the_files_are_sound_and_small(name):
    header, tensors = checkpoint.read(checkpoint.find(name).path)
    assert header.path.stat().st_size < 45e6
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())
    assert header.provenance["step"] == header.provenance["recipe"]["steps"]
    assert header.provenance["held_out_psnr"] > header.provenance["held_out_psnr_at_start"]


# Token files made before a change of these ids need the checkpoints of then.
def test_the_ids_of_the_bundled_checkpoints():
    assert {
        header.name: (header.model_id[:8], header.prior_id[:8]) for header in checkpoint.bundled()
    } == {
        "tokcodec": ("4b374a0f", "74328ae1"),
        "tokcodec": ("99e92265", "c2bb8c0f"),
        "tokcodec": ("855a09a1", "8c5cfa59"),
    }


@pytest.mark.parametrize("entropy_coded", [False, True])
def test_files_of_former_ids_are_decoded(run, tmp_path, entropy_coded):
    header, tensors = checkpoint.read(checkpoint.find("tokcodec").path)
    weights = tmp_path / "weights" / "same.safetensors"
    weights.parent.mkdir()
    checkpoint.write(weights, header.config, tensors, header.provenance, ["ab" * 32])
    codec = Codec.load(str(weights), device="cpu", batch_size=1)
    token_file = codec.compress(DATA / "coffee.png", packed=not entropy_coded)
    data = token_file.to_bytes()
    data = data[:3] + bytes.fromhex("abababab") + data[7:-4]
    former = TokenFile.from_bytes(data + zlib.crc32(data).to_bytes(4, "little"))
    assert former.entropy_coded == entropy_coded
    token_file.save(tmp_path / "now.tok")
    former.save(tmp_path / "then.tok")
    assert (tmp_path / "now.tok").read_bytes() != (tmp_path / "then.tok").read_bytes()
    run("decode", tmp_path / "now.tok", tmp_path / "then.tok", "--weights", weights)
    assert (tmp_path / "now.png").read_bytes() == (tmp_path / "then.png").read_bytes()
    # It is another's file where images are encoded, and is kept.
    (tmp_path / "a.png").write_bytes((DATA / "coffee.png").read_bytes())
    former.save(tmp_path / "a.png.tok")
    refused = run("encode", tmp_path / "a.png", "--weights", weights, status=1)
    assert b"is there, of another model; -f overwrites it" in refused.stderr
