"""Ray on three hosts, with a network that fails: see ``hosts`` for what a host is here."""

import os
import shutil
import subprocess
import time

import numpy as np
import pytest
from conftest import GOLDEN
from hosts import Cluster
from PIL import Image

pytestmark = [pytest.mark.cluster, pytest.mark.parquet, pytest.mark.ray]

OPTIONS = ("--weights", GOLDEN / "patch.safetensors", "--rows-per-shard", "4")
# A host that is cut off is given up after some 5 seconds instead of 60.
SOON = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


@pytest.fixture
def cluster():
    """Head without CPUs, from where nothing but commands run."""
    pytest.importorskip("ray")
    if not shutil.which("ip"):
        pytest.skip("no namespaces may be made here: no ip (iproute2)")
    try:
        made = Cluster(SOON)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no namespaces may be made here: {error}")
    with made:
        made.add(cpus=0)
        yield made


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """Images that take long enough to read that hosts can be lost in the middle."""
    folder = tmp_path_factory.mktemp("slow")
    random = np.random.RandomState(0)
    for number in range(140):
        path = folder / f"{number:03}.png"
        if number < 4:
            noise = Image.fromarray(random.randint(0, 256, (500, 500, 3)).astype(np.uint8))
            noise.resize((2000, 2000), Image.Resampling.BICUBIC).save(path, compress_level=1)
        else:
            os.link(folder / f"{number % 4:03}.png", path)
    (folder / "007.png").unlink()
    (folder / "007.png").write_bytes(b"junk")
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def wait_until_shards(output, begun, count):
    while len(list(output.glob("shard-*"))) < count:
        assert begun.poll() is None, begun.stderr.read()
        time.sleep(0.05)


def test_hosts_that_are_cut_off_come_back_and_die(run, cluster, slow, tmp_path):
    first, second = cluster.add(cpus=1), cluster.add(cpus=1)
    run("tokenize", slow, "-o", tmp_path / "local", *OPTIONS, status=3)
    output = tmp_path / "ray"
    begun = cluster.tokenize(cluster.hosts[0], slow, output, *OPTIONS)
    wait_until_shards(output, begun, 3)
    cluster.link(first, "down")
    cluster.wait_for(alive=2)
    cluster.link(first, "up")
    cluster.start(first)
    cluster.wait_for(alive=3)
    assert len(contents(output)) < 34  # the last ones are those that the second host has in hand
    second.off()
    assert begun.wait(120) == 3, begun.stderr.read()
    assert contents(output) == contents(tmp_path / "local")
    assert {path.name for path in output.iterdir()} == set(contents(output))


def test_a_command_that_is_killed_resumes(run, cluster, slow, tmp_path):
    cluster.add(cpus=1)
    own = cluster.add(cpus=0)
    options = (*OPTIONS, "--limit", "40")
    run("tokenize", slow, "-o", tmp_path / "local", *options, status=3)
    output = tmp_path / "ray"
    begun = cluster.tokenize(own, slow, output, *options)
    wait_until_shards(output, begun, 2)
    own.off()
    begun.communicate(timeout=60)
    assert 2 <= len(contents(output)) < 10
    cluster.wait_for(alive=2)
    assert cluster.tokenize(cluster.hosts[0], slow, output, *options).wait(120) == 3
    assert contents(output) == contents(tmp_path / "local")
