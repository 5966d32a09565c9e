"""``tokcodec convert``."""

from pathlib import Path
from typing import Annotated

import typer

from tokcodec.cli.options import Force
from tokcodec.cli.terminal import note, show
from tokcodec.errors import CheckpointError, OutputError
from tokcodec.io.files import is_stream


def _complete_family(incomplete: str) -> list[str]:
    from tokcodec.families import known

    return [name for name in known() if name.startswith(incomplete)]


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
            help="A file or folder; NAME.safetensors if not given.",
        ),
    ] = None,
    force: Force = False,
    family: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            autocompletion=_complete_family,
            help="The published model, where its files do not tell it: a name of "
            "tokcodec models --known.",
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=16,
            metavar="N",
            help="Side of the square that a convolutional model is to see; its own if not given. "
            "It is part of what its tokens mean.",
        ),
    ] = None,
) -> None:
    """Turn a published checkpoint into tokcodec's own.

    tokcodec models --known lists what is known. --weights takes the same sources directly, and
    keeps what it converts in a cache.
    """
    from tokcodec.checkpoint import SUFFIX, find_own, write_converted
    from tokcodec.families import known, locate

    if family and family not in known():
        names = ", ".join(known())
        raise typer.BadParameter(f"{family!r} is none of {names}", param_hint="--family")
    if find_own(source):
        raise CheckpointError(f"{source}: is a checkpoint of tokcodec's already")
    found = locate(source)
    target = output or Path(found.name + SUFFIX)
    if target.is_dir():
        target = target / (found.name + SUFFIX)
    if target.exists() and not is_stream(target):
        if target.samefile(found.weights):
            raise OutputError(f"{target}: is what is to be converted; name another file with -o")
        if not force:
            raise OutputError(f"{target}: is there already; -f overwrites it, -o names another")
    header = write_converted(found, target, family, image_size)
    config = header.config
    note(
        f"{found.origin}: {config.num_tokens} tokens of {config.quantizer.codebook_size}, "
        f"model_id {header.model_id[:6]}"
    )
    show(str(header.path))
