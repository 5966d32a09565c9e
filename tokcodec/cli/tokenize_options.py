"""The options of ``tokcodec tokenize`` that no other command has."""

from functools import partial
from typing import Annotated, Literal

import typer

from tokcodec.cli.options import (
    MANY,
    WEIGHTS,
    input_option,
    model_option,
    option,
    processing_option,
)

_rows_option = partial(option, "Rows")
_resuming_option = partial(option, "Resuming")

Output = Annotated[
    str,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT",
        help="Write to this folder of shards, or to one file.parquet; a path, or the URL of a "
        "store.",
    ),
]

# Input
Sources = Annotated[list[str] | None, typer.Argument(metavar="[SRC]...", help="Images: " + MANY)]
FromFile = Annotated[
    str | None,
    input_option(
        "Also read the images that this file lists, one name on each line.", metavar="FILE|-"
    ),
]
Label = Annotated[
    str | None,
    input_option(
        "Take labels from this column of Parquet files. Default: label.", metavar="COLUMN"
    ),
]
Columns = Annotated[
    str | None,
    input_option(
        "Keep these columns of Parquet files, too, as text; separated by commas.", metavar="A,B"
    ),
]
Limit = Annotated[int | None, input_option("Read only the first N images.", min=1)]

# Model
Weights = Annotated[
    list[str] | None,
    model_option(
        "Use this checkpoint, as for encode. If repeated, each image is read once, and OUT is a "
        "folder with a dataset for each. Default: the bundled one.",
        "--weights",
        **WEIGHTS,
    ),
]
Fit = Annotated[
    Literal["aspect", "stretch", "crop", "pad", "native"] | None,
    model_option("How to fit an image to the model's input size. Default: the checkpoint's."),
]
ImageSize = Annotated[
    int | None,
    model_option(
        "Resize images to squares of N pixels, instead of --tokens, if the checkpoint supports it.",
        min=1,
    ),
]

# Rows
Views = Annotated[
    str,
    _rows_option(
        "Rows per image: one, with its mirror image, ten crops, or N random resized crops.",
        metavar="one|hflip|ten-crop|random:N",
    ),
]
CropRange = Annotated[
    float | None,
    _rows_option(
        "Cut ten crops from a square of X tiles a side. Default: 1.1.", metavar="X", min=1, max=4
    ),
]
Seed = Annotated[int | None, _rows_option("Seed of random crops. Default: 0.", metavar="N")]
RowsPerShard = Annotated[int, _rows_option("Rows per shard; a tar is one shard.", min=1)]

# Resuming
Force = Annotated[bool, _resuming_option("Start over.", "-f", "--force")]
RetryFailed = Annotated[
    bool,
    _resuming_option(
        "Make shards with failed rows again, if their files have not changed.", "--retry-failed"
    ),
]
VerifyInputs = Annotated[
    bool, _resuming_option("Also compare the bytes of finished shards' inputs.", "--verify-inputs")
]
MaxFailures = Annotated[
    int | None, _resuming_option("Stop when more than N images have failed.", min=0)
]

# Processing
Shard = Annotated[
    str | None,
    processing_option("Process part I of N, from 0, on one of N machines.", metavar="I/N"),
]
Compile = Annotated[bool, processing_option("Compile the encoder first.", "--compile")]
Workers = Annotated[
    int | None,
    processing_option(
        "Read images in N threads. Default: one per core; with Ray, one per actor.",
        min=1,
    ),
]
Engine = Annotated[Literal["local", "ray"], processing_option("Run here, or in Ray actors.")]
RayAddress = Annotated[
    str | None,
    processing_option(
        "Use this Ray cluster. Default: start Ray on this machine.", metavar="ADDRESS"
    ),
]
Actors = Annotated[
    int,
    processing_option("Start N Ray actors; each loads the model and, on CUDA, takes a GPU.", min=1),
]
