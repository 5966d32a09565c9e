"""What every config, and every kind of encoder, quantizer and decoder has.

A kind is one config class, whose fields are its part of a model's config, and one network, a
``torch.nn.Module`` that ``network`` names as ``module:class`` and that is imported when a model is
built. Another kind is those two, and a place in a union of ``tokcodec.config.model``.

Configs are read from files, and networks are built, and memory is taken, as they say. So every
number has bounds, which are far beyond what anyone trains.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from tokcodec.errors import ConfigError, quoted

LEVELS = 12  # of resolution, each half the last

Width = Annotated[int, Field(ge=1, le=1 << 14)]  # channels of vectors
Channels = Annotated[int, Field(ge=1, le=4096)]
Blocks = Annotated[int, Field(ge=1, le=32)]  # per level
Multipliers = Annotated[
    tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1, max_length=LEVELS)
]
# -0.0 and 0.0 are equal, and must have one text.
Number = Annotated[float, AfterValidator(lambda number: number + 0.0)]


def require(condition: bool, message: str) -> None:
    """
    Raises:
        ValueError: with this message, unless the condition holds. In a validator it becomes a
            ``ConfigError`` with the path of the config.
    """
    if not condition:
        raise ValueError(message)


class Config(BaseModel):
    """Immutable fields, each of exactly its type.

    Raises:
        ConfigError: a field is unknown, missing or wrong, from Python as from JSON.
    """

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True
    )

    def __init__(self, /, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise config_error(error, type(self).__name__) from None

    # So pydantic does not call it for the parts of a text, of whose errors it knows the path.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def parse(cls, text: str, name: str) -> Self:
        """A config from its JSON text.

        Raises:
            ConfigError: with the path, from ``name``, of the first field that is wrong.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise config_error(error, name) from None

    def replace(self, **changes: Any) -> Self:
        """A copy with other values in some fields.

        Raises:
            ConfigError: they make no valid config.
        """
        return type(self)(**{**dict(self), **changes})


def config_error(error: ValidationError, name: str) -> ConfigError:
    """The first of the errors that pydantic has found, in one line that begins with the path."""
    first = error.errors(include_url=False)[0]
    context = first.get("ctx", {})
    path = [name, *(str(step) for step in first["loc"])]
    # pydantic's steps into kinds, which are no fields
    if path[1:2] in (["encoder"], ["quantizer"], ["decoder"]):
        del path[2:3]
    if path[2:3] == ["stage"]:
        del path[3:4]
    reason = first["msg"]
    if reason.startswith("Input should"):
        reason = f"must{reason.removeprefix('Input should')}, not {quoted(first['input'])}"
    match first["type"]:
        case "extra_forbidden":
            reason = "unknown field; it may need a newer tokcodec"
        case "missing":
            reason = "missing"
        case "union_tag_not_found":
            path.append("kind")
            reason = "missing"
        case "union_tag_invalid":
            path.append("kind")
            reason = f"{quoted(context['tag'])} is none of {context['expected_tags']}"
        case "value_error":
            reason = str(context["error"])
    return ConfigError(reason, name=".".join(path))


@dataclass(frozen=True)
class ModelShape:
    """What the parts of one model agree on, which their networks are made for.

    Attributes:
        side: of the square that the encoder sees, in pixels.
        z_shape: places of z of a square: (rows, columns), or (n,).
        embedding_dim: channels d of z.
    """

    side: int
    z_shape: tuple[int, ...]
    embedding_dim: int


class Part(Config):
    """A part of a model.

    Attributes:
        kind: its name in configs.
        network: its network, ``module:class``, which is made from the part and a ``ModelShape``.
    """

    network: ClassVar[str]

    kind: str

    @model_serializer(mode="wrap")
    def _with_kind(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Also where defaults are left out: it says which class the other fields are of.
        return {**serialize(self), "kind": self.kind}


class EncoderConfig(Part):
    """Its network: normalized pixels [B, 3, height, width] -> z [B, *z_shape, embedding_dim].

    Attributes:
        multiple: width and height that it sees are any multiples of this; 0 if it sees only the
            square that it was made for.
    """

    @property
    def multiple(self) -> int:
        return 0

    def check(self, side: int) -> None:
        """
        Raises:
            ValueError: it cannot see tiles of ``side`` pixels.
        """
        raise NotImplementedError

    def z_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Places of z of an image of this size in pixels: (rows, columns), or (n,)."""
        raise NotImplementedError

    def peak_activation(self, side: int) -> int:
        """Numbers in the widest activations of a square, which a processor's caches should hold."""
        raise NotImplementedError


class QuantizerConfig(Part):
    """Its network: z [B, *z_shape, embedding_dim] <-> tokens int64 [B, *token_shape], from 0 to
    codebook_size - 1.

    Attributes:
        embedding_dim: channels d of z.
        codebook_size: number of tokens K.
        any_grid: whether z may have any number of rows and columns.
    """

    any_grid: ClassVar[bool] = True

    if TYPE_CHECKING:  # some kinds have a field, the other ones a property

        @property
        def embedding_dim(self) -> int: ...

        @property
        def codebook_size(self) -> int: ...

    @property
    def bits(self) -> int:
        """Bits per token, ⌈log2 K⌉."""
        return (self.codebook_size - 1).bit_length()

    def check(self, z_shape: tuple[int, ...]) -> None:
        """
        Raises:
            ValueError: it cannot quantize z of this shape.
        """

    def token_shape(self, z_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of the tokens of z of this shape: a token a place, unless a kind says otherwise."""
        return z_shape

    def token_counts(self, z_shape: tuple[int, ...]) -> Sequence[int]:
        """How many of a square's first tokens can be looked up, in rising order."""
        return (math.prod(z_shape),)


class DecoderConfig(Part):
    """Its network: z_q [B, *z_shape, embedding_dim] -> normalized pixels [B, 3, height, width]."""

    @property
    def prefixes(self) -> bool:
        """Whether any prefix of a square's tokens decodes."""
        return False

    @property
    def multiple(self) -> int:
        """Pixels along a side of a token, of images of any size; 0 if it makes only one square."""
        return 0

    def check(self, side: int, z_shape: tuple[int, ...]) -> None:
        """
        Raises:
            ValueError: it cannot make a square of ``side`` pixels from z of this shape.
        """
        raise NotImplementedError

    def peak_activation(self, side: int) -> int:  # noqa: ARG002
        """As of ``EncoderConfig``; 0 if the encoder has the larger ones."""
        return 0
