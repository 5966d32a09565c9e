"""``tokcodec encode``."""

from typing import Annotated

import typer

from tokcodec.cli.options import (
    CORES,
    MANY,
    MODEL,
    OUTPUT,
    PACKETS,
    AllowLarge,
    Background,
    BatchSize,
    Device,
    DryRun,
    Dtype,
    Exclude,
    Fit,
    Follow,
    Force,
    Include,
    Json,
    MaxImageBytes,
    Output,
    Tokens,
    Weights,
    Workers,
    allow_large,
    colour_of,
    refuse_streams,
    selection_of,
)
from tokcodec.config import DEFAULT_WEIGHTS
from tokcodec.io.read import MAX_BYTES


def encode(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SRC", help=f"Images: {MANY} Or - for standard input."),
    ],
    output: Output = None,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    text: Annotated[
        bool,
        typer.Option(
            "--text",
            help="Write messages (tok:...), which can be pasted into a chat or mail.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    weights: Weights = DEFAULT_WEIGHTS,
    fit: Fit = None,
    tokens: Tokens = None,
    max_bytes: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Use as many tokens as fit into files of N bytes; with --text, characters.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    packets: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            min=1,
            max=15,
            help="Split each image into at most K packets. Any of them decode to an image: see "
            "decode.",
            rich_help_panel=PACKETS,
        ),
    ] = None,
    packet_bytes: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Use as many tokens as fit into packets of N bytes; with --text, characters.",
            rich_help_panel=PACKETS,
        ),
    ] = None,
    parity: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=1,
            help="With 1, add a packet that restores any one that is lost.",
            rich_help_panel=PACKETS,
        ),
    ] = 0,
    packed: Annotated[
        bool,
        typer.Option(
            "--packed",
            help="Do not entropy-code the tokens: larger files, which decode without the "
            "checkpoint's prior.",
            rich_help_panel=MODEL,
        ),
    ] = False,
    background: Background = "white",
    include: Include = None,
    exclude: Exclude = None,
    follow: Follow = False,
    allow_large_images: AllowLarge = False,
    max_image_bytes: MaxImageBytes = MAX_BYTES,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_size: BatchSize = None,
    workers: Workers = CORES,
) -> None:
    """Encode images to token files.

    Without -o, the token file of a.jpg is a.jpg.tok in the same folder. Images in tars and Parquet
    files, and on URLs, need a folder for -o: some.tar/a.jpg.tok, file.parquet/0.tok. Images whose
    token file is up to date are skipped; other files that exist are kept unless -f is given. Token
    files do not record --background and --max-bytes: files of images with transparency, and all
    files with --max-bytes or --packets, are compared by encoding the image again. The packets of
    a.jpg are a.jpg.1.tok, a.jpg.2.tok and so on; with --text, a line each. With -f, packets that an
    earlier run wrote for the image are replaced, and deleted if there are now fewer. Hidden files,
    and images that decode wrote, are left out of folders.

    Example: tokcodec encode photos -o tokens --tokens 256
    """
    refuse_streams(sources, output, as_json, text)
    if packets and max_bytes:
        raise typer.BadParameter("packets have --packet-bytes", param_hint="--max-bytes")
    if not packets and (packet_bytes or parity):
        name = "--packet-bytes" if packet_bytes else "--parity"
        raise typer.BadParameter("needs --packets", param_hint=name)
    colour = colour_of(background)
    if allow_large_images:
        allow_large()
    from tokcodec.batch.encode import encode_files
    from tokcodec.batch.jobs import RunOptions
    from tokcodec.cli.outcomes import report

    selection = selection_of(include, exclude, follow)
    options = RunOptions(force, dry_run, device, dtype, batch_size, workers, selection)
    outcomes = encode_files(
        sources,
        output,
        weights=weights,
        fit=fit,
        tokens=tokens,
        max_bytes=max_bytes,
        packets=packets,
        packet_bytes=packet_bytes,
        parity=bool(parity),
        packed=packed,
        text=text,
        background=colour,
        max_image_bytes=max_image_bytes,
        options=options,
    )
    report("encoded", outcomes, as_json, options)
