"""Several tiles of one image, as training on tokens augments it: mirrored, or ten crops."""

from typing import Literal

import numpy as np

from tokcodec.config import ModelConfig
from tokcodec.config.geometry import Fit, place
from tokcodec.image import WHITE, Source, Tiles, read_tiles

Views = Literal["one", "hflip", "ten-crop"]
COUNTS: dict[Views, int] = {"one": 1, "hflip": 2, "ten-crop": 10}

_TEN_CROP_SCALE = 1.1  # of a tile: the square that the ten crops are cut from


def read_views(
    source: Source,
    config: ModelConfig,
    fit: Fit,
    views: Views,
    background: tuple[int, int, int] = WHITE,
    tokens: int | None = None,
) -> Tiles:
    """The tiles of all views of an image, one each.

    - ``one``: the image as ``fit`` places it.
    - ``hflip``: that, and its mirror image.
    - ``ten-crop``: five crops of the centre square, resized to 1.1·S where S is the side of a tile:
      centre, top left, top right, bottom left, bottom right (0 to 4), and their mirror images (5 to
      9).

    ``tokens`` as of ``ModelConfig.place``.

    Raises:
        ImageError: see ``image.read_tiles``.
    """
    preprocessing = config.preprocessing
    if views == "ten-crop":
        edge, _ = config.place("crop", (1, 1), tokens)[0].tile
        side = edge // preprocessing.read_scale
        large = round(_TEN_CROP_SCALE * side)
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
        whole = read_tiles(
            source, preprocessing, lambda size: config.place(fit, size, tokens)[0], background
        )
        crops = [whole.pixels[0]]
    if views != "one":
        crops += [crop[:, ::-1] for crop in crops]
    return Tiles(np.stack(crops), whole.width, whole.height)
