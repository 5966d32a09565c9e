"""Shards that actors of Ray make."""

import os
import shutil
import signal
import subprocess
import sys
import time
import types

import pytest
import torch
from conftest import COMMAND
from PIL import Image

from tokcodec import Codec

pytest.importorskip("pyarrow")

from tokenized import TINY, contents, go

pytestmark = pytest.mark.parquet


@pytest.fixture(scope="module")
def codec():
    return Codec.load(TINY, "cpu")


@pytest.mark.ray
def test_ray_gives_the_same_with_a_worker_killed(many, tmp_path):
    pytest.importorskip("ray")
    source = tmp_path / "in"
    shutil.copytree(many, source)
    (source / "cat" / "0002.png").write_bytes(b"junk")
    go([source], tmp_path / "local", rows_per_shard=40)
    options = ["--weights", TINY, "--rows-per-shard", "40", "--engine", "ray", "--actors", "2"]

    def run_and_kill(output):
        """Whether an actor could be killed before it was all over."""
        begun = subprocess.Popen(
            [COMMAND, "tokenize", str(source), "-o", str(output), *options],
            stderr=subprocess.PIPE,
            env={**os.environ, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
        )
        killed = False
        while begun.poll() is None:
            if not killed and len(list(output.glob("shard-*"))) >= 3:
                found = subprocess.run(
                    ["pgrep", "-f", "ray::MapWorker"], capture_output=True, check=False
                ).stdout.split()
                if found:
                    os.kill(int(found[0]), signal.SIGKILL)
                    killed = True
            time.sleep(0.01)
        assert begun.returncode == 3, begun.stderr.read().decode()
        assert contents(output) == contents(tmp_path / "local")
        assert {p.name for p in output.iterdir()} == set(contents(output))
        return killed

    assert any(run_and_kill(tmp_path / f"ray{attempt}") for attempt in range(3))


@pytest.mark.ray
def test_actors_have_the_limit_of_the_command(many, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # an image has 1,024
    try:
        done = go([many], tmp_path / "out", engine="ray", limit=3, rows_per_shard=3)
        assert done == (3, 3)
    finally:
        ray.shutdown()


@pytest.mark.ray
def test_what_no_machine_of_a_cluster_has_is_refused(start, many, tmp_path):
    pytest.importorskip("ray")
    options = ("--weights", TINY, "--engine", "ray", "--limit", "3", "--workers", "1000")
    said = start("tokenize", many, "-o", tmp_path / "out", *options, status=1).stderr.decode()
    assert "(CPU 1000, GPU 0)" in said


@pytest.mark.parametrize("there", [True, False])
def test_the_command_needs_no_gpu_where_actors_have_one(run, many, tmp_path, monkeypatch, there):
    handed = []

    def on_ray(task, folder, *how):
        def engine(todo, _):
            handed.append((task.settings, how))
            for shard in todo[0]:
                (folder / shard.name).touch()
            return ()

        return engine

    ray = types.SimpleNamespace(cluster_device=lambda _: "cuda" if there else "cpu", on_ray=on_ray)
    monkeypatch.setitem(sys.modules, "tokcodec.tokenize.ray", ray)

    def touched(*_):
        raise AssertionError("the command looked for a GPU")

    for name in ("is_available", "_lazy_init", "get_device_capability", "device_count"):
        monkeypatch.setattr(torch.cuda, name, touched)
    options = ("--weights", TINY, "--engine", "ray", "--limit", "3", "--shard", "0/2")
    for device, kind in (("auto", "cuda" if there else "cpu"), ("cuda", "cuda"), ("cpu", "cpu")):
        run("tokenize", many, "-o", tmp_path / device, *options, "--device", device)
        settings, how = handed.pop()
        assert (settings.device, settings.batch_size) == (kind, 64 if kind == "cuda" else 16)
        assert how == (None, 1, 1)
