import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tokcodec.config.geometry import FITS, MAX_TILE_TOKENS, place
from tokcodec.errors import ImageError

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
def test_pad_keeps_all_of_the_image(width, height, side):
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
def test_tile_covers_the_image_with_no_square_too_many(width, height, side):
    columns, rows = place("tile", width, height, side).grid
    assert (columns - 1) * side < width <= columns * side
    assert (rows - 1) * side < height <= rows * side


@given(edges, edges, st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_native_fills_up_to_multiples_or_is_refused(width, height, multiple):
    columns, rows = -(-width // multiple), -(-height // multiple)
    if columns * rows > MAX_TILE_TOKENS:
        with pytest.raises(ImageError, match=f"{columns * rows:,} tokens, .* take --fit tile"):
            place("native", width, height, multiple)
        return
    placement = place("native", width, height, multiple)
    assert placement.tile == (columns * multiple, rows * multiple)
    assert (placement.grid, placement.offset) == ((1, 1), (0, 0))
    assert placement.resized == placement.output == (width, height)
    assert placement.visible == (0, 0, width, height)


@given(st.sampled_from(FITS), edges, edges, sides)
def test_canvas_shows_the_visible_part(fit, width, height, side):
    assume(fit != "native" or -(-width // side) * -(-height // side) <= MAX_TILE_TOKENS)
    placement = place(fit, width, height, side)
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
    placement = place(fit, 600, 400, 256)
    assert (placement.resized, placement.offset, placement.grid) == (resized, offset, grid)
    assert placement.num_tiles == int(np.prod(grid))
