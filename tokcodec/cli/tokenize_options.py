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
        help="Write shards to this folder, or all rows to one file.parquet; a path or a URL.",
    ),
]

# Input
Sources = Annotated[list[str] | None, typer.Argument(metavar="SRC", help="Images: " + MANY)]
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
    input_option("Also keep these columns of Parquet files, as text.", metavar="NAME,NAME"),
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
    model_option("Fit images to the model's input size, as for encode. Default: the checkpoint's."),
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
        "Cut ten crops from a square of X times the model's input size. Default: 1.1.",
        metavar="X",
        min=1,
        max=4,
    ),
]
Seed = Annotated[int | None, _rows_option("Seed of random crops. Default: 0.", metavar="N")]
RowsPerShard = Annotated[int, _rows_option("Rows per shard; each tar is one shard.", min=1)]

# Resuming
Force = Annotated[
    bool, _resuming_option("Start over, and overwrite files that exist.", "-f", "--force")
]
RetryFailed = Annotated[
    bool,
    _resuming_option(
        "Make shards with failed rows again, if their files have not changed.", "--retry-failed"
    ),
]
VerifyInputs = Annotated[
    bool,
    _resuming_option(
        "Compare the bytes of inputs of finished shards, too, not only sizes and times.",
        "--verify-inputs",
    ),
]
MaxFailures = Annotated[
    int | None, _resuming_option("Stop when more than N images have failed.", min=0)
]

# Processing
Shard = Annotated[
    str | None,
    processing_option(
        "Make only part I of N of the shards, from 0/N to N-1/N, on one of N machines.",
        metavar="I/N",
    ),
]
Compile = Annotated[bool, processing_option("Compile the encoder with torch.compile.", "--compile")]
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
