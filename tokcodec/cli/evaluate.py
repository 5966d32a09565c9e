"""``tokcodec evaluate``."""

from pathlib import Path
from typing import Annotated

import typer

from tokcodec.cli import comparison
from tokcodec.cli import options as shared
from tokcodec.cli.progress import Bar
from tokcodec.cli.terminal import note, print_json
from tokcodec.config import DEFAULT_WEIGHTS
from tokcodec.errors import counted
from tokcodec.io.read import MAX_BYTES


def evaluate(
    sources: shared.Images,
    weights: comparison.Weights = None,
    against: comparison.Baselines = comparison.ALL,
    lpips: Annotated[
        bool,
        shared.model_option(
            "Also measure LPIPS; needs torchvision, and downloads a network.", "--lpips"
        ),
    ] = False,
    rfid: Annotated[
        bool,
        shared.model_option(
            "Also measure rFID, with the weights of Inception that torch-fidelity or "
            "torchmetrics have downloaded, or --rfid-weights.",
            "--rfid",
        ),
    ] = False,
    rfid_weights: Annotated[
        Path | None,
        shared.model_option(
            "Measure rFID with the published weights of Inception in this file.", metavar="FILE"
        ),
    ] = None,
    limits: comparison.Bytes = comparison.BYTES,
    tokens: comparison.MaxTokens = None,
    packed: comparison.Packed = False,
    best: shared.Best = False,
    max_edge: comparison.MaxEdge = 384,
    fit: comparison.SquareFit = "crop",
    output: Annotated[
        Path | None,
        shared.output_option(
            "Write report.json, images.csv, a plot (SVG) and sheets of images there.",
            "-o",
            "--output",
            metavar="FOLDER",
        ),
    ] = None,
    force: shared.Force = False,
    as_json: shared.Json = False,
    device: shared.Device = "auto",
    workers: shared.Workers = shared.CORES,
    allow: shared.AllowLarge = False,
    max_image_bytes: shared.MaxImageBytes = MAX_BYTES,
) -> None:
    """Compare checkpoints with other codecs at the same file sizes.

    At each size, a checkpoint uses as many tokens as fit, and each baseline uses the scale and
    quality with the highest PSNR that fit; with --best, the checkpoint uses the shape of the grid
    with the highest PSNR. Images keep their shape, except for checkpoints that take only squares of
    one size: each is measured on squares of its size.

    Example: tokcodec evaluate photos --bytes 100,200,400 -o report
    """
    names = comparison.baseline_names(against)
    byte_limits, token_counts = comparison.rates(limits, tokens)
    if allow:
        shared.allow_large()
    from tokcodec.evaluate.inception import FEATURES as FEW_FOR_RFID
    from tokcodec.evaluate.report import to_json
    from tokcodec.evaluate.run import evaluate as run

    with Bar("measured", None, again="starts again") as bar:
        report = run(
            sources,
            output,
            weights=weights or (DEFAULT_WEIGHTS,),
            baselines=names,
            tokens=token_counts,
            bytes=byte_limits,
            packed=packed,
            best=best,
            fit=fit,
            max_edge=max_edge,
            lpips=lpips,
            rfid=rfid,
            rfid_weights=rfid_weights,
            device=device,
            workers=workers,
            max_image_bytes=max_image_bytes,
            overwrite=force,
            progress=comparison.follow(bar),
        )
    if (rfid or rfid_weights) and report.images < FEW_FOR_RFID:
        note(
            f"rFID of {counted(report.images, 'image')}, fewer than {FEW_FOR_RFID:,}, can only be "
            "compared with rFID of the same images"
        )
    if output:
        note(f"report in {output}")
    if as_json:
        print_json(to_json(report))
    else:
        comparison.print_report(report)
    if report.failed:
        raise typer.Exit(3)
