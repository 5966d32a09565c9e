"""Seconds until a cluster of Ray notices what it lost: python tests/benchmarks/cluster.py

On three hosts as tests/tools/hosts.py makes them (as root, on Linux), with Ray's own settings or,
as arguments, others (``RAY_health_check_period_ms=1000``): until the head gives up a host that is
cut off and one that is killed; and until ``tokenize`` ends whose own host is cut off, and stays so.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS / "tools"))

from hosts import Cluster  # noqa: E402


def until(begun: float) -> str:
    return f"{time.perf_counter() - begun:.0f} s"


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    (folder / "in").mkdir()
    for number in range(5_000):
        shutil.copy(TESTS / "data" / "coffee.jpg", folder / "in" / f"{number:04}.jpg")
    options = ("--weights", TESTS / "golden" / "patch.safetensors", "--rows-per-shard", "50")
    with Cluster(dict(setting.split("=") for setting in sys.argv[1:])) as cluster:
        cluster.add(cpus=0)
        worker, own = cluster.add(cpus=1), cluster.add(cpus=0)
        begun = cluster.tokenize(own, folder / "in", folder / "out", *options)
        while not any((folder / "out").glob("shard-*")):
            time.sleep(0.1)
        cluster.link(own, "down")
        lost = time.perf_counter()
        cluster.wait_for(alive=2)
        print(f"a host cut off is given up after {until(lost)}", flush=True)
        said = begun.communicate()[1]
        print(f"its command ends after {until(lost)}: {said.strip()}", flush=True)
        worker.off()
        lost = time.perf_counter()
        cluster.wait_for(alive=1)
        print(f"a killed host is given up after {until(lost)}", flush=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
