"""``tokcodec stats``."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokcodec.cli.options import Json, WeightsOf
from tokcodec.cli.terminal import print_json, require_pyarrow, say, show, why_unknown
from tokcodec.dataset.folder import is_dataset
from tokcodec.errors import DatasetError, FailedRowError, TokenFileError
from tokcodec.io.files import find_files
from tokcodec.io.remote import location

if TYPE_CHECKING:
    from tokcodec.evaluate.stats import Collector, Report


def stats(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC", help="Token files, folders of them; token datasets, also by URL."
        ),
    ],
    weights: WeightsOf = None,
    as_json: Json = False,
) -> None:
    """Report what token files cost.

    Against raw pixels, and against the images where those lie beside their token files.
    """
    from tokcodec.checkpoint import find
    from tokcodec.evaluate.stats import Collector
    from tokcodec.tokenfile import SUFFIX, TokenFile

    header = find(weights) if weights else None
    collector = Collector(header)
    for source in map(location, sources):
        if is_dataset(source):
            _add_dataset(collector, source)
            continue
        for path in find_files(source, {SUFFIX}) if source.is_dir() else [source]:
            try:
                collector.add(TokenFile.load(path), path)
            except TokenFileError as error:
                say(f"{path}: {str(error).removeprefix(f'{path}: ')}")
                collector.failed += 1
    report = collector.report()
    if not report.images:
        if not collector.failed:
            say(f"no token files in {', '.join(sources)}")
        raise typer.Exit(1)
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        _print(report)
    if collector.failed:
        raise typer.Exit(3)


def _add_dataset(collector: "Collector", path: Path) -> None:
    require_pyarrow()
    from tokcodec.dataset.reader import open_dataset, token_files

    dataset = open_dataset(path)
    collector.add_bytes(dataset.file_bytes)
    without = 0
    for name, row in token_files(dataset):
        if isinstance(row, FailedRowError):
            without += 1
        elif isinstance(row, DatasetError):
            say(f"{name}: {row}")
            collector.failed += 1
        else:
            collector.add_row(row)
    if without:
        say(f"{path}: {without:,} of {len(dataset):,} rows failed when they were made")
    collector.failed += without


def _print(report: "Report") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(justify="right")

    def row(name: str, value: int | float | None, format_: str = ",", unit: str = "") -> None:
        table.add_row(name, "unknown" if value is None else f"{value:{format_}}{unit}")

    row("images", report.images)
    row("failed", report.failed)
    row("raw bytes (W x H x 3)", report.raw_bytes)
    row("source files, bytes", report.source_bytes)
    row("token files, bytes", report.file_bytes)
    row("payload, bits", report.payload_bits)
    row("bits per pixel", report.bits_per_pixel, ".5f")
    row("raw : token files", report.ratio_raw, ",.1f", " : 1")
    row("source : token files", report.ratio_source, ",.1f", " : 1")
    row("codebook size", report.codebook_size)
    row("tokens used", report.tokens_used)
    row("usage", report.usage, ".2%")
    row("perplexity", report.perplexity, ",.1f")
    row("entropy, bits per token", report.entropy_bits_per_token, ".3f")
    # Figures must not be cut, in a pipe or a narrow terminal.
    Console(width=max(Console().width, 60)).print(table)
    if len(report.models) > 1:
        models = ", ".join(report.models)
        show(
            f"of several models ({models}), whose tokens mean different things: name one at a time"
        )
    elif report.codebook_size is None:
        show(f"model {why_unknown(report.models[0])}")
    if report.source_bytes is None:
        show("source files: known where every image lies beside its token file")
