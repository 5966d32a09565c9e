"""How an image of any shape meets the model's tiles: sizes and offsets."""

from dataclasses import dataclass
from typing import Literal, get_args

from tokcodec.errors import ImageError

Fit = Literal["stretch", "crop", "pad", "tile", "native"]
Resize = Literal["bicubic", "adm", "lanczos", "direct"]
FITS: tuple[Fit, ...] = get_args(Fit)
_TORCHVISION_CROPS = ("bicubic", "direct")  # whose crop has torchvision's roundings

Size = tuple[int, int]  # width, height

# Attention among all tokens of an image takes time with the square of their number.
MAX_NATIVE_TOKENS = 1 << 14


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
        tile: width and height of a tile; the native fit has one, which need not be square.
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


def place(fit: Fit, width: int, height: int, side: int, resize: Resize = "bicubic") -> Placement:
    """The placement of a ``width`` x ``height`` image.

    - ``stretch``: the whole image squeezed to a square of ``side`` pixels.
    - ``crop``: shorter edge to the square, centre cut out, with the roundings of torchvision's
      Resize and CenterCrop, or those of ADM (``adm``) or Chameleon (``lanczos``).
    - ``pad``: longer edge to the square (rounded half up), centred.
    - ``tile``: native resolution, as many tiles as it takes.
    - ``native``: native resolution, edges filled up to multiples of ``side``.

    Raises:
        ImageError: more than ``MAX_NATIVE_TOKENS`` multiples of ``side`` in the native fit.
    """
    size, tile = (width, height), (side, side)
    whole = (0, 0, side, side)
    if fit == "stretch":
        return Placement(tile, (0, 0), tile, (1, 1), whole, size)
    if fit == "crop":
        resized, halvings = _shorter_edge_to(side, size, resize)
        over = (resized[0] - side, resized[1] - side)
        even = resize in _TORCHVISION_CROPS
        left, top = map(_half_even, over) if even else (n // 2 for n in over)
        short = min(size)
        return Placement(resized, (-left, -top), tile, (1, 1), whole, (short, short), halvings)
    if fit == "pad":
        long = max(size)
        resized = (_scaled(width, side, long), _scaled(height, side, long))
        left, top = (side - resized[0]) // 2, (side - resized[1]) // 2
        visible = (left, top, left + resized[0], top + resized[1])
        return Placement(resized, (left, top), tile, (1, 1), visible, size)
    grid = (-(-width // side), -(-height // side))
    visible = (0, 0, width, height)
    if fit == "tile":
        return Placement(size, (0, 0), tile, grid, visible, size)
    if grid[0] * grid[1] > MAX_NATIVE_TOKENS:
        raise ImageError(
            f"{width}x{height} pixels are {grid[0] * grid[1]:,} tokens, and the native fit takes "
            f"up to {MAX_NATIVE_TOKENS:,}: make the image smaller, or take the fit tile"
        )
    return Placement(size, (0, 0), (grid[0] * side, grid[1] * side), (1, 1), visible, size)


def _shorter_edge_to(side: int, size: Size, resize: Resize) -> tuple[Size, int]:
    """Width and height of the image that a square is cut from, and ``halvings`` before it."""
    width, height = size
    if resize in _TORCHVISION_CROPS:
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
