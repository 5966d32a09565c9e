"""How an image of any shape meets the model's tiles: sizes and offsets."""

import itertools
from dataclasses import dataclass
from typing import Literal, get_args

Fit = Literal["aspect", "stretch", "crop", "pad", "tile", "native"]
Resize = Literal["bicubic", "bilinear", "lanczos", "adm", "chameleon", "direct"]
FITS: tuple[Fit, ...] = get_args(Fit)
_OWN_CROPS = ("adm", "chameleon")  # whose crops have other roundings than torchvision's

Size = tuple[int, int]  # width, height

# Attention among all tokens of a tile takes time with the square of their number.
MAX_TILE_TOKENS = 1 << 14


@dataclass(frozen=True)
class Placement:
    """Where an image lies on a canvas of tiles.

    To encode, the image is resized to ``resized``, laid on the canvas with its top left corner
    at ``offset`` (negative where the canvas cuts it), its edge pixels repeated up to the border,
    and the canvas cut into tiles, row by row. To decode, the ``visible`` part of the canvas is
    resized to ``output``.

    Attributes:
        resized: width and height of the resized image.
        offset: left and top of the image on the canvas.
        tile: width and height of a tile; that of the fits aspect and native need not be square.
        grid: columns and rows of tiles.
        visible: left, top, right and bottom of the part of the canvas that shows the image.
        output: width and height that decoding restores.
        halvings: times that the image is halved, by means of two by two, before it is resized.
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


def nearest_grid(size: Size, tokens: int, pixels: int) -> tuple[int, int]:
    """Rows and columns of the grid that shows an image best in at most ``tokens`` tokens.

    That is the grid whose tokens are the smallest by the sum of their width and height, in pixels
    of the image: they are nearly square, and nearly all of ``tokens`` are used. No token is made
    smaller than ``pixels`` pixels.
    """
    width, height = size
    most_rows, most_columns = -(-height // pixels), -(-width // pixels)
    grids = ((rows, min(tokens // rows, most_columns)) for rows in range(1, tokens + 1))
    return min(
        itertools.takewhile(lambda grid: grid[0] <= most_rows, grids),
        key=lambda grid: width / grid[1] + height / grid[0],
    )


def place(
    fit: Fit, size: Size, tile: Size, resize: Resize = "bicubic", crop_scale: float = 1.0
) -> Placement:
    """The placement of an image of ``size`` on tiles of the size ``tile``.

    - ``aspect``, ``stretch``: the whole image resized to one tile.
    - ``crop``: shorter edge to ``crop_scale`` times the square tile, centre cut out, with the
      roundings of torchvision's Resize and CenterCrop, or those of ADM or Chameleon.
    - ``pad``: longer edge to the square tile (rounded half up), centred.
    - ``tile``: native resolution, as many tiles as it takes.
    - ``native``: native resolution, edges filled up to one tile.
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
    """Width and height of the image that a square is cut from, and ``halvings`` before it."""
    width, height = size
    if resize not in _OWN_CROPS:
        short = min(size)
        return (side * width // short, side * height // short), 0
    halvings = 0
    while resize == "adm" and min(width, height) >= 2 * side:
        width, height, halvings = width // 2, height // 2, halvings + 1
    scale = side / min(width, height)
    # In floating point, as both programs do it; the shorter edge comes out exact.
    return (round(scale * width), round(scale * height)), halvings


def _half_even(number: int) -> int:
    # Half of it, halves to the even neighbour, as Python's round() in torchvision's CenterCrop.
    half, odd = divmod(number, 2)
    return half + (odd and half % 2)


def _scaled(edge: int, side: int, long: int) -> int:
    return max(1, (2 * side * edge + long) // (2 * long))
