"""How token files become images: the options of ``Codec.decompress``."""

import operator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tokcodec import checkpoint
from tokcodec.config.geometry import Placement, Size, place
from tokcodec.encoding import require_counts
from tokcodec.errors import CheckpointError, ImageError, TokenFileError, counted
from tokcodec.image import Canvas, check_output
from tokcodec.model.runtime import Runtime
from tokcodec.packets import fill_missing
from tokcodec.tokenfile import TokenFile, check_tokens

Rows = NDArray[Any]  # tokens int64 [n, *token_shape]
OutputSize = Size | int | Literal["original"] | None

SENSIBLE_EDGE = 1024  # pixels, the default limit of the longer edge of a decoded image


class Decoding:
    """The options of ``Codec.decompress`` for one model.

    Raises:
        CheckpointError: the checkpoint does not support this number of tokens.
        TypeError, ValueError: the size is not valid, or ``tokens`` is not an integer.
    """

    def __init__(
        self, header: checkpoint.Header, runtime: Runtime, size: OutputSize, tokens: int | None
    ) -> None:
        if isinstance(size, tuple | list):
            if len(size) != 2:
                raise ValueError(f"size must be a width and a height, or one edge, not {size}")
            require_counts("width and height", *size)
            size = (operator.index(size[0]), operator.index(size[1]))
        elif size is not None and size != "original":
            require_counts("size", size)
            size = operator.index(size)
        self._used = checkpoint.check_token_count(header, tokens)
        if tokens is not None and header.config.multiple:
            raise CheckpointError(
                "decodes only all tokens of a file together, not the first ones alone",
                name=header.name,
            )
        self.header, self.runtime, self.size, self.tokens = header, runtime, size, tokens

    def open(self, token_file: TokenFile) -> tuple[Canvas, Rows]:
        """The canvas of an image, and the tokens of its parts, [n, *token_shape].

        Raises:
            TokenFileError: the model cannot decode the file.
            ImageError: the image would be too large.
        """
        placement, shape = self._check(token_file)
        output = output_size(token_file, self.size, placement)
        check_output(placement, output)
        found = self._tokens(token_file).reshape(placement.num_tiles, -1)
        if self.tokens and found.shape[1] < self.tokens:
            raise TokenFileError(
                f"has {counted(found.shape[1], 'token')} per tile, not {self.tokens:,}"
            )
        if len(shape) == 1:
            return Canvas.of_tiles(placement, output), found[:, : self._used]
        found = found.reshape(-1, *shape)
        if placement.num_tiles == 1:
            return Canvas.of_tiles(placement, output), found
        return _overlapping(placement, output, _joined(found, token_file.tiles), shape)

    def _tokens(self, token_file: TokenFile) -> Rows:
        """The tokens of a file, tile by tile; missing ones are filled.

        Raises:
            TokenFileError: all tokens are missing, or the model needs those that are.
        """
        size = self.header.config.quantizer.codebook_size
        found = token_file.tokens_with(self.header, incomplete=True)
        if token_file.damaged:
            found = np.where(found < size, found, -1)
        check_tokens(found, size)
        if found.min() >= 0:
            return found
        if token_file.packets and not token_file.packets.numbers:
            raise TokenFileError("only the parity packet of an image, which has no tokens")
        if found.max() < 0:
            raise TokenFileError("damaged: none of its tokens is left")
        if not self.header.config.has_grid:
            first = found.reshape(len(found) // token_file.columns, -1)
            known = int((first >= 0).cumprod(axis=1).sum(axis=1).min())
            counts = [count for count in self.header.config.token_counts if count <= known]
            if not counts:
                raise TokenFileError("damaged: the model needs more tokens than are left")
            return first[:, : counts[-1]]
        grid = _joined(found.reshape(token_file.shape), token_file.tiles)
        filled = fill_missing(grid, self.runtime.lookup, self.runtime.quantize)
        rows, columns = token_file.tiles
        return filled.reshape(rows, token_file.rows, columns, token_file.columns).swapaxes(1, 2)

    def _check(self, token_file: TokenFile) -> tuple[Placement, tuple[int, ...]]:
        header, config = self.header, self.header.config
        if not header.decodes(token_file.model_id):
            raise TokenFileError(_other_model(header, token_file))
        checkpoint.check_fit(header, token_file.fit)
        original = (token_file.width, token_file.height)
        try:
            placement, shape = config.place_grid(
                token_file.fit, original, token_file.rows, token_file.columns
            )
        except ImageError as error:
            raise TokenFileError(f"damaged: {error}") from error
        if (token_file.bits, token_file.tiles) != (config.quantizer.bits, placement.grid[::-1]):
            raise TokenFileError(
                f"damaged: {token_file.tiles} tiles of tokens of {token_file.bits} bits, where "
                f"{header.name} has {placement.grid[::-1]} of {config.quantizer.bits} bits"
            )
        return placement, shape


def _joined(tiles: Rows, grid: tuple[int, int]) -> Rows:
    """The tokens [rows, columns] of a canvas, from those of its tiles, [n, rows, columns]."""
    rows, columns = grid
    _, down, across = tiles.shape
    canvas = tiles.reshape(rows, columns, down, across).swapaxes(1, 2)
    return canvas.reshape(rows * down, columns * across)


def _overlapping(
    placement: Placement, output: Size, canvas: Rows, tile: tuple[int, ...]
) -> tuple[Canvas, Rows]:
    """Divide a canvas into parts as large as a tile, half a tile apart, to hide seams between
    tiles; return also the tokens of the parts, row by row."""
    starts = []
    for axis in (0, 1):
        step, number = tile[axis], canvas.shape[axis] // tile[axis]
        between = range(step // 2, step * (number - 1), step)
        starts.append(sorted({*range(0, canvas.shape[axis], step), *between}))
    parts = [
        canvas[row : row + tile[0], column : column + tile[1]]
        for row in starts[0]
        for column in starts[1]
    ]
    width, height = placement.tile
    tops = tuple(row * height // tile[0] for row in starts[0])
    lefts = tuple(column * width // tile[1] for column in starts[1])
    return Canvas(placement, output, tops, lefts), np.stack(parts)


def _other_model(header: checkpoint.Header, token_file: TokenFile) -> str:
    fitting = checkpoint.find_by_model_id(token_file.model_id)
    remedy = "no bundled or cached one fits"
    if fitting:
        name = fitting.path if checkpoint.is_cached(fitting) else fitting.name
        remedy = f"{name} decodes it"
    return (
        f"its tokens are of model {token_file.model_id.hex()}, "
        f"{header.name} is {header.model_id[:6]}; {remedy}"
    )


def output_size(token_file: TokenFile, size: OutputSize, placement: Placement) -> Size:
    """Width and height of the decoded image.

    Args:
        token_file: the file.
        size: width and height; the longer edge; ``original`` for the size of the encoded image; or
            None for that, but at most ``SENSIBLE_EDGE`` or the size that the tokens show.
        placement: the placement of the image on its tiles.
    """
    if isinstance(size, tuple):
        return size
    if size is None:
        left, top, right, bottom = placement.visible
        size = max(SENSIBLE_EDGE, right - left, bottom - top)
        if max(placement.output) <= size:
            return placement.output
    if size == "original":
        return placement.output
    if token_file.fit == "crop":
        return size, size
    # As in the fit pad: the longer edge as given, the other one rounded half up.
    return place("pad", (token_file.width, token_file.height), (size, size)).resized
