"""Milliseconds from an image file to a model's tiles: python tests/benchmarks/reading.py

For each kind of file: as it was read before there was a direct way (``former``), the exact way to
256 pixels, and the direct way to the 64 that tokcodec and -64 see, on one thread and on all;
then the stages of the first kind. All are of centre crops, and taken in turns.
"""

import io
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from tokcodec.config import PreprocessingConfig
from tokcodec.config.geometry import place
from tokcodec.image import read_tiles

PHOTOS = Path(__file__).parents[1] / "data"
EXACT = PreprocessingConfig()
CENTRE = partial(place, "crop", tile=(EXACT.image_size, EXACT.image_size))
DIRECT = PreprocessingConfig(pixel_scale=4, reduced_jpeg=True, resize="direct")
CORES = os.cpu_count() or 1
ROUNDS = 5
BICUBIC = Image.Resampling.BICUBIC


def former(file: io.BytesIO, reduced: bool = True) -> NDArray[np.uint8]:
    """Reads as was done before: to 256 pixels whatever the model sees, all of the image resized,
    a profile's transform made for every image. uint8 [1, 256, 256, 3]."""
    with Image.open(file) as image:
        placement = CENTRE(image.size)
        if reduced:
            image.draft(None, (2 * placement.resized[0], 2 * placement.resized[1]))
        profile = image.info.get("icc_profile")
        rgb = ImageOps.exif_transpose(image)
        if profile:
            target = ImageCms.createProfile("sRGB")
            rgb = ImageCms.profileToProfile(rgb, io.BytesIO(profile), target, outputMode="RGB")
        rgb = rgb.convert("RGB").resize(placement.resized, BICUBIC)
    left, top = (-offset for offset in placement.offset)
    square = np.asarray(rgb)[top : top + EXACT.image_size, left : left + EXACT.image_size]
    return np.ascontiguousarray(square)[None]


def kinds() -> dict[str, list[bytes]]:
    """Files of 500x375, as most of ImageNet's are, and large ones."""
    photo = Image.open(PHOTOS / "astronaut.png").convert("RGB")
    parts = [photo.crop((n, 3 * n, n + 500, 3 * n + 375)) for n in range(12)]
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # Red's primary in the place of green's: a profile that changes every colour.
    other = srgb.replace(b"rXYZ", b"....").replace(b"gXYZ", b"rXYZ").replace(b"....", b"gXYZ")

    def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    return {
        "JPEG": [encoded(part, "JPEG", quality=90) for part in parts],
        "JPEG, sRGB profile": [encoded(p, "JPEG", quality=90, icc_profile=srgb) for p in parts],
        "JPEG, other profile": [encoded(p, "JPEG", quality=90, icc_profile=other) for p in parts],
        "PNG": [encoded(part, "PNG") for part in parts],
        "WebP": [encoded(part, "WEBP", quality=90) for part in parts],
        "JPEG of 12 megapixels": [encoded(parts[0].resize((4000, 3000)), "JPEG", quality=90)],
    }


def milliseconds(work: Callable[[bytes], object], files: list[bytes], threads: int) -> float:
    """A file, over ``threads`` at once."""
    many = files * max(1, 48 // len(files)) if len(files) > 1 else files * 2 * threads
    with ThreadPoolExecutor(threads) as pool:
        begun = time.perf_counter()
        for _ in pool.map(work, many):
            pass
        return 1000 * (time.perf_counter() - begun) / len(many)


def best(ways: dict[str, Callable[[bytes], object]], files: list[bytes], threads: int) -> str:
    times = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):  # in turns, because the speed of a machine drifts
        for name, work in ways.items():
            times[name] = min(times[name], milliseconds(work, files, threads))
    return ", ".join(f"{name} {value:.2f}" for name, value in times.items())


def main() -> None:
    def opened(data: bytes, size: tuple[int, int] | None = None) -> Image.Image:
        image = Image.open(io.BytesIO(data))
        if size:
            image.draft(None, size)
        image.load()
        return image

    ways: dict[str, Callable[[bytes], object]] = {
        "former": lambda data: former(io.BytesIO(data)),
        "exact": lambda data: read_tiles(io.BytesIO(data), EXACT, CENTRE),
        "direct": lambda data: read_tiles(io.BytesIO(data), DIRECT, CENTRE),
    }
    print(f"Pillow {Image.__version__}, milliseconds an image")
    files = kinds()
    for kind, some in files.items():
        for threads in sorted({1, CORES}):
            print(f"{kind}, {threads} threads: {best(ways, some, threads)}")
    some = files["JPEG"]
    whole, reduced = opened(some[0]), opened(some[0], (85, 64))
    box = ((reduced.width - reduced.height) / 2, 0, (reduced.width + reduced.height) / 2, 94)
    stages: dict[str, Callable[[bytes], object]] = {
        "decode": opened,
        "decode at a quarter": lambda data: opened(data, (85, 64)),
        "resize to 341x256": lambda _: whole.resize((341, 256), BICUBIC),
        "resize a quarter to 64x64": lambda _: reduced.resize((64, 64), BICUBIC, box),
        "to an array": lambda _: np.asarray(whole),
    }
    print(f"stages of JPEG: {best(stages, some, 1)}")


if __name__ == "__main__":
    main()
