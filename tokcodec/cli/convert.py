"""``tokcodec convert``."""

from pathlib import Path
from typing import Annotated

import typer

from tokcodec.cli.options import Force
from tokcodec.cli.terminal import note, show
from tokcodec.errors import CheckpointError, counted


def _complete_family(incomplete: str) -> list[str]:
    from tokcodec.families import known

    try:
        return [name for name in known() if name.startswith(incomplete)]
    except CheckpointError:  # from a plugin; the command reports it
        return []


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A folder with a weights file and its config (.json, .yaml), a weights file "
            "(.safetensors, .bin, .ckpt, .pt, .pth), or on the hub "
            "owner/name\\[@revision]\\[:file].",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write to this file or folder. Default: NAME.safetensors.",
        ),
    ] = None,
    force: Force = False,
    family: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            autocompletion=_complete_family,
            help="The published model (see tokcodec models --known), if its files do not "
            "identify it.",
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=16,
            metavar="N",
            help="Input size of a convolutional model, in pixels. Default: its own. Another size "
            "changes the model_id.",
        ),
    ] = None,
) -> None:
    """Convert a published checkpoint to tokcodec's format.

    tokcodec models --known lists the models. --weights takes the same sources, and keeps the
    converted checkpoint in a cache.

    Example: tokcodec convert tokenizer_titok_s128.bin --family titok-s128 -o s128.safetensors
    """
    from tokcodec.checkpoint import convert as run

    header = run(source, output, family=family, image_size=image_size, overwrite=force)
    config = header.config
    note(
        f"{header.provenance['converted_from']}: {counted(config.num_tokens, 'token')}, "
        f"a codebook of {config.quantizer.codebook_size:,}, model_id {header.model_id[:6]}"
    )
    show(str(header.path))
