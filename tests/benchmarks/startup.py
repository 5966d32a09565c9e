"""Seconds that whole processes take for one image: python tests/benchmarks/startup.py

In turns: Python that only imports torch, encode with each bundled checkpoint, and decode.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tokcodec import checkpoint

PHOTO = str(Path(__file__).parents[1] / "data" / "coffee.png")
ROUNDS = 7


def main() -> None:
    folder = tempfile.mkdtemp()
    tokcodec = [sys.executable, "-m", "tokcodec"]
    names = [header.name for header in checkpoint.bundled()]
    commands = {"import torch": [sys.executable, "-c", "import torch"]}
    for name in names:
        files = f"{folder}/{name}.tok", f"{folder}/{name}.png"
        encode = [*tokcodec, "encode", PHOTO, "-f", "--weights", name, "-o", files[0]]
        commands[f"{name}: encode"] = encode
        commands[f"{name}: decode"] = [*tokcodec, "decode", files[0], "-f", "-o", files[1]]
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(1 + ROUNDS):  # in turns, because the speed of a machine drifts
        for name, command in commands.items():
            begun = time.perf_counter()
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - begun)
    for name, all_times in times.items():
        print(f"{name}: {statistics.median(all_times[1:]):.2f} s")  # the first fills caches


if __name__ == "__main__":
    main()
