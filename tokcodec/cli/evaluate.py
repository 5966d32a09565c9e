"""``tokcodec evaluate``, and what it shares with ``page``."""

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tokcodec.cli.options import (
    CORES,
    STANDARD,
    WEIGHTS,
    AllowLarge,
    Device,
    Force,
    Images,
    Json,
    MaxImageBytes,
    Workers,
    allow_large,
)
from tokcodec.cli.terminal import Bar, cell, note, print_json
from tokcodec.errors import EvaluationError, OutputError
from tokcodec.io.tar import MAX_BYTES

if TYPE_CHECKING:
    from tokcodec.errors import TokcodecError
    from tokcodec.evaluate.baselines import Name
    from tokcodec.evaluate.run import Evaluation, Evaluator, Example, Result

UNFINISHED = ".unfinished"  # lies in a folder whose files may be made anew
# What the extra brings, by the names that are imported.
_PACKAGES = ("torchmetrics", "matplotlib", "pillow_jxl", "thumbhash", "blurhash")


Weights = Annotated[
    list[str] | None,
    typer.Option(**WEIGHTS, help="A checkpoint; again for more. Every bundled one if not given."),
]
Against = Annotated[
    str, typer.Option(metavar="NAMES", help="Other codecs, by commas; an empty text for none.")
]
EVERY = "thumbhash,blurhash,webp,avif,jxl,jpeg"
SquareFit = Annotated[
    Literal["crop", "stretch", "pad"], typer.Option(help="From an image to the square.")
]


def evaluate(
    sources: Images,
    weights: Weights = None,
    against: Against = EVERY,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER",
            help="Gets report.json, images.csv, a plot (PNG, SVG), and sheets of images.",
        ),
    ] = None,
    fit: SquareFit = "crop",
    lpips: Annotated[
        bool,
        typer.Option(
            "--lpips", help="Measure LPIPS, too; needs torchvision, and a network it fetches."
        ),
    ] = False,
    device: Device = "auto",
    workers: Workers = CORES,
    allow: AllowLarge = False,
    max_image_bytes: MaxImageBytes = MAX_BYTES,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Measure checkpoints beside other codecs.

    On images, at the same bytes.

    Every image is brought to the square of the checkpoints (256x256), encoded, and decoded; the
    tokens are packed, and entropy-coded too where there is a prior. Each other codec may make the
    image smaller first, and shows its best by PSNR over size and quality in no more bytes than
    the checkpoint's whole file.
    """
    require_packages()
    baselines = parse_names(against)
    if allow:
        allow_large()
    from tokcodec.batch.jobs import images

    count, records = images(sources, max_image_bytes)
    if output:
        from tokcodec.evaluate.report import FILES

        prepare(output, FILES, force)
    # What is wrong with the command is said before the seconds that these take to import.
    from tokcodec.checkpoint import bundled
    from tokcodec.codec import Codec
    from tokcodec.evaluate.metrics import require_lpips
    from tokcodec.evaluate.report import Report, to_json
    from tokcodec.evaluate.run import Evaluator, compared_size, encoded, points_of

    if lpips:
        require_lpips()
    points = points_of(Codec.load(name, device) for name in weights or bundled())
    size = compared_size(points)
    evaluator = Evaluator(points, baselines, fit, size, lpips)
    report = Report(points, count)
    examples = encoded(records, points, fit, size)
    # It keeps images, which nobody else needs.
    measure(evaluator, examples, workers, count, sources, report.add if output else None)
    evaluation = evaluator.evaluation()
    if output:
        report.write(output, evaluation)
        (output / UNFINISHED).unlink()
        note(f"report in {output}")
    if as_json:
        print_json(to_json(evaluation))
    else:
        _print(evaluation)
    if evaluator.failed:
        raise typer.Exit(3)


def measure(
    evaluator: "Evaluator",
    examples: "Iterable[Example | TokcodecError]",
    workers: int,
    count: int | None,
    sources: list[str],
    take: "Callable[[Result], object] | None",
) -> None:
    """Measures all examples, with a bar; each result is given to ``take``.

    Raises:
        EvaluationError: there were none.
    """
    with Bar("measured", count) as bar:
        bar.again = "the same command begins again"
        for result in evaluator.run(examples, workers, bar.fail):
            if take:
                take(result)
            bar.move()
    if not evaluator.images:
        raise EvaluationError(f"{', '.join(sources)}: no image to measure")


def require_packages() -> None:
    """Refuses what needs the extra ``metrics`` where that is not installed.

    Raises:
        EvaluationError: it is not.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise EvaluationError(
            f"measuring needs {', '.join(missing)}: pip install 'tokcodec[metrics]'"
        )


def prepare(folder: Path, files: "Iterable[str]", force: bool) -> None:
    """Finds out before anything is measured that a report or a page has no place to go to.

    Args:
        folder: its folder, which is made.
        files: globs of what will be written, and removed before.
        force: whether what is there may be overwritten.

    Raises:
        OutputError: something of it is there already, or it can be no folder.
    """
    from tokcodec.batch.jobs import refuse_remote

    refuse_remote(folder)
    if str(folder) in (STANDARD, "."):
        raise OutputError(f"-o {folder}: name a folder of its own")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = (folder / UNFINISHED).exists()  # by a run that was stopped
        taken = [path.name for pattern in files for path in folder.glob(pattern)]
        (folder / UNFINISHED).touch()
    except OSError as error:
        raise OutputError(f"{folder}: cannot be a folder: {error.strerror}") from error
    if taken and not unfinished and not force:
        (folder / UNFINISHED).unlink()
        raise OutputError(f"{folder}: holds {taken[0]} already (-f overwrites it)")


def parse_names(text: str) -> "tuple[Name, ...]":
    from tokcodec.evaluate.baselines import NAMES

    wanted = [name.strip().lower() for name in text.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in NAMES]:
        raise typer.BadParameter(
            f"{unknown[0]!r} is none of {', '.join(NAMES)}", param_hint="--against"
        )
    return tuple(name for name in NAMES if name in wanted)


def _print(evaluation: "Evaluation") -> None:
    from rich.console import Console
    from rich.table import Table

    from tokcodec.evaluate.report import table, to_json

    head, *rows = table(to_json(evaluation))
    shown = Table(box=None)
    shown.add_column("codec", no_wrap=True)
    for name in head[1:]:
        shown.add_column(name, justify="right", no_wrap=True)
    for name, tokens, *figures in rows:
        shown.add_row(cell(name) if tokens else f"  {cell(name)}", tokens, *figures)
    # Figures must not be cut, in a pipe or a narrow terminal.
    console = Console(width=max(Console().width, 130))
    console.print(shown, highlight=False)
    images = "image" if evaluation.images == 1 else "images"
    console.print(
        f"means over {evaluation.images} {images} ({evaluation.fit} to {evaluation.size}x"
        f"{evaluation.size}); other codecs in no more bytes, for each image the best by PSNR;\n"
        "each stands once, under the first checkpoint that it is compared with",
        highlight=False,
    )
