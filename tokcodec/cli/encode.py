"""``tokcodec encode``."""

from functools import partial
from typing import Annotated

import typer

from tokcodec.cli import options as shared
from tokcodec.config import DEFAULT_WEIGHTS
from tokcodec.io.read import MAX_BYTES

_packet_option = partial(shared.option, "Packets")


def encode(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SRC", help=f"Images: {shared.MANY} Or - for standard input."),
    ],
    output: shared.Output = None,
    force: shared.Force = False,
    dry_run: shared.DryRun = False,
    as_json: shared.Json = False,
    text: Annotated[
        bool,
        shared.output_option(
            "Write text (tok:...) to paste into a chat or mail, instead of bytes.", "--text"
        ),
    ] = False,
    weights: shared.Weights = DEFAULT_WEIGHTS,
    fit: shared.Fit = None,
    tokens: shared.Tokens = None,
    max_bytes: Annotated[
        int | None,
        shared.model_option(
            "Use as many tokens as fit into files of N bytes; with --text, characters.",
            min=1,
        ),
    ] = None,
    packets: Annotated[
        int | None,
        _packet_option(
            "Split each image into at most K packets. Any subset of them decodes to an image.",
            metavar="K",
            min=1,
            max=15,
        ),
    ] = None,
    packet_bytes: Annotated[
        int | None,
        _packet_option(
            "Use as many tokens as fit into packets of N bytes; with --text, characters.",
            min=1,
        ),
    ] = None,
    parity: Annotated[
        bool, _packet_option("Add a packet that restores any one that is lost.", "--parity")
    ] = False,
    packed: Annotated[
        bool,
        shared.model_option(
            "Do not entropy-code the tokens: larger files, which decode without the "
            "checkpoint's prior.",
            "--packed",
        ),
    ] = False,
    best: shared.Best = False,
    background: shared.Background = "white",
    include: shared.Include = None,
    exclude: shared.Exclude = None,
    follow: shared.Follow = False,
    allow_large_images: shared.AllowLarge = False,
    max_image_bytes: shared.MaxImageBytes = MAX_BYTES,
    device: shared.Device = "auto",
    dtype: shared.Dtype = "float32",
    batch_size: shared.BatchSize = None,
    workers: shared.Workers = shared.CORES,
) -> None:
    """Encode images to token files.

    Without -o, the token file of a.jpg is a.jpg.tok in the same folder. For images in tars, in
    Parquet files or at URLs, -o must be a folder, which gets some.tar/a.jpg.tok or
    file.parquet/0.tok. In folders, hidden files and images that decode wrote are skipped.

    Images whose token file is up to date are skipped; other files that exist are replaced only with
    -f. Token files do not record --background and --max-bytes: with --max-bytes, --packets or
    --best, and for images with transparency, the image is encoded again to compare.

    The packets of a.jpg are a.jpg.1.tok, a.jpg.2.tok and so on, or with --text one line each. With
    -f, all packets that an earlier run wrote for the image are replaced.

    Example: tokcodec encode photos -o tokens --tokens 256
    """
    shared.refuse_streams(sources, output, as_json, text)
    if packets and max_bytes:
        raise typer.BadParameter("use --packet-bytes with --packets", param_hint="--max-bytes")
    if not packets and (packet_bytes or parity):
        name = "--packet-bytes" if packet_bytes else "--parity"
        raise typer.BadParameter("needs --packets", param_hint=name)
    colour = shared.colour_of(background)
    if allow_large_images:
        shared.allow_large()
    from tokcodec.batch.encode import encode_files
    from tokcodec.batch.jobs import RunOptions
    from tokcodec.cli.outcomes import report
    from tokcodec.inputs.listing import Selection

    selection = Selection(include or (), exclude or (), follow)
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
        parity=parity,
        packed=packed,
        best=best,
        text=text,
        background=colour,
        max_image_bytes=max_image_bytes,
        options=options,
    )
    report("encoded", outcomes, as_json, options)
