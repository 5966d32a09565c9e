"""The options of ``tokcodec tokenize`` that no other command has."""

from typing import Annotated, Any, Literal

import typer

from tokcodec.cli import options as shared


def _panel(panel: str) -> Any:
    """``typer.Option`` with the help first, in a panel of the help page."""

    def option(help: str, *names: str, **more: Any) -> Any:  # noqa: A002
        return typer.Option(*names, help=help, rich_help_panel=panel, **more)

    return option


_INPUT, _ROWS, _RESUME, _COMPUTE = map(_panel, ("Input", "Rows", "Resuming", "Computation"))

Output = Annotated[
    str,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT",
        help="A folder of shards, or one file.parquet; a path, or the URL of a store.",
    ),
]

# Input
Sources = Annotated[list[str] | None, typer.Argument(metavar="SRC", help="Images: " + shared.MANY)]
FromFile = Annotated[
    str | None,
    _INPUT("Also the images that this file lists, one name on each line.", metavar="FILE|-"),
]
Label = Annotated[
    str | None, _INPUT("Column of labels in Parquet. Default: label.", metavar="COLUMN")
]
Columns = Annotated[
    str | None,
    _INPUT("Further columns of Parquet to keep, as text. Comma-separated.", metavar="A,B"),
]
Limit = Annotated[int | None, _INPUT("Only the first N images.", metavar="N", min=1)]

# Rows
Weights = Annotated[
    list[str] | None,
    _ROWS(
        "The checkpoint, as for encode. If repeated, each image is read once, and OUT is a folder "
        "with a dataset for each. Default: the bundled one.",
        "--weights",
        **shared.WEIGHTS,
    ),
]
Fit = Annotated[
    Literal["aspect", "stretch", "crop", "pad", "native"] | None,
    _ROWS("How an image meets the model's input size. Default: the checkpoint's."),
]
ImageSize = Annotated[
    int | None,
    _ROWS(
        "Side of the square in pixels, instead of --tokens, if the checkpoint supports it.",
        metavar="N",
        min=1,
    ),
]
Background = Annotated[str, _ROWS("Behind transparent parts: a name or #rrggbb.", metavar="COLOUR")]
Views = Annotated[
    str,
    _ROWS(
        "Rows per image: one, with its mirror image, ten crops, or N random resized crops.",
        metavar="one|hflip|ten-crop|random:N",
    ),
]
CropRange = Annotated[
    float | None,
    _ROWS(
        "Size of the square that ten crops are cut from, in tiles. Default: 1.1.",
        metavar="X",
        min=1,
        max=4,
    ),
]
Seed = Annotated[int | None, _ROWS("Seed of random crops. Default: 0.", metavar="N")]
RowsPerShard = Annotated[int, _ROWS("Rows per shard; a tar is one shard.", metavar="N", min=1)]

# Resuming
Force = Annotated[bool, _RESUME("Begin again.", "-f", "--force")]
RetryFailed = Annotated[
    bool,
    _RESUME(
        "Make shards with failed rows again, where their files have not changed.",
        "--retry-failed",
    ),
]
VerifyInputs = Annotated[
    bool, _RESUME("Also compare the bytes of finished shards' inputs.", "--verify-inputs")
]
MaxFailures = Annotated[int | None, _RESUME("Abort above N failed images.", metavar="N", min=0)]

# Computation
Shard = Annotated[
    str | None, _COMPUTE("Process part I of N, from 0, on one of N machines.", metavar="I/N")
]
Compile = Annotated[bool, _COMPUTE("Compile the encoder first.", "--compile")]
BatchSize = Annotated[
    int | None,
    _COMPUTE(
        "Tiles per batch; another batch size can change a few tokens. Default: 64 on CUDA, 16 on a "
        "CPU, fewer for a large model, 1 with --fit aspect and native.",
        metavar="N",
        min=1,
        max=1_000_000,
    ),
]
Workers = Annotated[
    int | None,
    _COMPUTE("Threads that read images. Default: cores; 1 per Ray actor.", metavar="N", min=1),
]
Engine = Annotated[Literal["local", "ray"], _COMPUTE("Make shards here, or with Ray's actors.")]
RayAddress = Annotated[
    str | None,
    _COMPUTE("A Ray cluster. Default: start Ray on this machine.", metavar="ADDRESS"),
]
Actors = Annotated[
    int,
    _COMPUTE("Ray's actors; each loads the model and, on CUDA, takes a GPU.", metavar="N", min=1),
]
