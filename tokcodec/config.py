"""What a model is, as plain data: frozen dataclasses and their canonical JSON.

Canonical means sorted keys, no spaces, and fields that hold their default left out. So a field
added later, whose default is the behaviour from before it existed, changes no identity.
"""

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

from tokcodec.errors import ConfigError

Fit = Literal["stretch", "crop", "pad", "tile"]
Layout = Literal["patch", "latent"]
Triple = tuple[float, float, float]

DEFAULT_WEIGHTS = "tokcodec-64"  # the bundled checkpoint that encodes unless another is named

# Raised whenever a pixel that reaches the model would change for the same file.
PREPROCESSING_VERSION = 1


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class VitConfig:
    """One stack of pre-norm ViT blocks and the patches at its picture end.

    Attributes:
        width: channels of the residual stream.
        layers: number of blocks.
        heads: attention heads; divides ``width``.
        patch_size: side P of a patch, in pixels of the picture that the model sees.
        mlp_ratio: hidden width of the MLP over ``width``.
        class_token: a further learned token before all others, as in TiTok's code.
        outer_norms: LayerNorms before the first block and behind the last.
    """

    width: int
    layers: int
    heads: int
    patch_size: int
    mlp_ratio: float = 4.0
    class_token: bool = False
    outer_norms: bool = False

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "patch_size", "mlp_ratio"):
            _require(getattr(self, name) > 0, f"{name} must be positive")
        _require(self.width % self.heads == 0, "heads must divide width")


@dataclass(frozen=True)
class QuantizerConfig:
    """The codebook.

    Attributes:
        codebook_size: number of vectors K.
        code_dim: channels d of a vector.
        l2_normalize: compare directions (cosine distance) and decode from unit vectors.
    """

    codebook_size: int
    code_dim: int
    l2_normalize: bool = False

    def __post_init__(self) -> None:
        _require(2 <= self.codebook_size <= 2**32, "codebook_size must be from 2 to 2**32")
        _require(self.code_dim > 0, "code_dim must be positive")

    @property
    def bits(self) -> int:
        """Bits a code, ⌈log2 K⌉."""
        return (self.codebook_size - 1).bit_length()


@dataclass(frozen=True)
class VqganConfig:
    """The convolutional pixel decoder of MaskGIT-VQGAN (arXiv 2202.04200), which the first TiTok
    checkpoints (arXiv 2406.07550, section 3.4) put behind a softmax over its codes, their proxies.

    Attributes:
        proxy_codes: size of its codebook.
        code_dim: channels of a vector of its codebook.
        channels: channels at full resolution; multiples of 32.
        multipliers: of ``channels``, a level each, the full resolution first; a level halves it.
        blocks: residual blocks a level.
    """

    proxy_codes: int = 1024
    code_dim: int = 256
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2

    def __post_init__(self) -> None:
        for name in ("proxy_codes", "code_dim", "channels", "blocks"):
            _require(getattr(self, name) > 0, f"{name} must be positive")
        _require(self.channels % 32 == 0, "channels must be a multiple of 32")
        _require(
            bool(self.multipliers) and min(self.multipliers) > 0, "multipliers must be positive"
        )


@dataclass(frozen=True)
class PreprocessingConfig:
    """From a picture file to the numbers that the encoder sees, and back.

    Attributes:
        version: of the rules in ``tokcodec.picture``; this program knows one.
        image_size: side S of the model's square, in pixels.
        pixel_scale: the square is averaged down by this factor before the encoder, and the
            decoder's output enlarged by it (bicubic).
        mean, std: a channel in [0, 1] enters the encoder as (value - mean) / std.
        reduced_jpeg: large JPEGs are opened at a half, a quarter or an eighth of their size,
            never below twice the size they are needed in (Pillow's ``draft``).
    """

    version: int = PREPROCESSING_VERSION
    image_size: int = 256
    pixel_scale: int = 1
    mean: Triple = (0.5, 0.5, 0.5)
    std: Triple = (0.5, 0.5, 0.5)
    reduced_jpeg: bool = False

    def __post_init__(self) -> None:
        _require(
            self.version == PREPROCESSING_VERSION,
            f"preprocessing version {self.version} needs another tokcodec "
            f"(this one knows {PREPROCESSING_VERSION})",
        )
        _require(self.image_size > 0 and self.pixel_scale > 0, "sizes must be positive")
        _require(self.image_size % self.pixel_scale == 0, "pixel_scale must divide image_size")
        _require(all(value > 0 for value in self.std), "std must be positive")

    @property
    def model_size(self) -> int:
        """Side of the square that the encoder sees, in its own pixels."""
        return self.image_size // self.pixel_scale


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides what a code means, and how it becomes pixels again.

    Attributes:
        layout: ``patch`` (a code a patch) or ``latent`` (``num_latents`` learned tokens; TiTok,
            arXiv 2406.07550, section 3.2).
        encoder, decoder: their transformers, each of its own size.
        quantizer: the codebook.
        preprocessing: pixels in and out.
        num_latents: number of latent tokens; 0 in the ``patch`` layout.
        legacy_latents: the latents, [N, width], are read as [width, N] without transposing them,
            as TiTok's first checkpoints were trained to (``is_legacy`` in its code).
        prefix_codes: trained so that any prefix of the codes decodes (One-D-Piece, arXiv
            2501.10064, section 3).
        pixel_convolution: a 3x3 convolution smooths the pixels that the decoder gives.
        vqgan: a convolutional pixel decoder in place of the linear map from tokens to patches.
        pixel_overlap: pixels by which a patch that the decoder gives reaches over each of its
            borders, where it is added to its neighbours; so borders need not show.
        default_fit: how a picture is fitted to the square unless the user says otherwise. No
            part of what a code means: the token file carries the fit that was used.
    """

    layout: Layout
    encoder: VitConfig
    decoder: VitConfig
    quantizer: QuantizerConfig
    preprocessing: PreprocessingConfig = PreprocessingConfig()
    num_latents: int = 0
    legacy_latents: bool = False
    prefix_codes: bool = False
    pixel_overlap: int = 0
    pixel_convolution: bool = False
    vqgan: VqganConfig | None = None
    default_fit: Fit = "stretch"

    def __post_init__(self) -> None:
        size = self.preprocessing.model_size
        for part in (self.encoder, self.decoder):
            _require(size % part.patch_size == 0, f"patch_size must divide the {size} pixels seen")
        _require(
            0 <= self.pixel_overlap <= self.decoder.patch_size,
            "pixel_overlap must be from 0 to the decoder's patch_size",
        )
        if self.layout == "patch":
            _require(self.num_latents == 0, "num_latents belongs to the latent layout")
            _require(not self.legacy_latents, "legacy_latents belongs to the latent layout")
            _require(not self.prefix_codes, "prefix_codes belongs to the latent layout")
            _require(
                self.encoder.patch_size == self.decoder.patch_size,
                "in the patch layout encoder and decoder share one patch_size",
            )
        else:
            _require(self.num_latents > 0, "the latent layout needs num_latents")
        if self.vqgan:
            _require(
                2 ** (len(self.vqgan.multipliers) - 1) == self.decoder.patch_size,
                "the levels of vqgan must enlarge by the decoder's patch_size",
            )
            _require(
                not (self.pixel_overlap or self.pixel_convolution),
                "pixel_overlap and pixel_convolution have no meaning beside vqgan",
            )

    @property
    def num_codes(self) -> int:
        """Codes a square, N."""
        return self.num_latents or self.grid(self.encoder) ** 2

    def grid(self, part: VitConfig) -> int:
        """Patches along one side of the square, for ``encoder`` or ``decoder``."""
        return self.preprocessing.model_size // part.patch_size

    def to_json(self) -> str:
        """Canonical JSON; ``from_json`` gives an equal config back."""
        return _canonical(_plain(self))

    def encode_side_json(self) -> str:
        """Canonical JSON of the fields that decide what a code means."""
        fields = _plain(self)
        names = (
            "layout",
            "encoder",
            "quantizer",
            "preprocessing",
            "num_latents",
            "legacy_latents",
        )
        return _canonical({name: fields[name] for name in names if name in fields})

    @classmethod
    def from_json(cls, text: str) -> "ModelConfig":
        """Parses JSON strictly: an unknown, missing or ill-typed field is an error.

        Raises:
            ConfigError: with the path of the offending field.
        """
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"config is not JSON: {error}") from error
        config = _parse(cls, fields, "config")
        assert isinstance(config, ModelConfig)
        return config


def _canonical(fields: dict[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(config: Any) -> dict[str, Any]:
    """Nested dicts of the fields that differ from their defaults."""
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == field.default:
            continue
        if field.type in (float, Triple):  # 4 and 4.0 are one value and must be one text
            value = tuple(map(float, value)) if isinstance(value, tuple) else float(value)
        if dataclasses.is_dataclass(value):
            value = _plain(value)
        fields[field.name] = list(value) if isinstance(value, tuple) else value
    return fields


def _parse(cls: Any, fields: Any, where: str) -> Any:
    if not isinstance(fields, dict):
        raise ConfigError(f"{where}: expected an object, found {fields!r}")
    types_of = typing.get_type_hints(cls)
    values = {}
    for name, value in fields.items():
        if name not in types_of:
            raise ConfigError(f"{where}.{name}: unknown field; it may need a newer tokcodec")
        values[name] = _parse_value(types_of[name], value, f"{where}.{name}")
    for field in dataclasses.fields(cls):
        if field.name not in values and field.default is dataclasses.MISSING:
            raise ConfigError(f"{where}.{field.name}: missing")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _parse_value(kind: Any, value: Any, where: str) -> Any:
    if isinstance(kind, types.UnionType):  # a part that may be absent, which is never written
        kind = typing.get_args(kind)[0]
    if dataclasses.is_dataclass(kind):
        return _parse(kind, value, where)
    if typing.get_origin(kind) is Literal:
        valid = value in typing.get_args(kind)
    elif isinstance(kind, types.GenericAlias):  # a tuple of one type
        item_kind, *others = typing.get_args(kind)
        valid = isinstance(value, list)
        if valid and (others == [...] or len(value) == 1 + len(others)):
            return tuple(_parse_value(item_kind, item, where) for item in value)
        valid = False
    elif kind is float:
        valid = isinstance(value, int | float) and not isinstance(value, bool)
        valid = valid and math.isfinite(value)
        value = float(value) if valid else value
    else:
        valid = type(value) is kind
    if not valid:
        raise ConfigError(f"{where}: {value!r} is not a valid value")
    return value
