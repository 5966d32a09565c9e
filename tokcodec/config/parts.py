"""What every kind of encoder, quantizer and decoder must tell, and the tables of all kinds.

A kind is one frozen dataclass, whose fields are its part of a config, and one network, a
``torch.nn.Module`` that ``network`` names as ``module:class`` and that is imported when a model is
built. Another kind is those two, and a place in a table.

A field says by ``Bounds`` what it may be. Configs come out of files, and networks, and the memory
for them, are made as they say; the bounds are far beyond what anyone trains.
"""

import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from tokcodec.errors import ConfigError, quoted


def require(condition: bool, message: str) -> None:
    """
    Raises:
        ConfigError: with this message, unless the condition holds.
    """
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class Bounds:
    """What a number of a config may be, or each of several, of which there may be so many."""

    least: float
    most: float
    items: int = 1


Width = Annotated[int, Bounds(1, 1 << 14)]  # channels of vectors
Channels = Annotated[int, Bounds(1, 4096)]
LEVELS = 12  # of resolution, each half the last
Multipliers = Annotated[tuple[int, ...], Bounds(1, 64, items=LEVELS)]
Blocks = Annotated[int, Bounds(1, 32)]  # a level


class Bounded:
    """A dataclass whose numbers are within their bounds.

    Raises:
        ConfigError: one is not.
    """

    def __post_init__(self) -> None:
        for name, bounds in bounds_of(type(self)).items():
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else (value,)
            if len(values) > bounds.items:
                raise ConfigError(f"{name} must be {bounds.items} numbers at most")
            for number in values:
                if not bounds.least <= number <= bounds.most:
                    raise ConfigError(
                        f"{name} must be from {bounds.least} to {bounds.most}, not {quoted(number)}"
                    )


def bounds_of(kind: type) -> dict[str, Bounds]:
    """Of the fields that have bounds, by name."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {
        name: bounds
        for name, hint in hints.items()
        for bounds in getattr(hint, "__metadata__", ())
        if isinstance(bounds, Bounds)
    }


@dataclass(frozen=True)
class ModelShape:
    """What the parts of one model agree on, which their networks are made for.

    Attributes:
        side: of the square that the encoder sees, in pixels.
        token_shape: of a square's tokens.
        embedding_dim: channels d of z.
    """

    side: int
    token_shape: tuple[int, ...]
    embedding_dim: int


@dataclass(frozen=True, kw_only=True)
class Part(Bounded):
    """A part of a model.

    Attributes:
        kind: its name in configs.
        network: its network, ``module:class``, which is made from the part and a ``ModelShape``.
    """

    kind: ClassVar[str]
    network: ClassVar[str]


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(Part):
    """Its network: normalized pixels [B, 3, height, width] -> z [B, *token_shape, embedding_dim].

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
            ConfigError: it cannot see tiles of ``side`` pixels.
        """
        raise NotImplementedError

    def token_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Of the tokens of an image of so many pixels: (rows, columns), or (n,)."""
        raise NotImplementedError

    def peak_activation(self, side: int) -> int:
        """Numbers in the widest activations of a square, which a processor's caches should hold."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig(Part):
    """Its network: z [..., embedding_dim] <-> tokens int64 [...], from 0 to codebook_size - 1.

    Attributes:
        embedding_dim: channels d of z.
        codebook_size: number of tokens K.
    """

    if TYPE_CHECKING:  # a field of some kinds, and a property of others

        @property
        def embedding_dim(self) -> int: ...

        @property
        def codebook_size(self) -> int: ...

    @property
    def bits(self) -> int:
        """Bits a token, ⌈log2 K⌉."""
        return (self.codebook_size - 1).bit_length()


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(Part):
    """Its network: z_q [B, *token_shape, embedding_dim] -> normalized pixels [B, 3, height,
    width]."""

    @property
    def prefixes(self) -> bool:
        """Whether any prefix of a square's tokens decodes."""
        return False

    @property
    def multiple(self) -> int:
        """Pixels of a token's side, of images of any size; 0 if it makes only one square."""
        return 0

    def check(self, side: int, token_shape: tuple[int, ...]) -> None:
        """
        Raises:
            ConfigError: it cannot make a square of ``side`` pixels from tokens of this shape.
        """
        raise NotImplementedError
