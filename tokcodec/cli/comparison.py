"""What ``evaluate`` and ``page`` share: options, their values, progress and the report."""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from tokcodec.cli.hints import explain
from tokcodec.cli.options import WEIGHTS, input_option, model_option, option
from tokcodec.cli.progress import Bar
from tokcodec.cli.terminal import print_table, show
from tokcodec.errors import TokcodecError, counted

if TYPE_CHECKING:
    from tokcodec.evaluate.baselines import Name
    from tokcodec.evaluate.measure import Report
    from tokcodec.evaluate.run import Progress

_rate_option = partial(option, "Rates")

Weights = Annotated[
    list[str] | None,
    model_option("Use this checkpoint. May be repeated. Default: the bundled one.", **WEIGHTS),
]
Baselines = Annotated[
    str,
    model_option(
        "Compare with these codecs, separated by commas; '' for none.", "--against", metavar="NAMES"
    ),
]
ALL = "thumbhash,blurhash,webp,avif,jxl,jpeg"
Bytes = Annotated[
    str,
    _rate_option(
        "Compare at these file sizes, if a model takes grids of any size.",
        "--bytes",
        metavar="N,N,...",
    ),
]
BYTES = "40,64,100,150,232,434,600,800"
MaxTokens = Annotated[
    str | None,
    _rate_option(
        "Compare at these numbers of tokens instead of --bytes, if a model supports them.",
        "--tokens",
        metavar="N,N,...",
    ),
]
Packed = Annotated[bool, _rate_option("Do not entropy-code the tokens.", "--packed")]
MaxEdge = Annotated[
    int,
    input_option(
        "Resize larger images to this many pixels along the longer edge.",
        "--max-edge",
        min=176,
        max=4096,
    ),
]
SquareFit = Annotated[
    Literal["crop", "stretch", "pad"],
    input_option("Fit images to checkpoints that take only squares of one size."),
]


def follow(bar: Bar) -> "Progress":
    """Shows the progress of an evaluation on a bar."""

    def progress(images: int | None, error: TokcodecError | None) -> None:
        bar.total = images
        if error:
            bar.fail(explain(error))
        else:
            bar.move()

    return progress


def baseline_names(text: str) -> "tuple[Name, ...]":
    """The names in a text, separated by commas; the library checks that they are known."""
    names = tuple(name.strip().lower() for name in text.split(",") if name.strip())
    return cast("tuple[Name, ...]", names)


def rates(limits: str, tokens: str | None) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """The limits of bytes, and the numbers of tokens if any."""
    if limits != BYTES and tokens:
        raise typer.BadParameter("give either --bytes or --tokens", param_hint="--bytes")
    return _numbers(limits, "--bytes"), _numbers(tokens, "--tokens") if tokens else None


def _numbers(text: str, option: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 0 < int(word) <= 1 << 20 for word in words):
        raise typer.BadParameter(
            f"{text!r} is not a list of numbers, such as 100,200", param_hint=option
        )
    return tuple(sorted(set(map(int, words))))


def print_report(report: "Report") -> None:
    """Prints the table of means, and a note that explains it."""
    from tokcodec.evaluate.report import table, to_json

    head, *rows = table(to_json(report))
    head[0] = "codec"
    for row in rows:
        if not row[1]:  # a baseline
            row[0] = f"  {row[0]}"
    print_table([head, *rows])
    means = "Means and rFID" if "rFID" in head else "Means"
    show(f"{means} over {counted(report.images, 'image')}, {report.shape}.")
    if not all(tokens for _, tokens, *_ in rows):  # baselines have none
        show("Each baseline has the scale and quality of highest PSNR whose file is within the")
        show("limit, or no larger than the checkpoint's. The gain is over the best baseline.")
