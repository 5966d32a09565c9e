"""Several tiles of one image, as training on tokens augments it: mirrored, or ten crops."""

from dataclasses import replace
from typing import Literal

import numpy as np

from tokcodec.config import PreprocessingConfig
from tokcodec.config.geometry import Fit
from tokcodec.image import WHITE, Source, Tiles, read_tiles

Views = Literal["one", "hflip", "ten-crop"]
COUNTS: dict[Views, int] = {"one": 1, "hflip": 2, "ten-crop": 10}

_TEN_CROP_SCALE = 1.1  # of the model's square: what the ten crops are cut from


def read_views(
    source: Source,
    config: PreprocessingConfig,
    fit: Fit,
    views: Views,
    background: tuple[int, int, int] = WHITE,
    multiple: int = 0,
) -> Tiles:
    """A square a view.

    - ``one``: the image as ``fit`` has it.
    - ``hflip``: that, and its mirror image.
    - ``ten-crop``: of the centre square, resized to 1.1·S, S being ``config.read_size``: centre,
      top left, top right, bottom left, bottom right (0 to 4), and their mirror images (5 to 9).

    Raises:
        ImageError: as ``image.read_tiles``.
    """
    side = config.read_size
    if views == "ten-crop":
        large = round(_TEN_CROP_SCALE * side)
        whole = read_tiles(
            source, replace(config, image_size=large, pixel_scale=1), "crop", background
        )
        end = large - side
        corners = ((end // 2, end // 2), (0, 0), (0, end), (end, 0), (end, end))
        crops = [whole.pixels[0, y : y + side, x : x + side] for y, x in corners]
    else:
        whole = read_tiles(source, config, fit, background, multiple)
        crops = [whole.pixels[0]]
    if views != "one":
        crops += [crop[:, ::-1] for crop in crops]
    return Tiles(np.stack(crops), whole.width, whole.height, fit)
