"""``tokcodec page``."""

from pathlib import Path
from typing import Annotated

import typer

from tokcodec.cli import comparison
from tokcodec.cli import options as shared
from tokcodec.cli.progress import Bar
from tokcodec.cli.terminal import note
from tokcodec.errors import counted
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
        shared.output_option(
            "Write index.html and its images there.", "-o", "--output", metavar="FOLDER"
        ),
    ],
    weights: comparison.Weights = None,
    against: comparison.Baselines = comparison.ALL,
    limits: comparison.Bytes = comparison.BYTES,
    tokens: comparison.MaxTokens = None,
    packed: comparison.Packed = False,
    originals: Annotated[
        list[str] | None,
        shared.input_option(
            "Compare token files and datasets with these images. May be repeated.", metavar="SRC"
        ),
    ] = None,
    limit: Annotated[
        int,
        shared.input_option("Show only the first N images.", min=1),
    ] = 1000,
    max_edge: comparison.MaxEdge = 384,
    fit: comparison.SquareFit = "crop",
    force: shared.Force = False,
    device: shared.Device = "auto",
    workers: shared.Workers = shared.CORES,
    allow: shared.AllowLarge = False,
    max_image_bytes: shared.MaxImageBytes = MAX_BYTES,
) -> None:
    """Write a web page to compare images.

    The page shows each image next to the results of checkpoints and of other codecs in no more
    bytes, measured as by evaluate. Token files and rows of datasets are decoded and shown; with
    --originals, they are compared with the images of the same names (those of token files without
    .tok, or the keys of rows). The packets of an image are joined. The page needs no network.

    Example: tokcodec page photos --bytes 100,200,400 -o page
    """
    names = comparison.baseline_names(against)
    byte_limits, token_counts = comparison.rates(limits, tokens)
    if allow:
        shared.allow_large()
    from tokcodec.evaluate.page import INDEX
    from tokcodec.evaluate.run import page as run

    with Bar("shown", None, again="starts again") as bar:
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
            progress=comparison.follow(bar),
        )
    if not report.compared:
        note("the images are not compared: name their originals with --originals")
    if report.cut:
        note(f"only the first {limit:,} images are shown; --limit changes that")
    note(f"{counted(report.images, 'image')} in {output / INDEX}")
    if report.failed:
        raise typer.Exit(3)
