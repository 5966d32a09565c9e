"""``--fit tile`` beside WebP at the same bytes: python tests/benchmarks/tile.py [PHOTO...]

PSNR over the whole photo, of the bundled default checkpoint, entropy-coded, and of the best that
WebP does in no more bytes over sizes and qualities. Without photos, of those in tests/data.
"""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tokcodec import Codec
from tokcodec.evaluate.metrics import psnr
from tokcodec.image import to_rgb

DATA = Path(__file__).parents[1] / "data"
SCALES = (1.0, 0.75, 0.5, 0.375, 0.25, 0.1875, 0.125)


def webp(photo: Image.Image, budget: int) -> Iterator[Image.Image]:
    for scale in SCALES:
        small = photo.resize([max(1, round(edge * scale)) for edge in photo.size], Image.BICUBIC)
        low, high = 0, 95  # the last quality that fits lies there
        while low <= high:
            quality, file = (low + high) // 2, io.BytesIO()
            small.save(file, "WEBP", quality=quality, method=6)
            if len(file.getvalue()) > budget:
                high = quality - 1
                continue
            low = quality + 1
            yield Image.open(file).convert("RGB").resize(photo.size, Image.BICUBIC)


def main() -> None:
    codec = Codec.load()
    for path in map(Path, sys.argv[1:] or sorted(DATA.glob("*.png"))):
        photo = to_rgb(Image.open(path))
        file = codec.compress(path, fit="tile")
        original = np.asarray(photo)
        ours = psnr(original, np.asarray(codec.decompress(file)))
        theirs = [psnr(original, np.asarray(image)) for image in webp(photo, file.file_bytes)]
        best = f"{max(theirs):.2f} dB: {ours - max(theirs):+.2f}" if theirs else "nothing fits"
        size = f"{photo.width}x{photo.height}, {file.file_bytes:,} bytes"
        print(f"{path.name}: {size}: tile {ours:.2f} dB, WebP {best}")


if __name__ == "__main__":
    main()
