"""``tokcodec page``."""

from pathlib import Path
from typing import Annotated

import typer

from tokcodec.cli.comparison import (
    ALL,
    BYTES,
    Baselines,
    Bytes,
    Following,
    MaxEdge,
    MaxTokens,
    Packed,
    SquareFit,
    Weights,
    baseline_names,
    byte_limits,
    token_counts,
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
from tokcodec.cli.terminal import Bar, note
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
            help="The images that token files are of, to compare with; may be repeated.",
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(min=1, rich_help_panel=INPUT, help="Show the first images, at most N."),
    ] = 1000,
    max_edge: MaxEdge = 384,
    fit: SquareFit = "crop",
    force: Force = False,
    device: Device = "auto",
    workers: Workers = CORES,
    allow: AllowLarge = False,
    max_image_bytes: MaxImageBytes = MAX_BYTES,
) -> None:
    """Write a page to compare images on.

    It shows each image, what checkpoints make of it, and what other codecs make of it in no more
    bytes; images are encoded and measured as evaluate does it. Token files and rows of datasets
    are shown as they are, and compared if --originals has images of the same names (those of the
    token files without .tok, or the keys of the rows). The page needs no network.

    Example: tokcodec page photos --bytes 100,200,400 -o page
    """
    names, rates = baseline_names(against), byte_limits(limits, tokens)
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
            tokens=token_counts(tokens),
            bytes=rates,
            packed=packed,
            fit=fit,
            max_edge=max_edge,
            limit=limit,
            device=device,
            workers=workers,
            max_image_bytes=max_image_bytes,
            overwrite=force,
            progress=Following(bar),
        )
    if not report.compared:
        note("nothing is compared without --originals")
    if report.cut:
        note(f"only the first {limit:,} images are shown; --limit changes that")
    note(f"{report.images:,} images in {output / INDEX}")
    if report.failed:
        raise typer.Exit(3)
