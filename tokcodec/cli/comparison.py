"""The options that ``evaluate`` and ``page`` share, as values, and the table of a report."""

from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from tokcodec.cli.hints import explain
from tokcodec.cli.options import INPUT, MODEL, WEIGHTS
from tokcodec.cli.progress import Bar
from tokcodec.cli.terminal import cell
from tokcodec.errors import TokcodecError, counted

if TYPE_CHECKING:
    from tokcodec.evaluate.baselines import Name
    from tokcodec.evaluate.measure import Report
    from tokcodec.evaluate.run import Progress

RATES = "Rates"

Weights = Annotated[
    list[str] | None,
    typer.Option(
        **WEIGHTS,
        rich_help_panel=MODEL,
        help="Use this checkpoint; by default the bundled one. May be repeated.",
    ),
]
Baselines = Annotated[
    str,
    typer.Option(
        "--against",
        metavar="NAMES",
        rich_help_panel=MODEL,
        help="Compare with these codecs, separated by commas; '' for none.",
    ),
]
ALL = "thumbhash,blurhash,webp,avif,jxl,jpeg"
Bytes = Annotated[
    str,
    typer.Option(
        "--bytes",
        metavar="N,N,...",
        rich_help_panel=RATES,
        help="Compare at these file sizes, for models of any grid.",
    ),
]
BYTES = "40,64,100,150,232,434,600,800"
MaxTokens = Annotated[
    str | None,
    typer.Option(
        "--tokens",
        metavar="N,N,...",
        rich_help_panel=RATES,
        help="Compare at these numbers of tokens instead of --bytes, if a model supports them.",
    ),
]
Packed = Annotated[
    bool, typer.Option("--packed", rich_help_panel=RATES, help="Do not entropy-code the files.")
]
MaxEdge = Annotated[
    int,
    typer.Option(
        "--max-edge",
        metavar="N",
        min=176,
        max=4096,
        rich_help_panel=INPUT,
        help="Resize larger images to this many pixels along the longer edge.",
    ),
]
SquareFit = Annotated[
    Literal["crop", "stretch", "pad"],
    typer.Option(
        rich_help_panel=INPUT,
        help="How to fit images to checkpoints that take only squares of one size.",
    ),
]


def follow(bar: Bar) -> "Progress":
    """Shows the progress of an evaluation on a bar."""
    bar.again = "the same command starts again"

    def progress(images: int | None, error: TokcodecError | None) -> None:
        bar.total = images
        if error:
            bar.fail(explain(error))
        else:
            bar.move()

    return progress


def baseline_names(text: str) -> "tuple[Name, ...]":
    """The names in a text, separated by commas.

    Raises:
        typer.BadParameter: one of them is no baseline.
    """
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    known = ALL.split(",")
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(
            f"{unknown[0]!r} is none of {', '.join(known)}", param_hint="--against"
        )
    return cast("tuple[Name, ...]", tuple(names))


def rates(limits: str, tokens: str | None) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """The limits of bytes, and the numbers of tokens if there are any.

    Raises:
        typer.BadParameter: they are no numbers, or both are given.
    """
    if limits != BYTES and tokens:
        raise typer.BadParameter("give either --bytes or --tokens", param_hint="--bytes")
    return _numbers(limits, "--bytes"), _numbers(tokens, "--tokens") if tokens else None


def _numbers(text: str, option: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 0 < int(word) <= 1 << 20 for word in words):
        raise typer.BadParameter(
            f"{text!r} is no list of numbers, such as 100,200", param_hint=option
        )
    return tuple(sorted(set(map(int, words))))


def print_report(report: "Report") -> None:
    """The table of means, and what it is of."""
    from rich.console import Console
    from rich.table import Table

    from tokcodec.evaluate.report import table, to_json

    head, *rows = table(to_json(report))
    shown = Table(box=None)
    shown.add_column("codec", no_wrap=True)
    for name in head[1:]:
        shown.add_column(name, justify="right", no_wrap=True)
    for name, tokens, *figures in rows:
        shown.add_row(cell(name) if tokens else f"  {cell(name)}", tokens, *figures)
    # Figures must not be cut, in a pipe or a narrow terminal.
    console = Console(width=max(Console().width, 130))
    console.print(shown, highlight=False)
    means = "Means and rFID" if "rFID" in head else "Means"
    told = f"{means} over {counted(report.images, 'image')}, {report.shape}."
    if not all(tokens for _, tokens, *_ in rows):  # which baselines have none of
        told += (
            " Each baseline is the best by PSNR over scale and quality\nwhose file has at most the "
            "bytes of the limit, or of the checkpoint's file. The gain is over the best baseline."
        )
    console.print(told, highlight=False)
