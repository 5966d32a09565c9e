"""Options that several commands share."""

import glob
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tokcodec.config.geometry import Fit as FitName
from tokcodec.errors import without_credentials

if TYPE_CHECKING:
    from tokcodec.inputs.listing import Selection

CORES = os.cpu_count() or 1
STANDARD = "-"  # standard input or output
# Panels of the help.
INPUT, OUTPUT, MODEL, PROCESSING = "Input", "Output", "Model", "Processing"
PACKETS = "Packets"

# Input
MANY = "files, folders, globs, {000..099}, WebDataset tars, Parquet files; paths or URLs."
Images = Annotated[list[str], typer.Argument(metavar="SRC", help="Images: " + MANY)]
Include = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB",
        help="Take only files whose path below SRC matches; * also matches /. May be repeated.",
        rich_help_panel=INPUT,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB",
        help="Leave out files whose path below SRC matches. May be repeated.",
        rich_help_panel=INPUT,
    ),
]
Follow = Annotated[
    bool, typer.Option("--follow", help="Follow links to folders.", rich_help_panel=INPUT)
]
AllowLarge = Annotated[
    bool,
    typer.Option(
        "--allow-large", help="Lift Pillow's decompression bomb limit.", rich_help_panel=INPUT
    ),
]
MaxImageBytes = Annotated[
    int,
    typer.Option(
        "--max-image-bytes",
        metavar="N",
        min=1,
        help="Reject images larger than N bytes; in a tar, all images of one key together.",
        rich_help_panel=INPUT,
    ),
]

# Output
Output = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT",
        help="Write to this file or folder, or to standard output (-).",
        rich_help_panel=OUTPUT,
    ),
]
Force = Annotated[
    bool,
    typer.Option("-f", "--force", help="Overwrite files that exist.", rich_help_panel=OUTPUT),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Show what would be done.", rich_help_panel=OUTPUT),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print JSON to standard output.", rich_help_panel=OUTPUT),
]

# Model
_SUFFIXES = (".safetensors", ".bin", ".ckpt", ".pt", ".pth")


def _complete_weights(incomplete: str) -> list[str]:
    """Bundled names that begin so, files of weights, and folders."""
    from tokcodec.checkpoint import bundled

    names = [header.name for header in bundled() if header.name.startswith(incomplete)]
    paths = sorted(glob.glob(glob.escape(incomplete) + "*"))  # noqa: PTH207 (of what is typed)
    folders = [path + "/" for path in paths if os.path.isdir(path)]  # noqa: PTH112
    return names + [path for path in paths if path.endswith(_SUFFIXES)] + folders


# Of every option that names a checkpoint.
WEIGHTS: dict[str, Any] = {
    "metavar": "NAME|FILE|FOLDER|OWNER/NAME",
    "autocompletion": _complete_weights,
}
Weights = Annotated[
    str,
    typer.Option(
        **WEIGHTS,
        help="Use this checkpoint: bundled (see tokcodec models), converted, or published.",
        rich_help_panel=MODEL,
    ),
]
WeightsOf = Annotated[
    str | None,
    typer.Option(
        "--weights",
        **WEIGHTS,
        help="Use this checkpoint. Needed if the files' own is neither bundled nor cached.",
        rich_help_panel=MODEL,
    ),
]
Fit = Annotated[
    FitName | None,
    typer.Option(
        help="How to fit an image to the model's input size. Default: the checkpoint's.",
        rich_help_panel=MODEL,
    ),
]
Tokens = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Use at most N tokens per image or tile, if the checkpoint supports it. Default of "
        "the bundled one: 64.",
        rich_help_panel=MODEL,
    ),
]
Background = Annotated[
    str,
    typer.Option(
        metavar="COLOUR",
        help="Put this colour (a name or #rrggbb) behind transparent parts.",
        rich_help_panel=MODEL,
    ),
]

# Processing
Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option(help="Run the model on this device.", rich_help_panel=PROCESSING),
]
Dtype = Annotated[
    Literal["float32", "bfloat16"],
    typer.Option(
        help="Precision of matrix products. bfloat16 is faster on some devices, and changes "
        "some tokens.",
        rich_help_panel=PROCESSING,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=1_000_000,
        help="Run the model on N tiles at a time. Another N may change a few tokens.",
        rich_help_panel=PROCESSING,
    ),
]
Workers = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        help="Read and write images in N threads.",
        show_default="cores",
        rich_help_panel=PROCESSING,
    ),
]


_arguments: ContextVar[list[str]] = ContextVar("arguments")
_restore: ContextVar[ExitStack] = ContextVar("restore")


@contextmanager
def command_running(arguments: list[str]) -> Iterator[None]:
    """Restores at its end what a command changes of the process."""
    with ExitStack() as stack:
        _arguments.set(arguments)
        _restore.set(stack)
        yield


def command_line() -> str:
    """The command as it was typed, without credentials, for what records where it came from."""
    arguments = _arguments.get()
    return without_credentials(shlex.join(["tokcodec", *arguments]))


def allow_large() -> None:
    """Lifts Pillow's own limit, for opening images and for making them, until the command ends."""
    from PIL import Image

    _restore.get().callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    Image.MAX_IMAGE_PIXELS = None


def colour_of(name: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour as ``--background`` takes it."""
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--background") from error
    return red, green, blue


def selection_of(
    include: Sequence[str] | None, exclude: Sequence[str] | None, follow: bool
) -> "Selection":
    from tokcodec.inputs.listing import Selection

    return Selection(include or (), exclude or (), follow)


def refuse_streams(sources: Sequence[str], output: str | None, as_json: bool, text: bool) -> None:
    """
    Raises:
        typer.BadParameter: bytes would go to a terminal, or standard output takes JSON already.
    """
    import sys

    if output != STANDARD and not (list(sources) == [STANDARD] and output is None):
        return
    if as_json:
        raise typer.BadParameter("standard output cannot take both the result and JSON")
    if sys.stdout.isatty() and not text:
        raise typer.BadParameter(
            "no bytes are written to a terminal: name a file, or pipe them on", param_hint="-o"
        )
