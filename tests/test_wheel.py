"""A wheel is built, installed elsewhere and used: the weights and the parts of the pages must be
in it, the weights' images not."""

import os
import subprocess
import sys
from pathlib import Path

from conftest import DATA

from tokcodec import Codec
from tokcodec.checkpoint import bundled

ROOT = Path(__file__).parents[1]


def test_wheel_carries_its_weights(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "build", "-q", "-w", "-n", "-o", tmp_path / "dist", ROOT], check=True
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel],
        check=True,
    )
    weights = site / "tokcodec" / "weights"
    carried = {str(path.relative_to(weights)) for path in weights.rglob("*")}
    parts = {path.name for path in (site / "tokcodec" / "evaluate").glob("page.*")}
    assert parts == {"page.py", "page.html", "page.css", "page.js"}
    web = {path.name for path in (site / "tokcodec" / "web").iterdir() if path.suffix != ".pyc"}
    assert {path.name for path in (ROOT / "tokcodec" / "web").glob("*.*")} <= web
    assert carried == {"MODEL_CARD.md"} | {header.path.name for header in bundled()}
    assert (site / "tokcodec" / "py.typed").is_file()
    program = "import tokcodec; print(tokcodec.__file__); from tokcodec.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "encode", DATA / "coffee.jpg", "-o", tmp_path / "c.tok"],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().startswith(str(site))
    written = (tmp_path / "c.tok").read_bytes()
    assert written == Codec.load(device="cpu").compress(DATA / "coffee.jpg").to_bytes()
