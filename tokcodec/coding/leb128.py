"""The numbers in the header of a token file: LEB128, seven bits a byte, the lowest first."""

from tokcodec.errors import TokenFileError

MOST = 0xFFFF  # pixels along an edge of an image, tokens of a grid, tiles of a canvas


def leb128(number: int) -> bytes:
    """A number in LEB128."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


class Leb128Reader:
    """Numbers from 1 to 65535 in bytes, one after the other, from ``place`` on."""

    def __init__(self, data: bytes, place: int) -> None:
        self.data, self.place = data, place

    def read(self) -> int:
        """
        Raises:
            TokenFileError: it is 0 or too large, does not end, or is not in the shortest form.
        """
        number = 0
        for index, byte in enumerate(self.data[self.place : self.place + 3]):
            number |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if not 1 <= number <= MOST or (index and not byte):
                    break
                self.place += index + 1
                return number
        raise TokenFileError("damaged: a size in its header is none from 1 to 65535")
