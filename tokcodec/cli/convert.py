"""``tokcodec convert``."""

from pathlib import Path
from typing import Annotated

import typer

from tokcodec.cli.options import Force
from tokcodec.cli.terminal import say
from tokcodec.errors import CheckpointError, OutputError


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A folder with config.json and model.safetensors, a weights file "
            "(.safetensors, .bin, .pth, .pt), or on the hub owner/name[@revision][:file].",
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
            help="The published model, in place of a config.json beside it: titok-l32, -b64, "
            "-s128, -bl64-vq8k, -bl128-vq8k, -sl256-vq8k, one-d-piece-s256, -b256, -l256, "
            "simple-1d-tokenizer.",
        ),
    ] = None,
) -> None:
    """Turn a published checkpoint into one of tokcodec's.

    Known are TiTok, One-D-Piece and simple-1d-tokenizer. --weights takes the same sources
    directly, and keeps what it converts in a cache.
    """
    from tokcodec.checkpoint import SUFFIX, is_own
    from tokcodec.convert.families import MODELS
    from tokcodec.convert.source import locate
    from tokcodec.convert.weights import write

    if family and family not in MODELS:
        known = ", ".join(MODELS)
        raise typer.BadParameter(f"{family!r} is none of {known}", param_hint="--family")
    if is_own(source):
        raise CheckpointError(f"{source}: is a checkpoint of tokcodec's already")
    found = locate(source)
    target = output or Path(found.name + SUFFIX)
    if target.is_dir():
        target = target / (found.name + SUFFIX)
    if target.exists():
        if target.samefile(found.weights):
            raise OutputError(f"{target}: is what is to be converted; name another file with -o")
        if not force:
            raise OutputError(f"{target}: is there already; -f overwrites it, -o names another")
    header = write(found, target, family)
    config = header.config
    say(
        f"{found.origin}: {config.num_codes} codes of {config.quantizer.codebook_size}, "
        f"code_id {header.code_id[:8]}"
    )
    print(header.path)
