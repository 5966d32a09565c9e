"""How images meet the input of a model: grids, sizes and offsets."""

import numpy as np
import pytest
from conftest import placed
from hypothesis import given
from hypothesis import strategies as st

from tokcodec.config import ModelConfig
from tokcodec.config.geometry import FITS, MAX_TILE_TOKENS, nearest_grid, place
from tokcodec.errors import ImageError
from tokcodec.train.presets import PRESETS

edges = st.integers(1, 65535)
sides = st.sampled_from([32, 256])
CONFIG: ModelConfig = PRESETS["tokcodec"]  # tokens of 16 pixels, of which the encoder sees 8


@given(edges, edges, sides)
def test_crop_is_torchvisions(width, height, side):
    # torchvision: _compute_resized_image_output_size and center_crop, in floating point.
    short, long = min(width, height), max(width, height)
    new_long = int(side * long / short)
    resized = (side, new_long) if width <= height else (new_long, side)
    left, top = (round((edge - side) / 2.0) for edge in resized)
    placement = placed("crop", (width, height), side)
    assert placement.resized == resized
    assert placement.offset == (-left, -top)
    assert placement.output == (short, short)


@given(edges, edges, sides)
def test_pad_keeps_all_of_the_image(width, height, side):
    placement = placed("pad", (width, height), side)
    left, top, right, bottom = placement.visible
    assert (right - left, bottom - top) == placement.resized
    assert max(placement.resized) == side
    short = min(placement.resized)
    assert short == max(1, int(side * min(width, height) / max(width, height) + 0.5))
    assert abs((side - right) - left) <= 1
    assert abs((side - bottom) - top) <= 1
    assert placement.output == (width, height)


@given(edges, edges, sides)
def test_tile_covers_the_image_without_a_spare_tile(width, height, side):
    columns, rows = placed("tile", (width, height), side).grid
    assert (columns - 1) * side < width <= columns * side
    assert (rows - 1) * side < height <= rows * side


@given(edges, edges)
def test_native_fills_up_to_multiples_or_is_refused(width, height):
    columns, rows = -(-width // 16), -(-height // 16)
    if columns * rows > MAX_TILE_TOKENS:
        with pytest.raises(ImageError):
            CONFIG.place("native", (width, height))
        return
    placement, shape = CONFIG.place("native", (width, height))
    assert placement.tile == (columns * 16, rows * 16)
    assert shape == (rows, columns)
    assert (placement.grid, placement.offset) == ((1, 1), (0, 0))
    assert placement.resized == placement.output == (width, height)
    assert placement.visible == (0, 0, width, height)


@given(st.sampled_from(FITS), st.integers(1, 2000), st.integers(1, 2000), sides)
def test_canvas_shows_the_visible_part(fit, width, height, side):
    placement = placed(fit, (width, height), side)
    left, top, right, bottom = placement.visible
    (columns, rows), (wide, high) = placement.grid, placement.tile
    assert 0 <= left < right <= columns * wide
    assert 0 <= top < bottom <= rows * high
    # The visible part lies on the image, nowhere on repeated edges.
    x, y = placement.offset
    assert x <= left
    assert right <= x + placement.resized[0]
    assert y <= top
    assert bottom <= y + placement.resized[1]


@pytest.mark.parametrize(
    ("fit", "resized", "offset", "grid"),
    [
        ("stretch", (256, 256), (0, 0), (1, 1)),
        ("crop", (384, 256), (-64, 0), (1, 1)),
        ("pad", (256, 171), (0, 42), (1, 1)),
        ("tile", (600, 400), (0, 0), (3, 2)),
    ],
)
def test_by_hand(fit, resized, offset, grid):
    placement = placed(fit, (600, 400), 256)
    assert (placement.resized, placement.offset, placement.grid) == (resized, offset, grid)
    assert placement.num_tiles == int(np.prod(grid))


def test_a_crop_with_a_margin_by_hand():
    placement = place("crop", (600, 400), (256, 256), "lanczos", 1.125)
    assert (placement.resized, placement.offset) == ((432, 288), (-88, -16))
    # The square shows 256 of 288 pixels of the shorter edge.
    assert placement.output == (356, 356)
    config = CONFIG.replace(preprocessing=CONFIG.preprocessing.replace(crop_scale=1.125))
    assert config.place("crop", (600, 400))[0].resized == (216, 144)
    assert config.place("stretch", (600, 400)) == CONFIG.place("stretch", (600, 400))


@pytest.mark.parametrize(
    ("size", "tokens", "grid"),
    [
        ((400, 400), 64, (8, 8)),
        ((600, 400), 64, (7, 9)),  # rather than 6x9, which leaves 10 tokens unused
        ((400, 600), 64, (9, 7)),
        ((768, 512), 1024, (26, 39)),
        ((10_000, 100), 64, (1, 64)),
        ((100, 10_000), 64, (64, 1)),
        ((5, 3), 64, (1, 1)),  # smaller than a patch
        ((64, 64), 1024, (8, 8)),  # no token is smaller than 8 pixels
    ],
)
def test_nearest_grid_by_hand(size, tokens, grid):
    assert nearest_grid(size, tokens, 8) == grid


@given(edges, edges, st.integers(1, 1024))
def test_aspect_uses_the_tokens_for_tokens_that_are_nearly_square(width, height, tokens):
    rows, columns = nearest_grid((width, height), tokens, 8)
    most = -(-height // 8), -(-width // 8)
    assert 1 <= rows <= most[0]
    assert 1 <= columns <= most[1]
    assert rows * columns <= tokens
    # Nothing can be added without going beyond the tokens or the pixels.
    assert (rows + 1) * columns > tokens or rows == most[0]
    assert rows * (columns + 1) > tokens or columns == most[1]


@given(edges, edges, st.integers(1, 2048), st.sampled_from(["aspect", "stretch", "crop", "pad"]))
def test_the_grid_of_a_file_places_it_as_encoding_did(width, height, tokens, fit):
    placement, (rows, columns) = CONFIG.place(fit, (width, height), tokens)
    assert rows * columns <= tokens
    assert CONFIG.place_grid(fit, (width, height), rows, columns) == (placement, (rows, columns))


@pytest.mark.parametrize(
    ("fit", "rows", "columns"), [("crop", 7, 9), ("native", 2, 2), ("tile", 7, 7)]
)
def test_grids_that_a_fit_cannot_give_are_refused(fit, rows, columns):
    with pytest.raises(ImageError):
        CONFIG.place_grid(fit, (600, 400), rows, columns)
