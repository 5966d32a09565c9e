"""A family of published tokenizers: the interface that each of them implements."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokcodec.config import ModelConfig
from tokcodec.errors import CheckpointError, quoted
from tokcodec.families.reading import Arrays, Tensors

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Model:
    """A published model.

    Attributes:
        name: identifies the model among all published ones.
        tokens: number of tokens of a square of ``image_size`` pixels.
        codebook_size: number of vectors K.
        published: where the weights are.
        rfid: on ImageNet's validation images at 256x256, as the authors state it.
        config: stands in for the config of a checkpoint that has none.
        verified: whether z, tokens and pixels were compared with those of the published code, on
            seeded weights, and not only the shapes of the tensors.
        licence: of the weights, if it is not the family's.
        image_size: side of the square that the model sees, in pixels.
    """

    name: str
    tokens: int
    codebook_size: int
    published: str
    rfid: float | None = None
    config: Config = field(default_factory=dict)
    verified: bool = False
    licence: str | None = None
    image_size: int = 256


def square_side(
    wanted: int | None, config: Config, default: int = 256, field: str = "image_size"
) -> int:
    """The side of the square that a model of images of any size sees, in pixels.

    It is the one that is wanted, or that ``field`` of the model's config states, or the default.

    Raises:
        CheckpointError: the field is not a positive integer.
    """
    stated = config.get(field)
    side = wanted or (default if stated is None else stated)
    if type(side) is not int or side <= 0:
        raise CheckpointError(f"its config: {field}: {quoted(side)} is not a positive integer")
    return side


@dataclass(frozen=True)
class Family:
    """Models of one program.

    Attributes:
        title: the name that people use.
        licence: of the code and, unless a model says otherwise, the weights.
        recognises: given the names of a checkpoint's tensors and its config if it has one, returns
            whether the checkpoint is of this family. Raises CheckpointError for a relative that
            tokcodec cannot run.
        convert: given the tensors, the config (that of the checkpoint or of a ``Model``) and an
            image size or None, returns the model's config and tensors under tokcodec's names.
            Raises CheckpointError if a tensor is missing, left over, of another shape or not
            finite.
        models: the published models.
        needs_config: whether a checkpoint without a config cannot be converted.
    """

    title: str
    licence: str
    recognises: Callable[[Collection[str], Config | None], bool]
    convert: Callable[[Tensors, Config, int | None], tuple[ModelConfig, Arrays]]
    models: tuple[Model, ...]
    needs_config: bool = False
