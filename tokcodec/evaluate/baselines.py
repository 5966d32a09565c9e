"""Baselines: other codecs, each at its best within a number of bytes.

At a few hundred bytes, an image must be made smaller before it is encoded. The size is that of the
whole file, and the decoded image is enlarged to the original size before it is compared.
"""

import io
from collections.abc import Sequence
from functools import cache, cached_property
from itertools import pairwise
from typing import Any, Literal, Protocol, get_args

import numpy as np
from PIL import Image, features

from tokcodec.config.geometry import Size
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

# Pixels of the longer edge, in steps of a sixth to a fourth, and qualities: closer steps gain less
# than 0.05 dB.
EDGES = (8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256,
         320, 384, 448, 512, 640, 768)  # fmt: skip
QUALITIES = (0, 2, 4, 6, 8, 10, 13, 16, 20, 25, 30, 35, 40, 50, 60, 70, 80, 90, 95)
_NEXT = dict(pairwise((*QUALITIES, QUALITIES[-1] + 1)))
_SAVE: dict[str, dict[str, Any]] = {
    "webp": {"format": "WEBP", "method": 6},
    "avif": {"format": "AVIF", "speed": 4, "max_threads": 1},
    "jxl": {"format": "JXL", "effort": 7, "num_threads": 1},
    "jpeg": {"format": "JPEG", "optimize": True},
}
_REFINED = 2  # the number of edges, the best by PSNR, at which every quality is tried
_HASHED_EDGE = 64  # longer edge in pixels of what the hashes encode; they keep nine waves at most


class Attempt:
    """One way to encode an image.

    Attributes:
        file_bytes: the size of the whole file.
        settings: the scale and quality, in words.
        image: the decoded image, at the size of the original.
        psnr: the PSNR of that image, in dB.
    """

    def __init__(self, file_bytes: int, settings: str, small: Image.Image, original: Image.Image):
        self.file_bytes, self.settings = file_bytes, settings
        self._small, self._original = small, original

    @cached_property
    def image(self) -> Image.Image:
        return _resize(self._small, self._original.size)

    @cached_property
    def psnr(self) -> float:
        return psnr(np.asarray(self._original), np.asarray(self.image))


class Baseline(Protocol):
    def best(self, limit: int) -> Attempt | None:
        """The attempt of highest PSNR of at most ``limit`` bytes; None if no file is that small."""


def open_baseline(name: Name, image: Image.Image) -> Baseline:
    """A codec on one RGB image. Nothing is encoded twice, whatever the limits."""
    if name == "thumbhash":
        return _ThumbHash(image)
    if name == "blurhash":
        return _BlurHash(image)
    return _FileFormat(name, image)


def require(names: tuple[Name, ...]) -> None:
    """
    Raises:
        EvaluationError: Pillow was built without one of these codecs.
    """
    for name in names:
        if name in ("webp", "avif") and not features.check(name):
            raise EvaluationError(f"this Pillow cannot write {name}: leave out this baseline")


class _FileFormat:
    def __init__(self, name: Name, image: Image.Image) -> None:
        self._name, self._image = name, image
        longer = max(image.size)
        self._edges = (*(edge for edge in EDGES if edge < longer), longer)
        self._small = cache(self._shrink)
        self._encode = cache(self._encode_once)
        self._attempt = cache(self._decode)

    def best(self, limit: int) -> Attempt | None:
        """Finds the best quality that fits at every size, first in large steps; then in small steps
        at the few sizes with the highest PSNR."""
        found: list[tuple[int, int]] = []  # edges and qualities
        for edge in self._edges:
            quality = self._highest_that_fits(edge, QUALITIES, limit)
            if quality is None:
                break
            found.append((edge, quality))
        found.sort(key=self._psnr, reverse=True)
        for edge, quality in found[:_REFINED]:
            finer = range(quality, _NEXT[quality])
            found.append((edge, self._highest_that_fits(edge, finer, limit) or quality))
        return self._attempt(*max(found, key=self._psnr)) if found else None

    def _psnr(self, setting: tuple[int, int]) -> float:
        return self._attempt(*setting).psnr

    def _highest_that_fits(self, edge: int, qualities: Sequence[int], limit: int) -> int | None:
        """The last quality whose file fits; None if that of the first does not."""
        if len(self._encode(edge, qualities[0])) > limit:
            return None
        low, high = 0, len(qualities) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if len(self._encode(edge, qualities[middle])) <= limit:
                low = middle
            else:
                high = middle - 1
        return qualities[low]

    def _shrink(self, edge: int) -> Image.Image:
        return _resize(self._image, _scaled(self._image.size, edge))

    def _encode_once(self, edge: int, quality: int) -> bytes:
        if self._name == "jxl":
            import pillow_jxl  # noqa: F401  (registers the format)
        file = io.BytesIO()
        self._small(edge).save(file, quality=quality, **_SAVE[self._name])
        return file.getvalue()

    def _decode(self, edge: int, quality: int) -> Attempt:
        data = self._encode(edge, quality)
        small = Image.open(io.BytesIO(data)).convert("RGB")
        return Attempt(len(data), f"{edge} px, quality {quality}", small, self._image)


class _ThumbHash:
    def __init__(self, image: Image.Image) -> None:
        import thumbhash

        small = _thumbnail(image)
        data = thumbhash.rgba_to_thumb_hash(*small.size, small.convert("RGBA").tobytes())
        width, height, pixels = thumbhash.thumb_hash_to_rgba(data)
        decoded = Image.frombytes("RGBA", (width, height), bytes(pixels)).convert("RGB")
        self._attempt = Attempt(len(data), "", decoded, image)

    def best(self, limit: int) -> Attempt | None:
        return self._attempt if self._attempt.file_bytes <= limit else None


class _BlurHash:
    def __init__(self, image: Image.Image) -> None:
        self._image, self._small = image, _thumbnail(image)
        self._encode = cache(self._encode_once)

    def best(self, limit: int) -> Attempt | None:
        """Takes for every number of columns, up to nine, the most rows that fit."""
        waves = ((columns, min(9, (limit - 4) // 2 // columns)) for columns in range(1, 10))
        attempts = [self._encode(columns, rows) for columns, rows in waves if rows > 0]
        return max(attempts, key=lambda attempt: attempt.psnr, default=None)

    def _encode_once(self, columns: int, rows: int) -> Attempt:
        import blurhash

        # A copy, because ``encode`` closes the image that it is given.
        code = blurhash.encode(self._small.copy(), columns, rows)
        decoded = blurhash.decode(code, *self._small.size).convert("RGB")
        return Attempt(len(code), f"{columns} x {rows} waves", decoded, self._image)


def _thumbnail(image: Image.Image) -> Image.Image:
    return _resize(image, _scaled(image.size, min(_HASHED_EDGE, max(image.size))))


def _scaled(size: Size, edge: int) -> Size:
    """The size of the same shape whose longer edge has ``edge`` pixels."""
    longer = max(size)
    width, height = (max(1, round(edge * length / longer)) for length in size)
    return width, height


def _resize(image: Image.Image, size: Size) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
