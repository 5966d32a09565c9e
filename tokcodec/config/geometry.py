"""Fit images of any shape to the tiles of a model: sizes and offsets."""

import itertools
from dataclasses import dataclass
from typing import Literal, get_args

Fit = Literal["aspect", "stretch", "crop", "pad", "tile", "native"]
Resize = Literal["bicubic", "bilinear", "lanczos", "adm", "chameleon", "direct"]
FITS: tuple[Fit, ...] = get_args(Fit)
_OWN_CROPS = ("adm", "chameleon")  # their crops are rounded differently from torchvision's

Size = tuple[int, int]  # width, height

# The time for attention among all tokens of a tile grows with the square of their number.
MAX_TILE_TOKENS = 1 << 14


@dataclass(frozen=True)
class Placement:
    """The position of an image on a canvas of tiles.

    To encode, the image is resized to ``resized`` and put on the canvas with its top left corner
    at ``offset``, which is negative where the canvas cuts it. Its edge pixels are repeated up to
    the border. Then the canvas is cut into tiles, row by row. To decode, the ``visible`` part of
    the canvas is resized to ``output``.

    Attributes:
        resized: width and height of the resized image.
        offset: left and top of the image on the canvas.
        tile: width and height of a tile, which may differ with the fits aspect and native.
        grid: columns and rows of tiles.
        visible: left, top, right and bottom of the part of the canvas that shows the image.
        output: width and height of the decoded image.
        halvings: how often the image is halved, by means of two by two, before it is resized.
    """

    resized: Size
    offset: tuple[int, int]
    tile: Size
    grid: Size
    visible: tuple[int, int, int, int]
    output: Size
    halvings: int = 0

    @property
    def canvas(self) -> Size:
        """Width and height of all tiles together."""
        return self.grid[0] * self.tile[0], self.grid[1] * self.tile[1]

    @property
    def num_tiles(self) -> int:
        return self.grid[0] * self.grid[1]


def nearest_grid(size: Size, tokens: int, pixels: int, stretch: float = 1.0) -> tuple[int, int]:
    """Rows and columns of the grid of at most ``tokens`` tokens that fits the image best.

    Of all grids, its tokens have the smallest sum of width and height, in pixels of the image. So
    they are nearly square, and nearly all of ``tokens`` are used. No token is smaller than
    ``pixels`` pixels. With ``stretch`` the grid is that of an image this many times as wide.
    """
    width, height = size
    most_rows, most_columns = -(-height // pixels), -(-width // pixels)
    grids = ((rows, min(tokens // rows, most_columns)) for rows in range(1, tokens + 1))
    return min(
        itertools.takewhile(lambda grid: grid[0] <= most_rows, grids),
        key=lambda grid: stretch * width / grid[1] + height / grid[0],
    )


def place(
    fit: Fit, size: Size, tile: Size, resize: Resize = "bicubic", crop_scale: float = 1.0
) -> Placement:
    """The placement of an image of ``size`` on tiles of the size ``tile``.

    - ``aspect``, ``stretch``: the whole image resized to one tile.
    - ``crop``: the shorter edge resized to ``crop_scale`` times the side of the square tile, and
      the centre cropped, rounded as by torchvision's Resize and CenterCrop, ADM or Chameleon.
    - ``pad``: the longer edge resized to the side of the square tile (rounded half up), centred.
    - ``tile``: the original resolution, on as many tiles as needed.
    - ``native``: the original resolution, padded to one tile.
    """
    (width, height), side = size, tile[0]
    if fit in ("aspect", "stretch"):
        return Placement(tile, (0, 0), tile, (1, 1), (0, 0, *tile), size)
    if fit == "crop":
        short = round(crop_scale * side)
        resized, halvings = _shorter_edge_to(short, size, resize)
        over = (resized[0] - side, resized[1] - side)
        left, top = (n // 2 for n in over) if resize in _OWN_CROPS else map(_half_even, over)
        shown = max(1, round(min(size) * side / short))
        return Placement(
            resized, (-left, -top), tile, (1, 1), (0, 0, *tile), (shown, shown), halvings
        )
    if fit == "pad":
        long = max(size)
        resized = (_scaled(width, side, long), _scaled(height, side, long))
        left, top = (side - resized[0]) // 2, (side - resized[1]) // 2
        visible = (left, top, left + resized[0], top + resized[1])
        return Placement(resized, (left, top), tile, (1, 1), visible, size)
    grid = (-(-width // tile[0]), -(-height // tile[1]))
    return Placement(size, (0, 0), tile, grid, (0, 0, *size), size)


def _shorter_edge_to(side: int, size: Size, resize: Resize) -> tuple[Size, int]:
    """The size that an image is resized to before a centre crop, and ``halvings``."""
    width, height = size
    if resize not in _OWN_CROPS:
        short = min(size)
        return (side * width // short, side * height // short), 0
    halvings = 0
    while resize == "adm" and min(width, height) >= 2 * side:
        width, height, halvings = width // 2, height // 2, halvings + 1
    scale = side / min(width, height)
    # In floating point, as in both programs; the shorter edge is exact.
    return (round(scale * width), round(scale * height)), halvings


def _half_even(number: int) -> int:
    # Halves are rounded to even, as by Python's round() in torchvision's CenterCrop.
    half, odd = divmod(number, 2)
    return half + (odd and half % 2)


def _scaled(edge: int, side: int, long: int) -> int:
    return max(1, (2 * side * edge + long) // (2 * long))
