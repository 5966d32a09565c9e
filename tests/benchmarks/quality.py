"""Mean PSNR of a checkpoint: python tests/benchmarks/quality.py NAME FOLDER...

Every picture is cropped to its centre square and brought to the model's size (256x256), then
compressed and decompressed at that size; PSNR on 8-bit pixels, mean over pictures.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tokcodec import Codec
from tokcodec.picture import extensions, read_squares


def main() -> None:
    name, *folders = sys.argv[1:]
    codec = Codec.load(name)
    paths = sorted(
        path
        for folder in folders
        for path in Path(folder).rglob("*")
        if path.suffix.lower() in extensions()
    )
    pixels = [read_squares(path, codec.config.preprocessing, "crop").pixels[0] for path in paths]
    token_files = codec.compress_batch(map(Image.fromarray, pixels))
    decoded = codec.decompress_batch(token_files)
    values = [psnr(a, np.asarray(b)) for a, b in zip(pixels, decoded, strict=True)]
    print(f"{name}: {len(values)} pictures, {token_files[0].file_bytes} bytes each, ", end="")
    print(f"mean PSNR {np.mean(values):.2f} dB")


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


if __name__ == "__main__":
    main()
