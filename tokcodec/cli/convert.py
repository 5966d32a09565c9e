"""``tokcodec convert``."""

from pathlib import Path
from typing import Annotated

import typer

from tokcodec.cli.options import Force
from tokcodec.cli.terminal import say
from tokcodec.errors import OutputError


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A folder with config.json and model.safetensors, a weights file "
            "(.safetensors, .bin, .pth), or on the hub owner/name[@revision][:file].",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="NAME.safetensors if not given."),
    ] = None,
    force: Force = False,
    family: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The published model, where no config.json lies beside it: titok-s128, "
            "one-d-piece-l256, simple-1d-tokenizer and the like.",
        ),
    ] = None,
) -> None:
    """Turn a published checkpoint into one of tokcodec's.

    Known are TiTok, One-D-Piece and simple-1d-tokenizer. --weights takes the same sources
    directly, and keeps what it converts in a cache.
    """
    from tokcodec.checkpoint import SUFFIX
    from tokcodec.convert.families import MODELS
    from tokcodec.convert.source import locate
    from tokcodec.convert.weights import write

    if family and family not in MODELS:
        known = ", ".join(MODELS)
        raise typer.BadParameter(f"{family!r} is none of {known}", param_hint="--family")
    found = locate(source)
    target = output or Path(found.name + SUFFIX)
    if target.exists() and not force:
        raise OutputError(f"{target}: is there already; -f overwrites it, -o names another")
    header = write(found, target, family)
    config = header.config
    say(
        f"{found.origin}: {config.num_codes} codes of {config.quantizer.codebook_size}, "
        f"code_id {header.code_id[:8]}"
    )
    print(header.path)
