"""``tokcodec page``."""

from pathlib import Path
from typing import Annotated

import typer

from tokcodec.cli.comparison import (
    ALL,
    BYTES,
    Baselines,
    Bytes,
    MaxEdge,
    MaxTokens,
    Packed,
    SquareFit,
    Weights,
    baseline_names,
    follow,
    rates,
)
from tokcodec.cli.options import (
    CORES,
    INPUT,
    OUTPUT,
    AllowLarge,
    Device,
    Force,
    MaxImageBytes,
    Workers,
    allow_large,
)
from tokcodec.cli.progress import Bar
from tokcodec.cli.terminal import note
from tokcodec.io.read import MAX_BYTES


def page(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC",
            help="Images, as for evaluate; or token files (files, folders, globs) and token "
            "datasets.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER",
            rich_help_panel=OUTPUT,
            help="Write index.html and its images there.",
        ),
    ],
    weights: Weights = None,
    against: Baselines = ALL,
    limits: Bytes = BYTES,
    tokens: MaxTokens = None,
    packed: Packed = False,
    originals: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SRC",
            rich_help_panel=INPUT,
            help="The original images of token files. May be repeated.",
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, rich_help_panel=INPUT, help="Show only the first N images."
        ),
    ] = 1000,
    max_edge: MaxEdge = 384,
    fit: SquareFit = "crop",
    force: Force = False,
    device: Device = "auto",
    workers: Workers = CORES,
    allow: AllowLarge = False,
    max_image_bytes: MaxImageBytes = MAX_BYTES,
) -> None:
    """Write a web page to compare images.

    The page shows each image next to the results of checkpoints, and of other codecs in no more
    bytes; they are encoded and measured as by evaluate. Token files and rows of datasets are
    decoded and shown. With --originals they are compared with the images of the same names (the
    names of token files without .tok, or the keys of rows). The page needs no network.

    Example: tokcodec page photos --bytes 100,200,400 -o page
    """
    names = baseline_names(against)
    byte_limits, token_counts = rates(limits, tokens)
    if allow:
        allow_large()
    from tokcodec.evaluate.page import INDEX
    from tokcodec.evaluate.run import page as run

    with Bar("shown", None) as bar:
        report = run(
            sources,
            output,
            weights=weights or (),
            originals=originals or (),
            baselines=names,
            tokens=token_counts,
            bytes=byte_limits,
            packed=packed,
            fit=fit,
            max_edge=max_edge,
            limit=limit,
            device=device,
            workers=workers,
            max_image_bytes=max_image_bytes,
            overwrite=force,
            progress=follow(bar),
        )
    if not report.compared:
        note("nothing is compared without --originals")
    if report.cut:
        note(f"only the first {limit:,} images are shown; --limit changes that")
    note(f"{report.images:,} image{'s' * (report.images != 1)} in {output / INDEX}")
    if report.failed:
        raise typer.Exit(3)
