"""Peak memory of ``tokenize``: python tests/benchmarks/memory.py

Of what must be loaded alone; of 2,000 and 40,000 images with the tiny weights of the tests; and
of 2,000 with each bundled checkpoint. The images are one small JPEG under many names.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tokcodec import checkpoint

TESTS = Path(__file__).parents[1]
PEAK = "\nimport resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
COMMAND = """
from tokcodec.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
"""


def peak(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", program + PEAK, *arguments]
    return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True).split()[-1]


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    Image.open(TESTS / "data" / "coffee.jpg").resize((64, 48)).save(folder / "one.jpg")
    print(f"torch: {peak('import torch')} MiB")
    print(f"torch and pyarrow: {peak('import torch, pyarrow.parquet')} MiB")
    tiny = str(TESTS / "golden" / "patch.safetensors")
    bundled = [(header.name, 2_000) for header in checkpoint.bundled()]
    for weights, count in ((tiny, 2_000), (tiny, 40_000), *bundled):
        source = folder / str(count)
        if not source.exists():
            source.mkdir()
            for number in range(count):
                os.link(folder / "one.jpg", source / f"{number:06}.jpg")
        output = str(folder / f"{Path(weights).stem}-{count}")
        taken = peak(COMMAND, "tokenize", str(source), "-o", output, "--weights", weights)
        print(f"{Path(weights).stem}, {count:,} images: {taken} MiB")


if __name__ == "__main__":
    main()
