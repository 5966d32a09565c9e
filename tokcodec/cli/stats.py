"""``tokcodec stats``."""

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from tokcodec.cli.hints import explain, why_unknown
from tokcodec.cli.options import Json, WeightsOf
from tokcodec.cli.terminal import print_json, print_table, say, show

if TYPE_CHECKING:
    from tokcodec.evaluate.stats import Report


def stats(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC",
            help="Token files, folders of them, or token datasets, which may be URLs.",
        ),
    ],
    weights: WeightsOf = None,
    as_json: Json = False,
) -> None:
    """Report the size of token files and the use of the codebook.

    Sizes are compared with those of raw pixels, and of the image files if these are in the same
    folder. The packets of an image are joined.

    Example: tokcodec stats tokens
    """
    from tokcodec.evaluate.stats import stats as run

    report = run(sources, weights=weights, failed=lambda error: say(explain(error)))
    if not report.images:
        if not report.failed:
            say(f"no token files in {', '.join(sources)}")
        raise typer.Exit(1)
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        _print(report)
    if report.failed:
        raise typer.Exit(3)


def _print(report: "Report") -> None:
    rows: list[tuple[str, int | float | None, str]] = [
        ("images", report.images, "{:,}"),
        ("failed", report.failed, "{:,}"),
        ("raw bytes (W x H x 3)", report.raw_bytes, "{:,}"),
        ("source files, bytes", report.source_bytes, "{:,}"),
        ("token files, bytes", report.file_bytes, "{:,}"),
        ("tokens", report.tokens, "{:,}"),
        ("payload, bits", report.payload_bits, "{:,}"),
        ("bits per pixel", report.bits_per_pixel, "{:.5f}"),
        ("raw : token files", report.ratio_raw, "{:,.1f} : 1"),
        ("source : token files", report.ratio_source, "{:,.1f} : 1"),
        ("codebook size", report.codebook_size, "{:,}"),
        ("tokens used", report.tokens_used, "{:,}"),
        ("usage", report.usage, "{:.2%}"),
        ("perplexity", report.perplexity, "{:,.1f}"),
        ("entropy, bits per token", report.entropy_bits_per_token, "{:.3f}"),
    ]
    print_table(
        (
            (name, "unknown" if value is None else style.format(value))
            for name, value, style in rows
        ),
        head=False,
    )
    if len(report.models) > 1:
        models = ", ".join(report.models)
        show(
            f"several models ({models}), whose tokens mean different things: "
            "give the files of one model at a time for the use of its codebook"
        )
    elif report.codebook_size is None:
        show(f"model {why_unknown(report.models[0])}")
    if report.source_bytes is None:
        show("source files: known only if every image is in the folder of its token file")
