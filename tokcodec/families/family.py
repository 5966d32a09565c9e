"""What there is to know of a family of published tokenizers."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tokcodec.config import ModelConfig
from tokcodec.errors import CheckpointError, quoted
from tokcodec.families.reading import Arrays, Tensors

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Model:
    """A published model.

    Attributes:
        name: for ``--family``.
        tokens: of a square of ``image_size`` pixels.
        codebook_size: K.
        published: where.
        rfid: on ImageNet's validation images at 256x256, as its authors state it, if they do.
        config: what a file of it without a config leaves open, as a config would say it.
        verified: what was compared here with the published code: ``tokens`` (and z and pixels, on
            seeded weights), or the ``shapes`` of its tensors alone.
        licence: of the weights, where it is not the family's.
        image_size: side of the square that it sees, in pixels.
    """

    name: str
    tokens: int
    codebook_size: int
    published: str
    rfid: float | None = None
    config: Config = field(default_factory=dict)
    verified: Literal["tokens", "shapes"] = "shapes"
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
        name: of its module.
        title: as people call it.
        paper: arXiv number; None where there is none.
        licence: of its code and, unless a model says otherwise, its weights.
        recognises: whether tensors of these names, beside this config if there is one, are its;
            raises CheckpointError for a kin that cannot run here.
        convert: its tensors, its config (or that of a ``Model``) and a wanted image size -> our
            config and tensors; raises CheckpointError.
        models: the published ones.
        needs_config: what its tensors leave open has no default.
    """

    name: str
    title: str
    paper: str | None
    licence: str
    recognises: Callable[[Collection[str], Config | None], bool]
    convert: Callable[[Tensors, Config, int | None], tuple[ModelConfig, Arrays]]
    models: tuple[Model, ...]
    needs_config: bool = False
