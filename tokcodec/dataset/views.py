"""Views: several tiles of one image, to augment the training data."""

import math
import random
import re
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from tokcodec.config import ModelConfig
from tokcodec.config.geometry import Fit, Size, place
from tokcodec.errors import ArgumentError, quoted
from tokcodec.image import WHITE, Source, Tiles, read_tiles

Kind = Literal["one", "hflip", "ten-crop", "random"]
Box = tuple[int, int, int, int]  # left, top, width, height in pixels

_NAMED: dict[str, tuple[Kind, int]] = {
    "one": ("one", 1),
    "hflip": ("hflip", 2),
    "ten-crop": ("ten-crop", 10),
}
_MOST = 256  # views of an image; the column has a byte
_CROP_RANGES = (1.0, 4.0)
# A random crop has at least this share of the area of the largest crop of its shape, and at most
# this aspect ratio. Crops from 0.08 of the area, the default of torchvision's RandomResizedCrop,
# show too little of the image for a generative model.
_LEAST_AREA, _WIDEST = 0.5, 4 / 3


@dataclass(frozen=True)
class Views:
    """The views of an image that become rows of a dataset.

    - ``one``: the image as the fit places it.
    - ``hflip``: that, and its mirror image.
    - ``ten-crop``: five crops of the centre square, resized to ``crop_range`` times the side S of a
      tile: centre, top left, top right, bottom left, bottom right (0 to 4), and their mirror images
      (5 to 9).
    - ``random``: ``count`` random crops, each of which the fit places as if it were an image.

    Attributes:
        kind: one of these.
        count: rows of an image.
        crop_range: for ``ten-crop``; the larger square has the side ``int(crop_range * S)``.
        seed: for ``random``. A crop depends only on the seed, the key of the image and the number
            of the view.
    """

    kind: Kind = "one"
    count: int = 1
    crop_range: float | None = None
    seed: int | None = None

    @classmethod
    def parse(cls, text: str, crop_range: float | None = None, seed: int | None = None) -> Self:
        """Parse the name of views: ``one``, ``hflip``, ``ten-crop`` or ``random:N``.

        Args:
            text: the name.
            crop_range: for ``ten-crop``; 1.1 if None.
            seed: for ``random:N``; 0 if None.

        Raises:
            ArgumentError: there are no such views, or these have no such setting.

        >>> Views.parse("random:4").count
        4
        """
        number = re.fullmatch(r"random:([0-9]{1,9})", str(text))
        kind, count = _NAMED.get(str(text), ("random", int(number[1]) if number else 0))
        if not 1 <= count <= _MOST:
            raise ArgumentError(
                f"views {quoted(text)}: must be one, hflip, ten-crop, or random:N with N from 1 to "
                f"{_MOST}"
            )
        if crop_range is not None and kind != "ten-crop":
            raise ArgumentError(f"views {text}: only ten-crop has a crop range")
        if seed is not None and kind != "random":
            raise ArgumentError(f"views {text}: only random:N has a seed")
        if kind == "ten-crop":
            crop_range = 1.1 if crop_range is None else crop_range
            least, most = _CROP_RANGES
            if not (isinstance(crop_range, int | float) and least <= crop_range <= most):
                raise ArgumentError(
                    f"crop range {quoted(crop_range)} is not from {least} to {most}"
                )
        if kind == "random":
            seed = 0 if seed is None else seed
            if not isinstance(seed, int):
                raise ArgumentError(f"seed {quoted(seed)} is not an integer")
        return cls(kind, count, crop_range, seed)

    def __str__(self) -> str:
        return f"random:{self.count}" if self.kind == "random" else self.kind

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of ``parse``, as they are in the metadata of a dataset."""
        return {"views": str(self), "crop_range": self.crop_range, "seed": self.seed}

    def boxes(self, key: str, size: Size) -> list[Box]:
        """The random crops of an image with this key, width and height; empty for other views.

        A crop has an aspect ratio between 3:4 and 4:3, and at least half the area of the largest
        crop of that ratio. The arithmetic gives the same crops on every machine.
        """
        if self.kind != "random":
            return []
        draw = random.Random(f"{self.seed} {key}").random
        boxes = []
        for _ in range(self.count):
            shape = 1 + draw() * (_WIDEST - 1)  # width to height
            shape = shape if draw() < 0.5 else 1 / shape
            scale = math.sqrt(_LEAST_AREA + draw() * (1 - _LEAST_AREA))
            largest = min(size[0], size[1] * shape), min(size[1], size[0] / shape)
            width, height = (max(1, int(scale * edge)) for edge in largest)
            left = int(draw() * (size[0] - width + 1))
            top = int(draw() * (size[1] - height + 1))
            boxes.append((left, top, width, height))
        return boxes

    def read(
        self,
        source: Source,
        key: str,
        config: ModelConfig,
        fit: Fit,
        background: tuple[int, int, int] = WHITE,
        tokens: int | None = None,
    ) -> Tiles:
        """One tile for each view of an image; for ``tokens`` see ``ModelConfig.place``.

        Raises:
            ImageError: see ``image.read_tiles``.
        """
        preprocessing = config.preprocessing

        def read_tile(source: Source) -> Tiles:
            def fitted(size: Size) -> Any:
                return config.place(fit, size, tokens)[0]

            return read_tiles(source, preprocessing, fitted, background)

        if self.kind == "random":
            exact = preprocessing.replace(pixel_scale=1, reduced_jpeg=False)
            whole = read_tiles(source, exact, lambda size: place("native", size, size), background)
            crops = [
                read_tile(whole.pixels[0, top : top + height, left : left + width]).pixels[0]
                for left, top, width, height in self.boxes(key, (whole.width, whole.height))
            ]
        elif self.kind == "ten-crop":
            assert self.crop_range
            edge, _ = config.place("crop", (1, 1), tokens)[0].tile
            side = edge // preprocessing.read_scale
            large = int(self.crop_range * side)
            whole = read_tiles(
                source,
                preprocessing.replace(pixel_scale=1),
                lambda size: place("crop", size, (large, large), preprocessing.resize),
                background,
            )
            end = large - side
            corners = ((end // 2, end // 2), (0, 0), (0, end), (end, 0), (end, end))
            crops = [whole.pixels[0, y : y + side, x : x + side] for y, x in corners]
        else:
            whole = read_tile(source)
            crops = [whole.pixels[0]]
        if self.kind in ("hflip", "ten-crop"):
            crops += [crop[:, ::-1] for crop in crops]
        return Tiles(np.stack(crops), whole.width, whole.height)
