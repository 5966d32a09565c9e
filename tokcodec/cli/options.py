"""Options that several commands share."""

import glob
import os
import shlex
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from functools import partial
from typing import Annotated, Any, Literal

import typer

from tokcodec.batch.jobs import CORES as CORES
from tokcodec.batch.jobs import is_standard
from tokcodec.config.geometry import Fit as FitName
from tokcodec.errors import without_credentials


def option(panel: str, text: str, *names: str, **settings: Any) -> Any:
    """An option with its help text, in a panel of the help page; N stands for a number."""
    if "min" in settings:
        settings.setdefault("metavar", "N")
    return typer.Option(*names, help=text, rich_help_panel=panel, **settings)


input_option = partial(option, "Input")
output_option = partial(option, "Output")
model_option = partial(option, "Model")
processing_option = partial(option, "Processing")

# Input
MANY = "files, folders, globs, a{000..099}.tar, WebDataset tars, Parquet files; paths or URLs."
Images = Annotated[list[str], typer.Argument(metavar="SRC", help="Images: " + MANY)]
Include = Annotated[
    list[str] | None,
    input_option(
        "Read only files whose path below SRC matches; * also matches /. May be repeated.",
        metavar="GLOB",
    ),
]
Exclude = Annotated[
    list[str] | None,
    input_option("Skip files whose path below SRC matches. May be repeated.", metavar="GLOB"),
]
Follow = Annotated[bool, input_option("Follow links to folders.", "--follow")]
AllowLarge = Annotated[
    bool, input_option("Lift Pillow's limit on pixels (179 million).", "--allow-large")
]
MaxImageBytes = Annotated[
    int,
    input_option(
        "Reject images larger than N bytes; in a tar, the images of one key count together.",
        "--max-image-bytes",
        min=1,
    ),
]

# Output
Output = Annotated[
    str | None,
    output_option(
        "Write to this file or folder, or to standard output (-).",
        "-o",
        "--output",
        metavar="OUT",
    ),
]
Force = Annotated[bool, output_option("Overwrite files that exist.", "-f", "--force")]
DryRun = Annotated[bool, output_option("Show what would be done, and write nothing.", "--dry-run")]
Json = Annotated[bool, output_option("Print JSON to standard output.", "--json")]

# Model
_SUFFIXES = (".safetensors", ".bin", ".ckpt", ".pt", ".pth")


def _complete_weights(incomplete: str) -> list[str]:
    """Completes the names of bundled checkpoints, files of weights and folders."""
    from tokcodec.checkpoint import bundled

    names = [header.name for header in bundled() if header.name.startswith(incomplete)]
    paths = sorted(glob.glob(glob.escape(incomplete) + "*"))  # noqa: PTH207 (of what is typed)
    folders = [path + "/" for path in paths if os.path.isdir(path)]  # noqa: PTH112
    return names + [path for path in paths if path.endswith(_SUFFIXES)] + folders


# For all options that name a checkpoint.
WEIGHTS: dict[str, Any] = {
    "metavar": "NAME|FILE|FOLDER|OWNER/NAME",
    "autocompletion": _complete_weights,
}
Weights = Annotated[
    str,
    model_option(
        "Use this checkpoint: bundled (see tokcodec models), converted, or published.", **WEIGHTS
    ),
]
WeightsOf = Annotated[
    str | None,
    model_option(
        "Use this checkpoint. Needed only if that of the files is neither bundled nor cached.",
        "--weights",
        **WEIGHTS,
    ),
]
Fit = Annotated[
    FitName | None,
    model_option(
        "Fit images to the model's input size: aspect and pad keep their shape, stretch does not, "
        "crop takes the centre, tile and native keep the resolution. Default: the checkpoint's."
    ),
]
Tokens = Annotated[
    int | None,
    model_option(
        "Use at most N tokens per image or tile, if the checkpoint supports it. Default of the "
        "bundled one: 64.",
        min=1,
    ),
]
Best = Annotated[
    bool,
    model_option(
        "Also try grids of other shapes, and keep the one whose image is closest to the original; "
        "about five times slower.",
        "--best",
    ),
]
Background = Annotated[
    str,
    model_option("Put this colour (a name or #rrggbb) behind transparent parts.", metavar="COLOUR"),
]

# Processing
Device = Annotated[
    Literal["auto", "cpu", "cuda"], processing_option("Run the model on this device.")
]
Dtype = Annotated[
    Literal["float32", "bfloat16"],
    processing_option(
        "Precision of matrix products. bfloat16 is faster on some devices, but changes some tokens."
    ),
]
BatchSize = Annotated[
    int | None,
    processing_option(
        "Run the model on N tiles at a time. Another N may change a few tokens. Default: 64 on "
        "CUDA, 16 on a CPU, fewer for a large model, 1 for images that keep their shape.",
        min=1,
        max=1_000_000,
    ),
]
Workers = Annotated[
    int,
    processing_option("Read and write images in N threads.", min=1, show_default="cores"),
]


running: ContextVar[typer.Context] = ContextVar("running")  # the command that runs


def command_line() -> str:
    """The command as it was typed, without credentials, for the provenance of a checkpoint."""
    arguments = running.get().find_root().obj["arguments"]
    return without_credentials(shlex.join(["tokcodec", *arguments]))


def allow_large() -> None:
    """Lifts Pillow's limit for opening and making images, until the command ends."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    running.get().call_on_close(lambda: setattr(Image, "MAX_IMAGE_PIXELS", limit))
    Image.MAX_IMAGE_PIXELS = None


def colour_of(name: str) -> tuple[int, int, int]:
    """Red, green and blue of the value of ``--background``."""
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError as error:
        why = f"{name!r} is not a colour: give a name, such as white, or #rrggbb"
        raise typer.BadParameter(why, param_hint="--background") from error
    return red, green, blue


def refuse_streams(sources: Sequence[str], output: str | None, as_json: bool, text: bool) -> None:
    """Refuses to write binary data to a terminal, or the result and JSON to standard output."""
    if not is_standard(sources, output):
        return
    if as_json:
        raise typer.BadParameter("standard output cannot take both the result and JSON")
    if sys.stdout.isatty() and not text:
        raise typer.BadParameter(
            "cannot write binary data to a terminal: name a file, or redirect it", param_hint="-o"
        )
