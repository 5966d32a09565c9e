"""How images become token files: what the options of ``Codec.compress`` ask for."""

import math
import operator
from dataclasses import dataclass
from typing import Any, Self

from numpy.typing import NDArray

from tokcodec import checkpoint
from tokcodec.coding.prior import Prior
from tokcodec.config.geometry import MAX_TILE_TOKENS, Fit, Size
from tokcodec.errors import CheckpointError, ImageError
from tokcodec.image import Source, Tiles, read_tiles
from tokcodec.packets import MOST_PACKETS
from tokcodec.tokenfile import TokenFile


@dataclass(frozen=True)
class Limit:
    """How large token files may be, in bytes or characters, and how they are split into packets."""

    most_bytes: int | None = None
    packets: int | None = None
    parity: bool = False
    text: bool = False

    @classmethod
    def of(
        cls,
        max_bytes: int | None,
        packets: int | None,
        packet_bytes: int | None,
        parity: bool,
        text: bool,
    ) -> Self:
        """
        Raises:
            TypeError: a number that is no integer.
            ValueError: a number out of range, or one that needs another.
        """
        require_counts("max_bytes", max_bytes)
        require_counts("packets", packets)
        require_counts("packet_bytes", packet_bytes)
        if packets is not None and packets > MOST_PACKETS:
            raise ValueError(f"packets must be from 1 to {MOST_PACKETS}, not {packets}")
        if packets is None and (packet_bytes is not None or parity):
            raise ValueError("packet_bytes and parity need packets")
        if packets is not None and max_bytes is not None:
            raise ValueError("packets have packet_bytes, not max_bytes")
        return cls(packet_bytes if packets else max_bytes, packets, parity, text)

    @property
    def what(self) -> str:
        """What may not be larger."""
        return "packet" if self.packets else "message" if self.text else "file"

    @property
    def unit(self) -> str:
        return "character" if self.text else "byte"

    def size_of(self, file: TokenFile) -> int:
        """Of a file, or of its largest packet."""
        return max(len(p.to_text()) if self.text else p.file_bytes for p in file.parts())


@dataclass(frozen=True)
class Encoding:
    """How images become token files.

    ``tokens`` are asked for, of each tile; the prior is None if tokens are to be packed.
    """

    header: checkpoint.Header
    fit: Fit
    tokens: int | None
    background: tuple[int, int, int]
    prior: Prior | None
    limit: Limit

    @classmethod
    def of(
        cls,
        header: checkpoint.Header,
        fit: Fit | None,
        tokens: int | None,
        background: tuple[int, int, int],
        packed: bool,
        limit: Limit,
    ) -> Self:
        """
        Raises:
            CheckpointError: the checkpoint does not support this fit, these tokens, or packets.
            TypeError, ValueError: no such background, or tokens that are no integer.
        """
        if len(background) != 3 or not all(
            0 <= operator.index(value) <= 255 for value in background
        ):
            raise ValueError(f"background must be three values from 0 to 255, not {background}")
        if tokens is not None:
            operator.index(tokens)  # raises TypeError; the range depends on the checkpoint
        checkpoint.check_token_count(header, tokens)
        fit = fit or header.config.default_fit
        checkpoint.check_fit(header, fit)
        if limit.packets and (fit == "tile" or not header.config.has_grid):
            raise CheckpointError(
                f"{header.name}: packets need a grid of tokens, and a fit without tiles"
            )
        prior = None if packed or not header.prior_id else checkpoint.read_prior(header)
        red, green, blue = background
        return cls(header, fit, tokens, (red, green, blue), prior, limit)

    @property
    def most_tokens(self) -> int:
        """The most tokens of a tile that a search within the limit tries."""
        if not self._any_grid:
            return self.header.config.kept_tokens(self.tokens)
        assert self.limit.most_bytes
        usual = 2 * self.limit.most_bytes * (self.limit.packets or 1)
        return self.tokens or min(usual, MAX_TILE_TOKENS)

    @property
    def _any_grid(self) -> bool:
        return bool(self.header.config.multiple) and self.fit not in ("tile", "native")

    def token_count(self, size: Size, tokens: int) -> int:
        """Of the file of an image in at most ``tokens`` tokens a tile."""
        placement, shape = self.header.config.place(self.fit, size, tokens)
        return placement.num_tiles * math.prod(shape)

    def read(self, image: Source, tokens: int | None) -> Tiles:
        """
        Raises:
            ImageError: see ``image.read_tiles``.
        """
        config = self.header.config
        return read_tiles(
            image,
            config.preprocessing,
            lambda size: config.place(self.fit, size, tokens)[0],
            self.background,
        )

    def token_file(self, tiles: Tiles, found: NDArray[Any], tokens: int | None) -> TokenFile:
        """The file of the tokens that were found in tiles, of which at most ``tokens`` each are
        kept.

        Raises:
            ImageError: its packets are too large for parity.
        """
        config, limit = self.header.config, self.limit
        _, shape = config.place(self.fit, (tiles.width, tiles.height), tokens)
        kept = found.reshape(-1, *shape) if config.has_grid else found[:, : shape[0]]
        prior = None if limit.packets else self.prior
        file = TokenFile.of(self.header, kept, tiles.width, tiles.height, self.fit, prior)
        if not limit.packets:
            return file
        try:
            return file.split(limit.packets, self.prior, limit.parity)
        except ValueError as error:
            raise ImageError(str(error)) from error


def require_counts(name: str, *values: int | None) -> None:
    """
    Raises:
        TypeError: a value is no integer.
        ValueError: it is less than 1.
    """
    for value in values:
        if value is not None and operator.index(value) < 1:
            raise ValueError(f"{name} must be 1 or more, not {value}")
