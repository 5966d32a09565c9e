"""Peak memory of ``tokenize`` on 2,000 and on 40,000 pictures: python tests/benchmarks/memory.py

The pictures are one small JPEG under many names, the weights the tiny ones of the tests.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

TESTS = Path(__file__).parents[1]
PROGRAM = """
import resource
from tokcodec.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    Image.open(TESTS / "data" / "coffee.jpg").resize((64, 48)).save(folder / "one.jpg")
    for count in (2_000, 40_000):
        source = folder / str(count)
        source.mkdir()
        for number in range(count):
            os.link(folder / "one.jpg", source / f"{number:06}.jpg")
        arguments = ["tokenize", str(source), "-o", str(folder / f"out{count}"), "--weights"]
        peak = subprocess.check_output(
            [sys.executable, "-c", PROGRAM, *arguments, str(TESTS / "golden" / "patch.safetensors")]
        )
        print(f"{count:,} pictures: {int(peak)} MiB")


if __name__ == "__main__":
    main()
