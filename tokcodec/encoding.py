"""How images become token files: the options of ``Codec.compress``."""

import copy
import math
import operator
from typing import Any, Self

from numpy.typing import NDArray

from tokcodec import checkpoint
from tokcodec.config import PreprocessingConfig
from tokcodec.config.geometry import MAX_TILE_TOKENS, Fit, Placement, Size, place
from tokcodec.errors import CheckpointError, ImageError
from tokcodec.image import Pixels, Source, Tiles, read_tiles
from tokcodec.packets import MOST_PACKETS
from tokcodec.tokenfile import TokenFile

# How many times wider than it is an image is taken to be, to try grids of other shapes.
_STRETCHES = (2**-0.5, 2**-0.25, 2**0.25, 2**0.5)


class Encoding:
    """The options of ``Codec.compress`` for one checkpoint.

    Attributes:
        most_bytes: the largest size of a file or a packet, in bytes or characters.
        prior: the prior to entropy-code with; None packs the tokens.
        stretch: see ``geometry.nearest_grid``.

    Raises:
        CheckpointError: the checkpoint does not support this fit, these tokens, packets, or grids
            of other shapes.
        TypeError: a number is not an integer.
        ValueError: an option is out of range, or options contradict each other.
    """

    def __init__(
        self,
        header: checkpoint.Header,
        fit: Fit | None,
        tokens: int | None,
        max_bytes: int | None,
        packets: int | None,
        packet_bytes: int | None,
        parity: bool,
        text: bool,
        background: tuple[int, int, int],
        packed: bool,
        best: bool,
    ) -> None:
        require_counts("max_bytes", max_bytes)
        require_counts("packets", packets)
        require_counts("packet_bytes", packet_bytes)
        if packets is not None and packets > MOST_PACKETS:
            raise ValueError(f"packets must be from 1 to {MOST_PACKETS}, not {packets}")
        if packets is None and (packet_bytes is not None or parity):
            raise ValueError("packet_bytes and parity need packets")
        if packets is not None and max_bytes is not None:
            raise ValueError("packets have packet_bytes, not max_bytes")
        if len(background) != 3 or not all(
            0 <= operator.index(value) <= 255 for value in background
        ):
            raise ValueError(f"background must be three values from 0 to 255, not {background}")
        checkpoint.check_token_count(header, tokens)
        self.fit = fit or header.config.default_fit
        checkpoint.check_fit(header, self.fit)
        if packets and (self.fit == "tile" or not header.config.has_grid):
            raise CheckpointError(
                "packets need a grid of tokens, and a fit without tiles", name=header.name
            )
        if best and not (header.config.multiple and self.fit == "aspect"):
            raise CheckpointError(
                "can try grids of several shapes only for a model of any size with the fit aspect",
                name=header.name,
            )
        self.header, self.tokens, self.best, self.stretch = header, tokens, best, 1.0
        self.most_bytes = packet_bytes if packets else max_bytes
        self.packets, self.parity, self.text = packets, parity, text
        red, green, blue = background
        self.background = (red, green, blue)
        self.prior = None if packed or not header.prior_id else checkpoint.read_prior(header)

    def size_of(self, file: TokenFile) -> int:
        """The size of a file, or of its largest packet."""
        return max(len(p.to_text()) if self.text else p.file_bytes for p in file.parts())

    @property
    def what(self) -> str:
        """What ``most_bytes`` limits, in words."""
        return "packet" if self.packets else "message" if self.text else "file"

    @property
    def most_tokens(self) -> int:
        """The most tokens of a tile that a search within the limit tries."""
        if not self._any_grid:
            return self.header.config.kept_tokens(self.tokens)
        assert self.most_bytes
        usual = 2 * self.most_bytes * (self.packets or 1)
        return self.tokens or min(usual, MAX_TILE_TOKENS)

    @property
    def _any_grid(self) -> bool:
        return bool(self.header.config.multiple) and self.fit not in ("tile", "native")

    def others(self) -> list[Self]:
        """The same options for grids of other shapes, which ``best`` also tries."""
        found = [copy.copy(self) for _ in _STRETCHES]
        for other, stretch in zip(found, _STRETCHES, strict=True):
            other.stretch = stretch
        return found

    def _place(self, size: Size, tokens: int | None) -> tuple[Placement, tuple[int, ...]]:
        return self.header.config.place(self.fit, size, tokens, self.stretch)

    def token_count(self, size: Size, tokens: int) -> int:
        """The number of tokens of an image of this size with at most ``tokens`` tokens a tile."""
        placement, shape = self._place(size, tokens)
        return placement.num_tiles * math.prod(shape)

    def original(self, image: Source, size: Size) -> Pixels:
        """The image in another size: uint8 [height, width, 3].

        Raises:
            ImageError: see ``image.read_tiles``.
        """
        tiles = read_tiles(
            image,
            PreprocessingConfig(),
            lambda own: place("aspect", own, size),
            self.background,
        )
        pixels: Pixels = tiles.pixels[0]
        return pixels

    def read(self, image: Source, tokens: int | None) -> Tiles:
        """
        Raises:
            ImageError: see ``image.read_tiles``.
        """
        return read_tiles(
            image,
            self.header.config.preprocessing,
            lambda size: self._place(size, tokens)[0],
            self.background,
        )

    def token_file(self, tiles: Tiles, found: NDArray[Any], tokens: int | None) -> TokenFile:
        """The file of an image.

        Args:
            tiles: the image.
            found: the tokens of the tiles.
            tokens: the most tokens of a tile to keep.

        Raises:
            ImageError: its packets are too large for parity.
        """
        config = self.header.config
        _, shape = self._place((tiles.width, tiles.height), tokens)
        kept = found.reshape(-1, *shape) if config.has_grid else found[:, : shape[0]]
        prior = None if self.packets else self.prior
        file = TokenFile.of(self.header, kept, tiles.width, tiles.height, self.fit, prior)
        if not self.packets:
            return file
        try:
            return file.split(self.packets, self.prior, self.parity)
        except ValueError as error:
            raise ImageError(str(error)) from error


def require_counts(name: str, *values: int | None) -> None:
    """
    Raises:
        TypeError: a value is not an integer.
        ValueError: a value is less than 1.
    """
    for value in values:
        if value is not None and not hasattr(value, "__index__"):
            raise TypeError(f"{name} must be an integer, not {value!r}")
        if value is not None and operator.index(value) < 1:
            raise ValueError(f"{name} must be 1 or more, not {value}")
