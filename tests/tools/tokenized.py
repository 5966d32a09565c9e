"""What the tests of datasets share: small images, and a run with the tiny checkpoint."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

import tokcodec

TINY = str(Path(__file__).parents[1] / "golden" / "patch.safetensors")


def image(seed, size=(32, 32)):
    """A small PNG of coarse noise."""
    noise = np.random.RandomState(seed).randint(0, 256, (4, 4, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def go(sources, output, **more):
    """``tokcodec.tokenize``; gives the rows and the failed rows."""
    options = {"weights": TINY, "device": "cpu", "rows_per_shard": 100, "workers": 1}
    result = tokcodec.tokenize(sources, output, **{**options, **more})
    return result.rows, result.failed


def rows(path):
    files = sorted(path.glob("shard-*.parquet")) if path.is_dir() else [path]
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}
