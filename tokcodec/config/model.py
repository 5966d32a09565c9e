"""``ModelConfig``: the parts of a model, and its canonical text.

The canonical text is JSON with sorted keys and no spaces. Each part has its ``kind``; fields that
hold their default are left out. So a new field changes no identity if its default is the behaviour
before it existed.
"""

import json
import math
from bisect import bisect
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tokcodec.config import geometry
from tokcodec.config.convolutional import ConvolutionalDecoderConfig, ConvolutionalEncoderConfig
from tokcodec.config.geometry import Fit, Placement, Resize, Size
from tokcodec.config.parts import Config, Number, require
from tokcodec.config.quantizers import (
    BinaryConfig,
    CodebookConfig,
    FiniteScalarConfig,
    ResidualConfig,
)
from tokcodec.config.vit import (
    LatentDecoderConfig,
    LatentEncoderConfig,
    PatchDecoderConfig,
    PatchEncoderConfig,
    ProxyDecoderConfig,
)
from tokcodec.errors import ConfigError, ImageError
from tokcodec.io.json import parse_json

_LONGEST = 1 << 16  # the most characters of a config; most have about 300

# The kinds of each part.
Encoder = Annotated[
    PatchEncoderConfig | LatentEncoderConfig | ConvolutionalEncoderConfig,
    Field(discriminator="kind"),
]
Quantizer = Annotated[
    CodebookConfig | BinaryConfig | FiniteScalarConfig | ResidualConfig,
    Field(discriminator="kind"),
]
Decoder = Annotated[
    PatchDecoderConfig | LatentDecoderConfig | ProxyDecoderConfig | ConvolutionalDecoderConfig,
    Field(discriminator="kind"),
]
_ENCODE_SIDE = ("encoder", "quantizer", "preprocessing")

_Mean = Annotated[Number, Field(ge=-1000, le=1000)]
_Std = Annotated[Number, Field(ge=0.001, le=1000)]


class PreprocessingConfig(Config):
    """From image files to the numbers that the encoder sees, and back.

    Attributes:
        image_size: side S of the model's square, in pixels.
        pixel_scale: the encoder sees means of this many by this many pixels.
        mean, std: the encoder sees (value - mean) / std of a channel in [0, 1].
        reduced_jpeg: whether large JPEGs are decoded at a half, a quarter or an eighth of their
            size (Pillow's ``draft``): at least at twice the size that they are resized to, or with
            ``direct`` at least at the size that the encoder sees.
        resize: how images are resized. ``bicubic``, ``bilinear`` and ``lanczos`` equal
            torchvision's; ``adm`` is ADM's centre crop, which halves by means before a last bicubic
            step; ``chameleon`` is Lanczos with Chameleon's rounding. ``direct`` is one bicubic step
            from the pixels and colours of the file to the size that the encoder sees, which is
            several times as fast.
        crop_scale: with the fit ``crop``, the shorter edge over the side of the centre crop.
    """

    image_size: Annotated[int, Field(ge=1, le=4096)] = 256
    pixel_scale: Annotated[int, Field(ge=1, le=256)] = 1
    mean: tuple[_Mean, _Mean, _Mean] = (0.5, 0.5, 0.5)
    std: tuple[_Std, _Std, _Std] = (0.5, 0.5, 0.5)
    reduced_jpeg: bool = False
    resize: Resize = "bicubic"
    crop_scale: Annotated[float, Field(ge=1, le=4)] = 1.0

    @model_validator(mode="after")
    def _check_scale(self) -> Self:
        require(self.image_size % self.pixel_scale == 0, "pixel_scale must divide image_size")
        return self

    @property
    def model_size(self) -> int:
        """Side of the square that the encoder sees, in pixels."""
        return self.image_size // self.pixel_scale

    @property
    def read_scale(self) -> int:
        """``image_size`` over ``read_size``."""
        return self.pixel_scale if self.resize == "direct" else 1

    @property
    def read_size(self) -> int:
        """Side of the tiles that image files are resized to, in pixels."""
        return self.image_size // self.read_scale


class ModelConfig(Config):
    """Everything that decides what tokens mean, and how they are decoded.

    Attributes:
        encoder, quantizer, decoder: the parts of the model.
        preprocessing: how images become the encoder's input.
        rounding: how decoded pixels are rounded to 8 bits.
        default_fit: the fit if the user does not choose one. It does not change what tokens mean,
            because a token file has the fit that was used.
    """

    encoder: Encoder
    quantizer: Quantizer
    decoder: Decoder
    preprocessing: PreprocessingConfig = PreprocessingConfig()
    rounding: Literal["nearest", "down"] = "nearest"
    default_fit: Fit = "stretch"

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        side = self.preprocessing.model_size
        self.encoder.check(side)
        z_shape = self.encoder.z_shape(side, side)
        self.quantizer.check(z_shape)
        self.decoder.check(self.preprocessing.image_size, z_shape)
        require(
            self.default_fit not in ("aspect", "native") or self.multiple > 0,
            f"the fit {self.default_fit} needs an encoder and a decoder of images of any size",
        )
        return self

    @property
    def num_tokens(self) -> int:
        """Number of tokens of a square, N."""
        side = self.preprocessing.image_size
        return math.prod(self.token_shape(side, side))

    def token_shape(self, height: int, width: int) -> tuple[int, ...]:
        """(rows, columns) of the tokens of a tile of this size, or (n,) if they have no grid."""
        scale = self.preprocessing.pixel_scale
        z_shape = self.encoder.z_shape(height // scale, width // scale)
        return self.quantizer.token_shape(z_shape)

    @property
    def token_counts(self) -> Sequence[int]:
        """The numbers of first tokens of a square that decode alone, in rising order."""
        if self.decoder.prefixes:
            return range(1, self.num_tokens + 1)
        side = self.preprocessing.model_size
        return self.quantizer.token_counts(self.encoder.z_shape(side, side))

    def kept_tokens(self, most: int | None) -> int:
        """The largest of ``token_counts`` that is at most ``most``, or the smallest if none is."""
        counts = self.token_counts
        return counts[-1] if most is None else counts[max(0, bisect(counts, most) - 1)]

    def place(
        self, fit: Fit, size: Size, tokens: int | None = None, stretch: float = 1.0
    ) -> tuple[Placement, tuple[int, ...]]:
        """The placement of an image on the model's tiles, and the shape of a tile's tokens.

        Args:
            fit: how the image is fitted to the model's input size.
            size: width and height of the image.
            tokens: the most tokens of a tile, if the model takes grids of any size or decodes its
                first tokens alone.
            stretch: for the fit ``aspect``, see ``geometry.nearest_grid``.

        Raises:
            ImageError: the image is too large for the fit ``native``.
        """
        edge = self.preprocessing.image_size
        tile = (edge, edge)
        if fit == "native":
            width, height = (-(-length // self.multiple) * self.multiple for length in size)
            tile = (width, height)
        elif fit == "aspect":
            pixels = self.multiple // self.preprocessing.pixel_scale
            most = tokens or self.num_tokens
            rows, columns = geometry.nearest_grid(size, most, pixels, stretch)
            tile = (columns * self.multiple, rows * self.multiple)
        elif fit != "tile" and tokens and self.multiple:
            edge = math.isqrt(tokens) * self.multiple
            tile = (edge, edge)
        placement, shape = self._placed(fit, size, tile)
        return placement, shape if self.has_grid else (self.kept_tokens(tokens),)

    def place_grid(
        self, fit: Fit, size: Size, rows: int, columns: int
    ) -> tuple[Placement, tuple[int, ...]]:
        """The same for tiles with this many rows and columns of tokens.

        Raises:
            ImageError: the fit does not give such a grid.
        """
        edge = self.preprocessing.image_size
        tile = (columns * self.multiple, rows * self.multiple) if self.multiple else (edge, edge)
        placement, shape = self._placed(fit, size, tile)
        if self.has_grid:
            fits = shape == (rows, columns) and (fit in ("aspect", "native") or rows == columns)
        else:
            fits = rows == 1 and columns in self.token_counts
            shape = (columns,)
        if not fits or (fit in ("tile", "native") and placement != self.place(fit, size)[0]):
            raise ImageError(
                f"{size[0]}x{size[1]} pixels in the fit {fit} are not {rows}x{columns} tokens"
            )
        return placement, shape

    def _placed(self, fit: Fit, size: Size, tile: Size) -> tuple[Placement, tuple[int, ...]]:
        shape = self.token_shape(tile[1], tile[0])
        if math.prod(shape) > geometry.MAX_TILE_TOKENS:
            raise ImageError(
                f"{size[0]}x{size[1]} pixels are {math.prod(shape):,} tokens, more than the "
                f"{geometry.MAX_TILE_TOKENS:,} that the fit {fit} takes; make the image smaller, "
                "or use the fit tile"
            )
        images = self.preprocessing
        return geometry.place(fit, size, tile, images.resize, images.crop_scale), shape

    @property
    def multiple(self) -> int:
        """Side of a token in pixels; 0 if the model sees only squares of ``image_size``.

        If it is not 0, the model takes grids of any size, and has the fits ``aspect`` and
        ``native``.
        """
        multiple = self.encoder.multiple * self.preprocessing.pixel_scale
        return multiple if multiple == self.decoder.multiple and self.quantizer.any_grid else 0

    @property
    def has_grid(self) -> bool:
        """Whether tokens have rows and columns."""
        side = self.preprocessing.image_size
        return len(self.token_shape(side, side)) == 2

    def to_json(self) -> str:
        """Canonical JSON; ``from_json`` gives an equal config back."""
        return _canonical(self.model_dump(exclude_defaults=True))

    def encode_side_json(self) -> str:
        """Canonical JSON of the fields that decide what a token means."""
        fields = self.model_dump(exclude_defaults=True)
        return _canonical({name: fields[name] for name in _ENCODE_SIDE if name in fields})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse canonical or other JSON.

        Raises:
            ConfigError: it is not JSON, or a field is unknown, missing or of another type.
        """
        try:
            parse_json(text, _LONGEST)  # which also refuses duplicate names
        except ValueError as error:
            raise ConfigError(f"not JSON: {error}", name="config") from error
        return cls.parse(text, "config")


def _canonical(fields: dict[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
