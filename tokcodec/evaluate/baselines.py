"""Other codecs, each at its best within a number of bytes.

An image may be made smaller before it is coded, as at these sizes it must be: what counts is
the whole file, and the image enlarged again.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol, get_args

import numpy as np
from PIL import Image, features

from tokcodec.errors import EvaluationError
from tokcodec.evaluate.metrics import psnr

Name = Literal["thumbhash", "blurhash", "webp", "avif", "jxl", "jpeg"]
NAMES: tuple[Name, ...] = get_args(Name)
TITLES: dict[str, str] = {
    "thumbhash": "ThumbHash",
    "blurhash": "BlurHash",
    "webp": "WebP",
    "avif": "AVIF",
    "jxl": "JPEG XL",
    "jpeg": "JPEG",
}

_SIDES = (*range(8, 96, 4), *range(96, 160, 16), *range(160, 257, 32))
_NEAR = 3  # qualities around the last that fits; sizes do not always grow with quality
_BEST_QUALITY = 95  # above it formats change their ways, and files grow for nothing
_HASHED_SIDE = 64  # of what the hashes see, who keep nine waves at most


@dataclass(frozen=True)
class Attempt:
    """One way to code an image: the bytes of the whole file, the settings, the result."""

    file_bytes: int
    settings: str
    image: Image.Image


class Baseline(Protocol):
    def attempts(self, budget: int) -> Iterator[Attempt]:
        """Every attempt worth comparing of no more than ``budget`` bytes."""
        ...


def open_baseline(name: Name, square: Image.Image) -> Baseline:
    """A codec on one square image; what it has coded once, it remembers."""
    if name == "thumbhash":
        return _ThumbHash(square)
    if name == "blurhash":
        return _BlurHash(square)
    return _FileFormat(name, square)


def best(baseline: Baseline, square: Image.Image, budget: int) -> Attempt | None:
    """The attempt of highest PSNR; None where not even the smallest file fits."""
    original = np.asarray(square)
    return max(
        baseline.attempts(budget),
        key=lambda attempt: psnr(original, np.asarray(attempt.image)),
        default=None,
    )


def require(names: tuple[Name, ...]) -> None:
    """Refuses a codec that this machine lacks, before anything is measured.

    Raises:
        EvaluationError: this build of Pillow is without it.
    """
    for name in names:
        if name in ("webp", "avif") and not features.check(name):
            raise EvaluationError(f"this Pillow cannot write {name}: leave it out")


class _FileFormat:
    def __init__(self, name: Name, square: Image.Image) -> None:
        if name == "jxl":
            import pillow_jxl  # noqa: F401  registers the format

        self._save: Callable[[Image.Image, io.BytesIO, int], None] = {
            "webp": lambda i, f, q: i.save(f, "WEBP", quality=q, method=6),
            "avif": lambda i, f, q: i.save(f, "AVIF", quality=q, speed=2),
            "jxl": lambda i, f, q: i.save(f, "JXL", quality=q, effort=7, num_threads=1),
            "jpeg": lambda i, f, q: i.save(f, "JPEG", quality=q, optimize=True),
        }[name]
        self._square = square
        self._encode = cache(self._encode_once)

    def attempts(self, budget: int) -> Iterator[Attempt]:
        """For every smaller size that fits at all, about the best quality that fits."""
        for side in _SIDES:
            if side > self._square.width or len(self._encode(side, 0)) > budget:
                break
            low, high = 0, _BEST_QUALITY  # the last that fits lies in low..high
            while low < high:
                middle = (low + high + 1) // 2
                if len(self._encode(side, middle)) <= budget:
                    low = middle
                else:
                    high = middle - 1
            for quality in range(max(0, low - _NEAR), min(_BEST_QUALITY, low + _NEAR) + 1):
                data = self._encode(side, quality)
                if len(data) <= budget:
                    small = Image.open(io.BytesIO(data)).convert("RGB")
                    image = _resize(small, self._square.width)
                    yield Attempt(len(data), f"{side} px, quality {quality}", image)

    def _encode_once(self, side: int, quality: int) -> bytes:
        file = io.BytesIO()
        self._save(_resize(self._square, side), file, quality)
        return file.getvalue()


class _ThumbHash:
    def __init__(self, square: Image.Image) -> None:
        import thumbhash

        side = min(_HASHED_SIDE, square.width)
        rgba = _resize(square, side).convert("RGBA").tobytes()
        code = thumbhash.rgba_to_thumb_hash(side, side, rgba)
        width, height, pixels = thumbhash.thumb_hash_to_rgba(code)
        small = Image.frombytes("RGBA", (width, height), bytes(pixels)).convert("RGB")
        image = _resize(small, square.width)
        self._attempt = Attempt(len(code), "as it is", image)

    def attempts(self, budget: int) -> Iterator[Attempt]:
        if self._attempt.file_bytes <= budget:
            yield self._attempt


class _BlurHash:
    def __init__(self, square: Image.Image) -> None:
        self._square = square
        self._small = _resize(square, min(_HASHED_SIDE, square.width))
        self._encode = cache(self._encode_once)

    def attempts(self, budget: int) -> Iterator[Attempt]:
        """The largest number of waves that fits for every number of columns, up to 9 each way."""
        for columns in range(1, 10):
            rows = min(9, (budget - 4) // 2 // columns)
            if rows:
                yield self._encode(columns, rows)

    def _encode_once(self, columns: int, rows: int) -> Attempt:
        import blurhash

        # A copy, as it closes what it is given.
        code = blurhash.encode(self._small.copy(), columns, rows)
        image = blurhash.decode(code, self._square.width, self._square.height).convert("RGB")
        return Attempt(len(code), f"{columns} x {rows} waves", image)


def _resize(image: Image.Image, side: int) -> Image.Image:
    if image.width == side:
        return image
    return image.resize((side, side), Image.Resampling.LANCZOS)
