"""Published checkpoints of other programs, as tokcodec's: the one list of families.

Another family is a module with a ``Family``, and its place in ``FAMILIES`` or, in another package,
an entry point.
"""

from collections.abc import Collection
from typing import Any

from tokcodec.coding.bitpack import packed_size
from tokcodec.config import ModelConfig
from tokcodec.errors import CheckpointError, ConfigError, Hint
from tokcodec.families import (
    commavq,
    cosmos,
    diffusers,
    emu3,
    ibq,
    infinity,
    llamagen,
    maskgit_vqgan,
    movqgan,
    one_d_piece,
    open_magvit2,
    rq_vae,
    showo,
    simple_1d,
    taming,
    titok,
    var,
)
from tokcodec.families.family import Config, Family, Model
from tokcodec.families.plugins import installed
from tokcodec.families.reading import Arrays, Tensors
from tokcodec.families.source import Source, locate

FAMILIES: list[Family] = [
    titok.FAMILY,
    one_d_piece.FAMILY,
    simple_1d.FAMILY,
    taming.FAMILY,
    commavq.FAMILY,
    diffusers.FAMILY,
    movqgan.FAMILY,
    var.FAMILY,
    infinity.FAMILY,
    rq_vae.FAMILY,
    emu3.FAMILY,
    llamagen.FAMILY,
    ibq.FAMILY,
    open_magvit2.FAMILY,
    showo.FAMILY,
    cosmos.FAMILY,
    maskgit_vqgan.FAMILY,
]

__all__ = [
    "FAMILIES",
    "Family",
    "Model",
    "Source",
    "Tensors",
    "convert",
    "known",
    "locate",
    "published",
    "recognise",
]


def every() -> list[Family]:
    """The families here, and those of other packages.

    Raises:
        CheckpointError: that of another package cannot be loaded.
    """
    return [*FAMILIES, *installed()]


def known() -> dict[str, tuple[Family, Model]]:
    """Every published model, by its name.

    Raises:
        CheckpointError: as ``every``.
    """
    return {model.name: (family, model) for family in every() for model in family.models}


def recognise(names: Collection[str], config: Config | None) -> Family:
    """The family that a checkpoint with tensors of these names is of.

    Raises:
        CheckpointError: none that is known, or several; or a kin of one that cannot run here.
    """
    families = every()
    found = [family for family in families if family.recognises(names, config)]
    if not found:
        titles = ", ".join(family.title for family in families)
        raise CheckpointError(f"its tensors are of no family that tokcodec knows ({titles})")
    if len(found) > 1:
        models = ", ".join(model.name for family in found for model in family.models)
        raise CheckpointError(
            f"its tensors may be of {' or '.join(family.title for family in found)}, and there is "
            f"no config beside it to tell: it is one of {models}",
            hint=Hint.NAME_FAMILY,
        )
    return found[0]


def convert(
    source: Source, model: str | None = None, image_size: int | None = None
) -> tuple[ModelConfig, Arrays]:
    """The config and the tensors of a published checkpoint as tokcodec's.

    Args:
        source: its files.
        model: name of the published model, in place of a config beside it.
        image_size: side of the square that the model is to see; its own if None.

    Raises:
        CheckpointError: it is of no known family, incomplete, or not finite.
    """
    try:
        with source.open() as tensors:
            config = known()[model][1].config if model else source.read_config()
            family = recognise(tensors.keys(), config)
            if model and family is not known()[model][0]:
                raise CheckpointError(f"its tensors are not those of {model}")
            if config is None and family.needs_config:
                models = ", ".join(model.name for model in family.models)
                raise CheckpointError(
                    f"there is no config.json beside it: it is one of {models}",
                    hint=Hint.NAME_FAMILY,
                )
            return family.convert(Tensors(tensors), config or {}, image_size)
    except CheckpointError as error:
        if error.name or error.reason.startswith(f"{source.weights}: "):
            raise  # it names the file already, which may be the config
        raise error.named(source.weights) from error
    except ConfigError as error:
        named = error.named(source.weights)
        raise CheckpointError(named.reason, name=named.name, hint=named.hint) from error


def published() -> list[dict[str, Any]]:
    """The facts of every published model, as plain data."""
    return [
        {
            "family": family.title,
            "model": model.name,
            "tokens": model.tokens,
            "codebook_size": model.codebook_size,
            "payload_bytes": packed_size(model.tokens, (model.codebook_size - 1).bit_length()),
            "published": model.published,
            "licence": model.licence or family.licence,
            "rfid": model.rfid,
            "verified": model.verified,
        }
        for family in every()
        for model in family.models
    ]
