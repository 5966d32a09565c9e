"""``tokcodec decode``."""

import re
from typing import Annotated, Literal

import typer

from tokcodec.cli import options as shared


def decode(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC",
            help="Token files, or texts with messages: files, folders, globs, tars; paths or URLs. "
            "Or - for standard input, one token dataset, or one .npy, .npz, .safetensors, .jsonl, "
            ".bin or WebDataset .tar of tokens.",
        ),
    ],
    output: shared.Output = None,
    force: shared.Force = False,
    dry_run: shared.DryRun = False,
    as_json: shared.Json = False,
    size: Annotated[
        str | None,
        shared.output_option(
            "Resize images to this size, or to a longer edge of N pixels. Default: the "
            "original size, but at most 1,024 pixels on the longer edge, unless the tokens "
            "show more.",
            metavar="WxH|N|original",
        ),
    ] = None,
    image_format: Annotated[
        Literal["png", "jpg", "webp"] | None,
        shared.output_option(
            "Write this format to folders and standard output. Default: png.",
            "--format",
        ),
    ] = None,
    png_level: Annotated[
        int,
        shared.output_option(
            "Compression level of PNG files, from 1 (fast) to 9 (small).", min=1, max=9
        ),
    ] = 1,
    grid: Annotated[
        int | None,
        shared.output_option("Write all images to one contact sheet, OUT, in rows of N.", min=1),
    ] = None,
    weights: shared.WeightsOf = None,
    tokens: Annotated[
        int | None,
        shared.model_option(
            "Decode only the first N tokens of each image or tile, if the checkpoint supports it.",
            min=1,
        ),
    ] = None,
    select: Annotated[
        list[str] | None,
        shared.input_option(
            "Decode only the row of a dataset with this key. May be repeated.", metavar="KEY"
        ),
    ] = None,
    row: Annotated[
        list[int] | None,
        shared.input_option(
            "Decode only row N of a dataset, counted from 0. May be repeated.", min=0
        ),
    ] = None,
    damaged: Annotated[
        bool,
        shared.input_option(
            "Decode files that are cut or altered, as far as they can be read.", "--damaged"
        ),
    ] = False,
    include: shared.Include = None,
    exclude: shared.Exclude = None,
    follow: shared.Follow = False,
    allow_large_images: shared.AllowLarge = False,
    device: shared.Device = "auto",
    dtype: shared.Dtype = "float32",
    batch_size: shared.BatchSize = None,
    workers: shared.Workers = shared.CORES,
) -> None:
    """Decode token files, messages and packets to images.

    Without -o, the image of a.jpg.tok is a.jpg.png in the same folder; for token files in tars or
    at URLs, -o must be a folder. A file named with -o gets the format of its extension. Images that
    are up to date are skipped; other files that exist are replaced only with -f.

    Messages (tok:...) are found in any text. Packets of one image are put together, and missing
    tokens are filled in.

    The rows of a token dataset, or of an array of tokens, become KEY.png or NUMBER.png in the
    folder of -o. An array is [n, N] or [n, rows, columns]; --weights names its model, unless export
    wrote it with metadata.

    Example: tokcodec decode tokens -o images --format webp
    """
    shared.refuse_streams(sources, output, as_json, text=False)
    wanted = _parse_size(size)
    if allow_large_images:
        shared.allow_large()
    from tokcodec.batch.decode import decode_files
    from tokcodec.batch.jobs import RunOptions
    from tokcodec.cli.outcomes import report
    from tokcodec.inputs.listing import Selection

    selection = Selection(include or (), exclude or (), follow)
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
    match = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text)
    width, height = (int(edge or 1) for edge in match.groups()) if match else (0, 0)
    if not 0 < max(width, height) <= MAX_EDGE:
        raise typer.BadParameter(
            f"{text!r} is not a size: give WxH or N, of at most {MAX_EDGE:,} pixels, or original",
            param_hint="--size",
        )
    return (width, height) if "x" in text else width
