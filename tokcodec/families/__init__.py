"""Convert published checkpoints of other programs: the list of families.

To add a family, write a module with a ``Family`` and list it in ``FAMILIES`` or, in another
package, as an entry point.
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
    """All families: those of this package and those of plugins.

    Raises:
        CheckpointError: the family of another package cannot be loaded.
    """
    return [*FAMILIES, *installed()]


def known() -> dict[str, tuple[Family, Model]]:
    """Every published model and its family, by the name of the model.

    Raises:
        CheckpointError: as ``every``.
    """
    return {model.name: (family, model) for family in every() for model in family.models}


def recognise(names: Collection[str], config: Config | None) -> Family:
    """Find the family of a checkpoint by the names of its tensors and its config.

    Raises:
        CheckpointError: no family recognises it, or several do; or it is a relative of a family
            that tokcodec cannot run.
    """
    families = every()
    found = [family for family in families if family.recognises(names, config)]
    if not found:
        titles = ", ".join(family.title for family in families)
        raise CheckpointError(f"tokcodec knows no family with these tensors (it knows {titles})")
    if len(found) > 1:
        models = ", ".join(model.name for family in found for model in family.models)
        raise CheckpointError(
            f"its tensors may be of {' or '.join(family.title for family in found)}, and there is "
            f"no config next to it that tells: it is one of {models}",
            hint=Hint.NAME_FAMILY,
        )
    return found[0]


def convert(
    source: Source, model: str | None = None, image_size: int | None = None
) -> tuple[ModelConfig, Arrays]:
    """Convert a published checkpoint to tokcodec's config and tensors.

    Args:
        source: its files.
        model: name of the published model, which replaces the checkpoint's config.
        image_size: side of the square that the model sees; the published one if None.

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
                    f"there is no config.json next to it: it is one of {models}",
                    hint=Hint.NAME_FAMILY,
                )
            return family.convert(Tensors(tensors), config or {}, image_size)
    except CheckpointError as error:
        if error.name or error.reason.startswith(f"{source.weights}: "):
            raise  # it already names a file, which may be the config
        raise error.named(source.weights) from error
    except ConfigError as error:
        named = error.named(source.weights)
        raise CheckpointError(named.reason, name=named.name, hint=named.hint) from error


def published() -> list[dict[str, Any]]:
    """Facts about every published model, as plain data."""
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
            "verified": "tokens" if model.verified else "shapes",
        }
        for family in every()
        for model in family.models
    ]
