"""``tokcodec decode``."""

import re
from typing import Annotated, Literal

import typer

from tokcodec.cli.options import (
    CORES,
    INPUT,
    MODEL,
    OUTPUT,
    AllowLarge,
    BatchSize,
    Device,
    DryRun,
    Dtype,
    Exclude,
    Follow,
    Force,
    Include,
    Json,
    Output,
    WeightsOf,
    Workers,
    allow_large,
    refuse_streams,
    selection_of,
)


def decode(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC",
            help="Token files: files, folders, globs, tars; paths or URLs. Or - for standard "
            "input, or one token dataset, or one .npy, .npz, .safetensors, .jsonl or .bin of "
            "tokens.",
        ),
    ],
    output: Output = None,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WxH|N|original",
            help="Resize images to this size, or to a longer edge of N pixels. Default: the "
            "original size, but at most 1,024 pixels, unless the tokens show more.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    image_format: Annotated[
        Literal["png", "jpg", "webp"] | None,
        typer.Option(
            "--format",
            help="Write images in folders and on standard output in this format; PNG if not given.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    png_level: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=9,
            help="Compress PNG files this hard, from 1 (fast) to 9 (small).",
            rich_help_panel=OUTPUT,
        ),
    ] = 1,
    grid: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Write one image, OUT, with all images in rows of N.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    weights: WeightsOf = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Decode only the first N tokens of each image or tile, if the checkpoint "
            "supports it.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Decode only the rows with this key. May be repeated.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    row: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Decode only the row of this number, from 0. May be repeated.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    damaged: Annotated[
        bool,
        typer.Option(
            "--damaged",
            help="Decode files that are cut or altered, as far as they can be read.",
            rich_help_panel=INPUT,
        ),
    ] = False,
    include: Include = None,
    exclude: Exclude = None,
    follow: Follow = False,
    allow_large_images: AllowLarge = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_size: BatchSize = None,
    workers: Workers = CORES,
) -> None:
    """Decode token files, messages and packets to images.

    Without -o, the image of a.jpg.tok is a.jpg.png in the same folder; token files in tars, and on
    URLs, need a folder for -o. A file named with -o gets the format of its extension. Messages
    (tok:...) are found in any text; each becomes an image. Packets of one image are put together,
    and what is missing is filled in. The rows of a token dataset, or of an array of tokens, become
    KEY.png or NUMBER.png in the folder of -o. An array is [n, N] or [n, rows, columns]; --weights
    names its model, unless export wrote it with metadata. Images that are up to date are skipped;
    other files that exist are kept unless -f is given.

    Example: tokcodec decode tokens -o images --format webp
    """
    refuse_streams(sources, output, as_json, text=False)
    wanted = _parse_size(size)
    if allow_large_images:
        allow_large()
    from tokcodec.batch.decode import decode_files
    from tokcodec.batch.jobs import RunOptions
    from tokcodec.cli.outcomes import report

    selection = selection_of(include, exclude, follow)
    options = RunOptions(force, dry_run, device, dtype, batch_size, workers, selection)
    outcomes = decode_files(
        sources,
        output,
        weights=weights,
        size=wanted,
        tokens=tokens,
        image_format=image_format,
        png_level=png_level,
        keys=select or (),
        rows=row or (),
        grid=grid,
        damaged=damaged,
        options=options,
    )
    report("decoded", outcomes, as_json, options)


def _parse_size(text: str | None) -> tuple[int, int] | int | Literal["original"] | None:
    from tokcodec.image import MAX_EDGE

    if text == "original":
        return "original"
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if not match:
        raise typer.BadParameter(
            f"{text!r} is neither WxH nor N, in pixels, nor original", param_hint="--size"
        )
    numbers = [number for number in match.groups() if number]
    if any(len(number) > 5 or int(number) > MAX_EDGE for number in numbers):
        raise typer.BadParameter(
            f"{text} is too large: {MAX_EDGE:,} pixels an edge at most", param_hint="--size"
        )
    edges = [int(number) for number in numbers]
    return (edges[0], edges[1]) if match[2] else edges[0]
