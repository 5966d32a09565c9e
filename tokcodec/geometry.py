"""How a picture of any shape meets the model's square: sizes and offsets, in integers only."""

from dataclasses import dataclass
from typing import get_args

from tokcodec.config import Fit

FITS: tuple[Fit, ...] = get_args(Fit)

Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class Placement:
    """Where a picture lies on a canvas of S x S squares.

    To encode, the picture is resized to ``resized``, laid on the canvas with its top left corner
    at ``offset`` (negative where the canvas cuts it), its edge pixels repeated up to the border,
    and the canvas cut into squares, row by row. To decode, the ``visible`` part of the canvas is
    resized to ``output``.

    Attributes:
        resized: width and height of the resized picture.
        offset: left and top of the picture on the canvas.
        grid: columns and rows of squares.
        visible: left, top, right and bottom of the part of the canvas that shows the picture.
        output: width and height that decoding restores.
    """

    resized: Size
    offset: tuple[int, int]
    grid: Size
    visible: tuple[int, int, int, int]
    output: Size

    @property
    def num_squares(self) -> int:
        return self.grid[0] * self.grid[1]


def place(fit: Fit, width: int, height: int, side: int) -> Placement:
    """The placement of a ``width`` x ``height`` picture for squares of ``side`` pixels.

    - ``stretch``: the whole picture squeezed to the square.
    - ``crop``: shorter edge to the square, centre cut out; torchvision's Resize and CenterCrop,
      roundings included.
    - ``pad``: longer edge to the square (rounded half up), centred.
    - ``tile``: native resolution, as many squares as it takes.
    """
    size, square = (width, height), (0, 0, side, side)
    if fit == "stretch":
        return Placement((side, side), (0, 0), (1, 1), square, size)
    if fit == "crop":
        short = min(size)
        resized = (side * width // short, side * height // short)
        offset = (-_half_even(resized[0] - side), -_half_even(resized[1] - side))
        return Placement(resized, offset, (1, 1), square, (short, short))
    if fit == "pad":
        long = max(size)
        resized = (_scaled(width, side, long), _scaled(height, side, long))
        left, top = (side - resized[0]) // 2, (side - resized[1]) // 2
        visible = (left, top, left + resized[0], top + resized[1])
        return Placement(resized, (left, top), (1, 1), visible, size)
    grid = (-(-width // side), -(-height // side))
    return Placement(size, (0, 0), grid, (0, 0, width, height), size)


def _half_even(number: int) -> int:
    # Half of it, halves to the even neighbour, as Python's round() in torchvision's CenterCrop.
    half, odd = divmod(number, 2)
    return half + (odd and half % 2)


def _scaled(edge: int, side: int, long: int) -> int:
    return max(1, (2 * side * edge + long) // (2 * long))
