"""Options that several commands share."""

import glob
import os
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tokcodec.errors import without_credentials

if TYPE_CHECKING:
    from tokcodec.codec import Codec

MANY = "files, folders, globs, WebDataset tars, Parquet files; paths or URLs."
Images = Annotated[list[str], typer.Argument(metavar="SRC", help="Images: " + MANY)]
Output = Annotated[
    str | None,
    typer.Option(
        "-o", "--output", metavar="OUT", help="A file, a folder, or - for standard output."
    ),
]
Force = Annotated[bool, typer.Option("-f", "--force", help="Overwrite what is there.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Only say what would be done; no image or token is read."),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB",
        help="Only files whose path below SRC fits; * goes across folders. May be repeated.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="No files whose path below SRC fits. May be repeated."),
]
Follow = Annotated[bool, typer.Option("--follow", help="Into links to folders, too.")]
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
Tokens = Annotated[
    int | None,
    typer.Option(
        min=1, help="Only the first so many tokens of each square; for checkpoints trained for it."
    ),
]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the model runs.")]
Dtype = Annotated[
    Literal["float32", "bfloat16"],
    typer.Option(
        help="Of the model's matrix products. bfloat16 is for GPUs and processors that have it in "
        "hardware, and changes some tokens, and pixels a little."
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Tiles that the model sees at once, part of what fixes tokens; 16 if not given, "
        "fewer of a large model on a CPU.",
    ),
]
Workers = Annotated[
    int, typer.Option(min=1, help="Threads that read and write images.", show_default="cores")
]
AllowLarge = Annotated[
    bool, typer.Option("--allow-large", help="Lift Pillow's decompression bomb limit.")
]
MaxImageBytes = Annotated[
    int,
    typer.Option(
        "--max-image-bytes",
        metavar="N",
        min=1,
        help="A larger image fails, and so do those in a tar that share a key, beyond so many.",
    ),
]
WeightsOf = Annotated[
    str | None,
    typer.Option(
        "--weights",
        **WEIGHTS,
        help="The checkpoint of the token files, if it is neither bundled nor cached; "
        "entropy-coded ones need it.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]

CORES = os.cpu_count() or 1


def load_codec(path: Path, device: str, batch_size: int | None, dtype: Dtype) -> "Codec":
    """The codec of a checkpoint, as the options above have it."""
    from tokcodec.codec import Codec

    return Codec.load(str(path), device, batch_size=batch_size, dtype=dtype)


_arguments: ContextVar[list[str]] = ContextVar("arguments")
_restore: ContextVar[ExitStack] = ContextVar("restore")


@contextmanager
def command_running(arguments: list[str]) -> Iterator[None]:
    """What a command changes of the process is restored at the end of the block."""
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
