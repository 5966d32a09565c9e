"""Several tiles of one image, as training on tokens augments it: mirrored, or ten crops."""

from dataclasses import replace
from typing import Literal

import numpy as np

from tokcodec.config import ModelConfig
from tokcodec.config.geometry import Fit, place
from tokcodec.image import WHITE, Source, Tiles, read_tiles

Views = Literal["one", "hflip", "ten-crop"]
COUNTS: dict[Views, int] = {"one": 1, "hflip": 2, "ten-crop": 10}

_TEN_CROP_SCALE = 1.1  # of the model's square: what the ten crops are cut from


def read_views(
    source: Source,
    config: ModelConfig,
    fit: Fit,
    views: Views,
    background: tuple[int, int, int] = WHITE,
    tokens: int | None = None,
) -> Tiles:
    """A square a view.

    - ``one``: the image as ``fit`` has it.
    - ``hflip``: that, and its mirror image.
    - ``ten-crop``: of the centre square, resized to 1.1·S, S being ``config.read_size``: centre,
      top left, top right, bottom left, bottom right (0 to 4), and their mirror images (5 to 9).

    Raises:
        ImageError: as ``image.read_tiles``.
    """
    preprocessing = config.preprocessing
    side = preprocessing.read_size
    if views == "ten-crop":
        large = round(_TEN_CROP_SCALE * side)
        whole = read_tiles(
            source,
            replace(preprocessing, pixel_scale=1),
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
