"""The numbers in the header of a token file: LEB128, seven bits per byte, the lowest first."""

from tokcodec.errors import TokenFileError

MOST = 0xFFFF  # the largest edge of an image in pixels, of a grid in tokens, of a canvas in tiles


def leb128(number: int) -> bytes:
    """Encode a number."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


class Leb128Reader:
    """Reads consecutive numbers from 1 to 65535, from ``place`` on."""

    def __init__(self, data: bytes, place: int) -> None:
        self.data, self.place = data, place

    def read(self) -> int:
        """
        Raises:
            TokenFileError: the number is 0 or too large, does not end, or is not in the shortest
                form.
        """
        number = 0
        for index, byte in enumerate(self.data[self.place : self.place + 3]):
            number |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if not 1 <= number <= MOST or (index and not byte):
                    break
                self.place += index + 1
                return number
        raise TokenFileError("damaged: a size in its header is not from 1 to 65535")
