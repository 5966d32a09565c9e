"""The numbers in the header of a token file.

They are written as LEB128: seven bits per byte, the lowest first. Small numbers take fewer bytes,
so rows and columns are one number, and the height is a difference from the shape of the grid.
"""

import math

from tokcodec.errors import TokenFileError

MOST = 0xFFFF  # the largest edge of an image in pixels, of a grid in tokens, of a canvas in tiles
_MOST_BYTES = 5  # of a number


def leb128(number: int) -> bytes:
    """Encode a number from 0 on."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def shape_number(rows: int, columns: int) -> int:
    """The number of a shape, counted along diagonals: 1x1, 1x2, 2x1, 1x3, 2x2, 3x1, 1x4, ..."""
    diagonal = rows + columns - 2
    return diagonal * (diagonal + 1) // 2 + rows - 1


def height_number(height: int, width: int, rows: int, columns: int) -> int:
    """The number of a height: its difference from that of an image in the shape of its grid.

    0, -1, 1, -2, 2, ... are the numbers 0, 1, 2, 3, 4, ...
    """
    difference = height - _likely_height(width, rows, columns)
    return 2 * difference if difference >= 0 else -2 * difference - 1


def _likely_height(width: int, rows: int, columns: int) -> int:
    """The height of an image of this width that has the shape of its grid, rounded half up."""
    return min((2 * width * rows + columns) // (2 * columns), MOST)


class HeaderReader:
    """Reads consecutive numbers, from ``place`` on.

    Every method raises ``TokenFileError`` if a number does not end, is not in its shortest form, or
    stands for a size that is not from 1 to 65535.
    """

    def __init__(self, data: bytes, place: int) -> None:
        self.data, self.place = data, place

    def number(self) -> int:
        """A number from 0 on."""
        number = 0
        for index, byte in enumerate(self.data[self.place : self.place + _MOST_BYTES]):
            number |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if index and not byte:
                    break
                self.place += index + 1
                return number
        raise TokenFileError("damaged: a number in its header does not end")

    def shape(self) -> tuple[int, int]:
        """Rows and columns from their ``shape_number``."""
        number = self.number()
        diagonal = (math.isqrt(8 * number + 1) - 1) // 2
        row = number - diagonal * (diagonal + 1) // 2
        return _size(row + 1), _size(diagonal - row + 1)

    def width(self) -> int:
        """The width of the image."""
        return _size(self.number())

    def height(self, width: int, rows: int, columns: int) -> int:
        """The height of the image from its ``height_number``."""
        number = self.number()
        difference = number // 2 if number % 2 == 0 else -(number + 1) // 2
        return _size(_likely_height(width, rows, columns) + difference)


def _size(number: int) -> int:
    if not 1 <= number <= MOST:
        raise TokenFileError("damaged: a size in its header is not from 1 to 65535")
    return number
