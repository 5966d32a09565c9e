"""Two processes do what one does."""

import subprocess
import sys

import numpy as np
import pytest
from training import PATCH, make_crops

from tokcodec import checkpoint


def test_two_processes_do_what_one_does(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, crop in enumerate(make_crops(40, 48, 32)):
        crop.save(photos / f"{number}.png")
    (tmp_path / "model.json").write_text(PATCH.to_json())

    def train(output, *launcher):
        command = [
            *(sys.executable, "-m", *launcher, "tokcodec", "train", photos),
            *("-o", tmp_path / output, "--model", tmp_path / "model.json", "--rate-weight", "1e-4"),
            # Enough tokens for at least two images of the largest grid, one for each process.
            *("--steps", "6", "--report-every", "3", "--batch-tokens", "2048", "--warmup", "5"),
            *("--device", "cpu", "--dtype", "float32"),
        ]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.decode() == f"{tmp_path / output / 'model.safetensors'}\n"
        return done.stderr.count(b"held-out PSNR")

    several = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    assert train("one") == 2
    assert train("two", *several) == 2
    one, two = (checkpoint.read(tmp_path / way / "model.safetensors") for way in ("one", "two"))
    for name, tensor in one[1].items():
        np.testing.assert_allclose(two[1][name], tensor, atol=2e-3, err_msg=name)
    psnr = [header.provenance["held_out_psnr"] for header, _ in (one, two)]
    assert psnr[0] == pytest.approx(psnr[1], abs=0.02)
    assert train("two") == 0  # one process can take over from two
