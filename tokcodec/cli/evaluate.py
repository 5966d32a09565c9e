"""``tokcodec evaluate``."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tokcodec.cli.jobs import STANDARD, pictures
from tokcodec.cli.options import (
    CORES,
    WEIGHTS,
    AllowLarge,
    Device,
    Force,
    Json,
    MaxPictureBytes,
    Pictures,
    Workers,
    allow_large,
)
from tokcodec.cli.terminal import cell, print_json, say
from tokcodec.errors import EvaluationError, OutputError
from tokcodec.tar import MAX_BYTES

if TYPE_CHECKING:
    from tokcodec.evaluate.rivals import Name
    from tokcodec.evaluate.run import Evaluation

# What the extra brings, by the names that are imported.
_PACKAGES = ("torchmetrics", "matplotlib", "pillow_jxl", "thumbhash", "blurhash")


def evaluate(
    sources: Pictures,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar=WEIGHTS, help="A checkpoint; again for more. Every bundled one if not given."
        ),
    ] = None,
    against: Annotated[
        str,
        typer.Option(metavar="NAMES", help="Other codecs, by commas; an empty text for none."),
    ] = "thumbhash,blurhash,webp,avif,jxl,jpeg",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER",
            help="Gets report.json, pictures.csv, a plot (PNG, SVG), and sheets of pictures.",
        ),
    ] = None,
    fit: Annotated[
        Literal["crop", "stretch", "pad"], typer.Option(help="From a picture to the square.")
    ] = "crop",
    device: Device = "auto",
    workers: Workers = CORES,
    allow: AllowLarge = False,
    max_picture_bytes: MaxPictureBytes = MAX_BYTES,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Measure checkpoints on pictures, beside other codecs at the same bytes.

    Every picture is brought to the square of the checkpoints (256x256), encoded, and decoded; the
    codes are packed, and entropy-coded too where there is a prior ("coded"). Each other codec may
    make the picture smaller first, and shows its best by PSNR over size and quality in no more
    bytes than the checkpoint's whole file.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise EvaluationError(
            f"evaluate needs {', '.join(missing)}: pip install 'tokcodec[metrics]'"
        )
    others = _parse_names(against)
    if allow:
        allow_large()
    count, records = pictures(sources, max_picture_bytes)
    if output:
        _prepare(output, force)
    # What is wrong with the command is said before the seconds that these take to import.
    from tokcodec.checkpoint import bundled
    from tokcodec.codec import Codec
    from tokcodec.evaluate.report import Report, to_json
    from tokcodec.evaluate.run import Evaluator

    codecs = [Codec.load(name, device) for name in weights or bundled()]
    evaluator = Evaluator(codecs, others, fit)
    if evaluator.no_lpips:
        say(f"without LPIPS: {evaluator.no_lpips}")
    report = Report(evaluator.points, count)
    for result in evaluator.run(records, workers, say):
        if output:  # it keeps pictures, which nobody else needs
            report.add(result)
        if evaluator.pictures % 16 == 0:
            say(f"{evaluator.pictures}{f' of {count}' if count else ''} pictures")
    if not evaluator.pictures:
        raise EvaluationError(f"{', '.join(sources)}: no picture to measure")
    evaluation = evaluator.evaluation()
    if output:
        report.write(output, evaluation)
        say(f"report in {output}")
    if as_json:
        print_json(to_json(evaluation))
    else:
        _print(evaluation)
    if evaluator.failed:
        raise typer.Exit(3)


def _prepare(folder: Path, force: bool) -> None:
    """Finds out before anything is measured that the report has no place to go to."""
    from tokcodec.evaluate.report import FIGURES

    if str(folder) in (STANDARD, "."):
        raise OutputError(f"-o {folder}: name a folder for the report")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = (folder / FIGURES).exists()
    except OSError as error:
        raise OutputError(f"{folder}: no folder for the report: {error.strerror}") from error
    if taken and not force:
        raise OutputError(f"{folder}: holds a report already (-f overwrites it)")


def _parse_names(text: str) -> "tuple[Name, ...]":
    from tokcodec.evaluate.rivals import NAMES

    wanted = [name.strip().lower() for name in text.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in NAMES]:
        raise EvaluationError(f"--against {unknown[0]}: none of {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in wanted)


def _print(evaluation: "Evaluation") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    table.add_column("codec", no_wrap=True)
    for name in ("codes", "bytes", "PSNR", "SSIM", "MS-SSIM", "LPIPS", "codebook", "perplexity"):
        table.add_column(name, justify="right", no_wrap=True)

    def shown(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    for row in evaluation.rows:
        for mean in (row.own, *row.others):
            own = mean is row.own
            figures = [shown(mean.file_bytes, 0), shown(mean.psnr, 2)]
            figures += [shown(value, 3) for value in (mean.ssim, mean.ms_ssim, mean.lpips)]
            if mean.file_bytes is None:
                figures[0] = f"fits {mean.pictures}"
            table.add_row(
                cell(mean.codec) + ", coded" * row.coded if own else f"  {mean.codec}",
                str(row.tokens) if own else "",
                *figures,
                f"{row.usage:.1%}" if own else "",
                f"{row.perplexity:,.0f}" if own else "",
            )
    # Figures must not be cut, in a pipe or a narrow terminal.
    console = Console(width=max(Console().width, 100))
    console.print(table)
    pictures = "picture" if evaluation.pictures == 1 else "pictures"
    console.print(
        f"means over {evaluation.pictures} {pictures} ({evaluation.fit} to {evaluation.size}x"
        f"{evaluation.size}); other codecs in no more bytes, for each picture the best by PSNR",
        highlight=False,
    )
