"""The base classes of configs, and of the kinds of encoders, quantizers and decoders.

A kind is a config class and a network. The network is a ``torch.nn.Module``, which ``network``
names as ``module:class`` and which is imported when a model is built. To add a kind, write these
two classes and add the config class to a union in ``tokcodec.config.model``.

Configs come from files, and decide how much memory a network takes. So every number has bounds,
which are far beyond what anyone trains.
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

LEVELS = 12  # the most levels, each of half the resolution of the last

Width = Annotated[int, Field(ge=1, le=1 << 14)]  # channels of vectors
Channels = Annotated[int, Field(ge=1, le=4096)]
Blocks = Annotated[int, Field(ge=1, le=32)]  # per level
Multipliers = Annotated[
    tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1, max_length=LEVELS)
]
# -0.0 and 0.0 are equal, so they must have the same text.
Number = Annotated[float, AfterValidator(lambda number: number + 0.0)]


def require(condition: bool, message: str) -> None:
    """
    Raises:
        ValueError: the condition does not hold. A validator turns it into a ``ConfigError`` with
            the path of the config.
    """
    if not condition:
        raise ValueError(message)


class Config(BaseModel):
    """Immutable fields of strict types.

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

    # Pydantic does not call a marked __init__ for nested configs, so errors have the whole path.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def parse(cls, text: str, name: str) -> Self:
        """Parse a config from JSON.

        Raises:
            ConfigError: a field is wrong; ``name`` begins its path.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise config_error(error, name) from None

    def replace(self, **changes: Any) -> Self:
        """A copy with other values in some fields.

        Raises:
            ConfigError: the result is not a valid config.
        """
        return type(self)(**{**dict(self), **changes})


def config_error(error: ValidationError, name: str) -> ConfigError:
    """The first error that pydantic has found, in one line that begins with the path."""
    first = error.errors(include_url=False)[0]
    context = first.get("ctx", {})
    path = [name, *(str(step) for step in first["loc"])]
    # Pydantic's path has the kind of a part, which is not a field.
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
    """The sizes that the networks of a model have in common.

    Attributes:
        side: side of the square that the encoder sees, in pixels.
        z_shape: (rows, columns) or (n,) of the vectors of z of a square.
        embedding_dim: channels d of z.
    """

    side: int
    z_shape: tuple[int, ...]
    embedding_dim: int


class Part(Config):
    """A part of a model.

    Attributes:
        kind: name of the kind in configs.
        network: ``module:class`` of the network, which is made from the part and a ``ModelShape``.
    """

    network: ClassVar[str]

    kind: str

    @model_serializer(mode="wrap")
    def _with_kind(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Kept when defaults are left out, because it decides the class of the config.
        return {**serialize(self), "kind": self.kind}


class EncoderConfig(Part):
    """An encoder: normalized pixels [B, 3, height, width] -> z [B, *z_shape, embedding_dim]."""

    @property
    def multiple(self) -> int:
        """The encoder takes any multiples of this as width and height; 0 if it takes one square."""
        return 0

    def check(self, side: int) -> None:
        """
        Raises:
            ValueError: the encoder cannot take squares of ``side`` pixels.
        """
        raise NotImplementedError

    def z_shape(self, height: int, width: int) -> tuple[int, ...]:
        """(rows, columns) or (n,) of z of an image of this size in pixels."""
        raise NotImplementedError

    def peak_activation(self, side: int) -> int:
        """The largest number of activations of a layer; they should fit in the caches."""
        raise NotImplementedError


class QuantizerConfig(Part):
    """A quantizer: z [B, *z_shape, embedding_dim] <-> tokens int64 [B, *token_shape].

    Attributes:
        embedding_dim: channels d of z.
        codebook_size: K; tokens are from 0 to K - 1.
        any_grid: whether z may have any number of rows and columns.
    """

    any_grid: ClassVar[bool] = True

    if TYPE_CHECKING:  # some kinds have fields of these names, others properties

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
            ValueError: the quantizer cannot take z of this shape.
        """

    def token_shape(self, z_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the tokens of z of this shape."""
        return z_shape

    def token_counts(self, z_shape: tuple[int, ...]) -> Sequence[int]:
        """The numbers of first tokens that can be looked up alone, in rising order."""
        return (math.prod(z_shape),)


class DecoderConfig(Part):
    """A decoder: z_q [B, *z_shape, embedding_dim] -> normalized pixels [B, 3, height, width]."""

    @property
    def prefixes(self) -> bool:
        """Whether any prefix of the tokens decodes."""
        return False

    @property
    def multiple(self) -> int:
        """Side of a token in pixels; 0 if the decoder makes only one square."""
        return 0

    def check(self, side: int, z_shape: tuple[int, ...]) -> None:
        """
        Raises:
            ValueError: the decoder cannot make a square of ``side`` pixels from z of this shape.
        """
        raise NotImplementedError

    def peak_activation(self, side: int) -> int:  # noqa: ARG002
        """See ``EncoderConfig``; 0 if the encoder's is larger."""
        return 0
