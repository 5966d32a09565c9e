"""``ModelConfig``: a model as its parts, and its canonical text.

Canonical means sorted keys, no spaces, and fields that hold their default left out. So a field
added later, whose default is the behaviour from before it existed, changes no identity.

The text of a part begins with its ``kind``. The first kinds have none: a config with a patch or
latent encoder says so in ``layout``, and some fields of its parts stand beside them (``_BESIDE``),
as in all configs from before there were others.
"""

import dataclasses
import json
import math
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tokcodec.config import geometry
from tokcodec.config.convolutional import ConvolutionalDecoderConfig, ConvolutionalEncoderConfig
from tokcodec.config.geometry import Fit, Placement, Resize, Size
from tokcodec.config.parts import (
    Bounded,
    Bounds,
    DecoderConfig,
    EncoderConfig,
    Part,
    QuantizerConfig,
    require,
)
from tokcodec.config.quantizers import BinaryConfig, CodebookConfig, FiniteScalarConfig
from tokcodec.config.vit import (
    LatentDecoderConfig,
    LatentEncoderConfig,
    PatchDecoderConfig,
    PatchEncoderConfig,
    ProxyDecoderConfig,
)
from tokcodec.errors import ConfigError, ImageError, quoted
from tokcodec.io.json import parse_json

Triple = tuple[float, float, float]

_LONGEST = 1 << 16  # characters of a config; those of models have 300 or so

DEFAULT_WEIGHTS = "tokcodec"  # the bundled checkpoint that encodes unless another is named

# Raised whenever a pixel that reaches the model would change for the same file.
PREPROCESSING_VERSION = 1

# The kinds of every part, by name: what reads configs and builds models.
ENCODERS: dict[str, type[Part]] = {
    kind.kind: kind
    for kind in (PatchEncoderConfig, LatentEncoderConfig, ConvolutionalEncoderConfig)
}
QUANTIZERS: dict[str, type[Part]] = {
    kind.kind: kind for kind in (CodebookConfig, BinaryConfig, FiniteScalarConfig)
}
DECODERS: dict[str, type[Part]] = {
    kind.kind: kind
    for kind in (
        PatchDecoderConfig,
        LatentDecoderConfig,
        ProxyDecoderConfig,
        ConvolutionalDecoderConfig,
    )
}
_KINDS: dict[Any, dict[str, type[Part]]] = {
    EncoderConfig: ENCODERS,
    QuantizerConfig: QUANTIZERS,
    DecoderConfig: DECODERS,
}

_LAYOUTS = ("patch", "latent")
_BESIDE = {
    "encoder": ("num_latents", "legacy_latents"),
    "decoder": ("pixel_overlap", "pixel_convolution", "prefix_tokens", "vqgan"),
}


@dataclass(frozen=True)
class PreprocessingConfig(Bounded):
    """From an image file to the numbers that the encoder sees, and back.

    Attributes:
        version: of the rules in ``tokcodec.image``; this program knows one.
        image_size: side S of the model's square, in pixels.
        pixel_scale: the square is averaged down by this factor before the encoder, and the
            decoder's output enlarged by it (bicubic).
        mean, std: a channel in [0, 1] enters the encoder as (value - mean) / std.
        reduced_jpeg: large JPEGs are opened at a half, a quarter or an eighth of their size
            (Pillow's ``draft``), never below twice that of the square they are resized to; in the
            ``direct`` way never below that of what the encoder sees.
        resize: how images become tiles. To ``image_size``, exactly as published pipelines do:
            ``bicubic``; ``adm``, which crops as ADM's centre crop does, halving by means before a
            last bicubic step; ``lanczos``, as Chameleon's. Or ``direct``, in one bicubic step from
            the file's own pixels and colours to what the encoder sees, several times as fast.
    """

    version: Annotated[int, Bounds(PREPROCESSING_VERSION, PREPROCESSING_VERSION)] = (
        PREPROCESSING_VERSION
    )
    image_size: Annotated[int, Bounds(1, 4096)] = 256
    pixel_scale: Annotated[int, Bounds(1, 256)] = 1
    mean: Annotated[Triple, Bounds(-1000, 1000, items=3)] = (0.5, 0.5, 0.5)
    std: Annotated[Triple, Bounds(0.001, 1000, items=3)] = (0.5, 0.5, 0.5)
    reduced_jpeg: bool = False
    resize: Resize = "bicubic"

    def __post_init__(self) -> None:
        require(
            self.version == PREPROCESSING_VERSION,
            f"preprocessing version {self.version} needs another tokcodec "
            f"(this one knows {PREPROCESSING_VERSION})",
        )
        super().__post_init__()
        require(self.image_size % self.pixel_scale == 0, "pixel_scale must divide image_size")

    @property
    def model_size(self) -> int:
        """Side of the square that the encoder sees, in its own pixels."""
        return self.image_size // self.pixel_scale

    @property
    def read_scale(self) -> int:
        """How many times smaller than ``image_size`` tiles are read, so that the model need not
        average them."""
        return self.pixel_scale if self.resize == "direct" else 1

    @property
    def read_size(self) -> int:
        """Side of the tiles that image files are read as, in pixels."""
        return self.image_size // self.read_scale


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that decides what a token means, and how it becomes pixels again.

    Attributes:
        encoder, quantizer, decoder: the parts, each of a kind.
        preprocessing: pixels in and out.
        rounding: how decoded pixels become 8-bit levels: to the ``nearest``, or ``down``.
        default_fit: how an image is fitted to the square unless the user says otherwise. No
            part of what a token means: the token file carries the fit that was used.
    """

    encoder: EncoderConfig
    quantizer: QuantizerConfig
    decoder: DecoderConfig
    preprocessing: PreprocessingConfig = PreprocessingConfig()
    rounding: Literal["nearest", "down"] = "nearest"
    default_fit: Fit = "stretch"

    def __post_init__(self) -> None:
        side = self.preprocessing.model_size
        self.encoder.check(side)
        self.decoder.check(self.preprocessing.image_size, self.encoder.token_shape(side, side))
        require(
            self.default_fit not in ("aspect", "native") or self.multiple > 0,
            f"the fit {self.default_fit} needs an encoder and a decoder of images of any size",
        )

    @property
    def num_tokens(self) -> int:
        """Tokens a square, N."""
        side = self.preprocessing.image_size
        return math.prod(self.token_shape(side, side))

    def token_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Of the tokens of a square, or of a whole image of multiples of ``multiple``: (rows,
        columns), or (n,) where tokens have no place."""
        scale = self.preprocessing.pixel_scale
        return self.encoder.token_shape(height // scale, width // scale)

    def place(
        self, fit: Fit, size: Size, tokens: int | None = None
    ) -> tuple[Placement, tuple[int, ...]]:
        """Where an image of ``size`` lies on the model's tiles, and the shape of a tile's tokens.

        Args:
            fit: how the image meets the model's input size.
            size: width and height.
            tokens: the most tokens of a tile, where the model takes grids of any size.

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
            rows, columns = geometry.nearest_grid(size, tokens or self.num_tokens, pixels)
            tile = (columns * self.multiple, rows * self.multiple)
        elif fit != "tile" and tokens and self.multiple:
            edge = math.isqrt(tokens) * self.multiple
            tile = (edge, edge)
        return self._placed(fit, size, tile)

    def place_grid(
        self, fit: Fit, size: Size, rows: int, columns: int
    ) -> tuple[Placement, tuple[int, ...]]:
        """As ``place``, for tiles that have this many rows and columns of tokens.

        Raises:
            ImageError: the fit gives no such grid.
        """
        edge = self.preprocessing.image_size
        tile = (columns * self.multiple, rows * self.multiple) if self.multiple else (edge, edge)
        placement, shape = self._placed(fit, size, tile)
        if self.has_grid:
            fits = shape == (rows, columns) and (fit in ("aspect", "native") or rows == columns)
        else:
            fewest = 1 if self.prefix_tokens else self.num_tokens
            fits = rows == 1 and fewest <= columns <= self.num_tokens
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
                "or take the fit tile"
            )
        return geometry.place(fit, size, tile, self.preprocessing.resize), shape

    @property
    def multiple(self) -> int:
        """Pixels along a side of a token, where the model takes grids of any size, so that it has
        the fits ``aspect`` and ``native``; 0 where it sees only squares of ``image_size``."""
        multiple = self.encoder.multiple * self.preprocessing.pixel_scale
        return multiple if multiple == self.decoder.multiple else 0

    @property
    def has_grid(self) -> bool:
        """Whether tokens stand in rows and columns."""
        side = self.preprocessing.image_size
        return len(self.token_shape(side, side)) == 2

    @property
    def prefix_tokens(self) -> bool:
        """Whether any prefix of a square's tokens decodes."""
        return self.decoder.prefixes

    def to_json(self) -> str:
        """Canonical JSON; ``from_json`` gives an equal config back."""
        return _canonical(_text(self))

    def encode_side_json(self) -> str:
        """Canonical JSON of the fields that decide what a token means."""
        fields = _text(self)
        names = ("layout", "encoder", "quantizer", "preprocessing", *_BESIDE["encoder"])
        return _canonical({name: fields[name] for name in names if name in fields})

    @classmethod
    def from_json(cls, text: str) -> "ModelConfig":
        """Parses JSON strictly: an unknown, missing or ill-typed field is an error.

        Raises:
            ConfigError: with the path of the offending field.
        """
        try:
            fields = parse_json(text, _LONGEST)
        except ValueError as error:
            raise ConfigError(f"config is not JSON: {error}") from error
        config = _parse(cls, _shards_folder(fields), "config")
        assert isinstance(config, ModelConfig)
        return config


def _canonical(fields: dict[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _text(config: ModelConfig) -> dict[str, Any]:
    """The config as plain data, as it is written."""
    fields = _plain(config)
    layout = config.encoder.kind if config.encoder.kind in _LAYOUTS else None
    if layout:
        fields["layout"] = layout
    for name, part, first in (
        ("encoder", config.encoder, (layout,)),
        ("decoder", config.decoder, (layout, "proxy") if layout else ()),
    ):
        if part.kind not in first:
            fields[name]["kind"] = part.kind
            continue
        for beside in _BESIDE[name]:
            if beside in fields[name]:
                fields[beside] = fields[name].pop(beside)
    quantizer = fields["quantizer"]
    if config.quantizer.kind != CodebookConfig.kind:
        quantizer["kind"] = config.quantizer.kind
    elif quantizer.get("metric") == "cosine":
        del quantizer["metric"]
        quantizer["l2_normalize"] = True
    return fields


def _shards_folder(fields: Any) -> Any:
    """What ``_text`` gave, with every field in its part; what is ill-formed is left to parsing."""
    if not isinstance(fields, dict):
        return fields
    fields = {name: dict(v) if isinstance(v, dict) else v for name, v in fields.items()}
    quantizer = fields.get("quantizer")
    if isinstance(quantizer, dict):
        quantizer.setdefault("kind", CodebookConfig.kind)
        if type(quantizer.get("l2_normalize")) is bool and quantizer.pop("l2_normalize"):
            quantizer["metric"] = "cosine"
    if "layout" not in fields:
        return fields
    layout = fields.pop("layout")
    if layout not in _LAYOUTS:
        raise ConfigError(f"config.layout: {quoted(layout)} is none of {', '.join(_LAYOUTS)}")
    kinds = {"encoder": layout, "decoder": "proxy" if "vqgan" in fields else layout}
    for name, kind in kinds.items():
        part = fields.get(name)
        if isinstance(part, dict) and part.setdefault("kind", kind) == kind:
            part |= {beside: fields.pop(beside) for beside in _BESIDE[name] if beside in fields}
    return fields


def _plain(config: Any) -> dict[str, Any]:
    """Nested dicts of the fields that differ from their defaults."""
    fields: dict[str, Any] = {}
    types_of = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == field.default:
            continue
        if types_of[field.name] in (float, Triple):  # 4 and 4.0 are one value and must be one text
            value = tuple(map(float, value)) if isinstance(value, tuple) else float(value)
        if dataclasses.is_dataclass(value):
            value = _plain(value)
        fields[field.name] = list(value) if isinstance(value, tuple) else value
    return fields


def _parse(cls: Any, fields: Any, where: str) -> Any:
    if not isinstance(fields, dict):
        raise ConfigError(f"{where}: expected an object, found {quoted(fields)}")
    if cls in _KINDS:
        cls, fields = _of_kind(_KINDS[cls], fields, where)
    types_of = typing.get_type_hints(cls)
    known = {field.name for field in dataclasses.fields(cls)}
    values = {}
    for name, value in fields.items():
        if name not in known:
            raise ConfigError(f"{where}.{name}: unknown field; it may need a newer tokcodec")
        values[name] = _parse_value(types_of[name], value, f"{where}.{name}")
    for field in dataclasses.fields(cls):
        if field.name not in values and field.default is dataclasses.MISSING:
            raise ConfigError(f"{where}.{field.name}: missing")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _of_kind(
    kinds: Mapping[str, type[Part]], fields: Mapping[str, Any], where: str
) -> tuple[type[Part], dict[str, Any]]:
    kind = fields.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise ConfigError(f"{where}.kind: {quoted(kind)} is none of {', '.join(kinds)}")
    return kinds[kind], {name: value for name, value in fields.items() if name != "kind"}


def _parse_value(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _parse(kind, value, where)
    if typing.get_origin(kind) is Literal:
        valid = any(value == item and type(value) is type(item) for item in typing.get_args(kind))
    elif isinstance(kind, types.GenericAlias):  # a tuple of one type
        item_kind, *others = typing.get_args(kind)
        valid = isinstance(value, list)
        if valid and (others == [...] or len(value) == 1 + len(others)):
            return tuple(_parse_value(item_kind, item, where) for item in value)
        valid = False
    elif kind is float:
        valid = isinstance(value, int | float) and not isinstance(value, bool)
        valid = valid and abs(value) <= sys.float_info.max  # NaN is not
        value = float(value) if valid else value
    else:
        valid = type(value) is kind
    if not valid:
        raise ConfigError(f"{where}: {quoted(value)} is not a valid value")
    return value
