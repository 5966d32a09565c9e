import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokcodec.geometry import FITS, place

edges = st.integers(1, 65535)
sides = st.sampled_from([32, 256])


@given(edges, edges, sides)
def test_crop_is_torchvisions(width, height, side):
    # torchvision: _compute_resized_image_output_size and center_crop, in floating point.
    short, long = min(width, height), max(width, height)
    new_long = int(side * long / short)
    resized = (side, new_long) if width <= height else (new_long, side)
    left, top = (round((edge - side) / 2.0) for edge in resized)
    placement = place("crop", width, height, side)
    assert placement.resized == resized
    assert placement.offset == (-left, -top)
    assert placement.output == (short, short)


@given(edges, edges, sides)
def test_pad_keeps_all_of_the_picture(width, height, side):
    placement = place("pad", width, height, side)
    left, top, right, bottom = placement.visible
    assert (right - left, bottom - top) == placement.resized
    assert max(placement.resized) == side
    short = min(placement.resized)
    assert short == max(1, int(side * min(width, height) / max(width, height) + 0.5))
    assert abs((side - right) - left) <= 1
    assert abs((side - bottom) - top) <= 1
    assert placement.output == (width, height)


@given(edges, edges, sides)
def test_tile_covers_the_picture_with_no_square_too_many(width, height, side):
    columns, rows = place("tile", width, height, side).grid
    assert (columns - 1) * side < width <= columns * side
    assert (rows - 1) * side < height <= rows * side


@given(st.sampled_from(FITS), edges, edges, sides)
def test_canvas_shows_the_visible_part(fit, width, height, side):
    placement = place(fit, width, height, side)
    left, top, right, bottom = placement.visible
    columns, rows = placement.grid
    assert 0 <= left < right <= columns * side
    assert 0 <= top < bottom <= rows * side
    # The visible part lies on the picture, nowhere on repeated edges.
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
    placement = place(fit, 600, 400, 256)
    assert (placement.resized, placement.offset, placement.grid) == (resized, offset, grid)
    assert placement.num_squares == int(np.prod(grid))
