"""``tokcodec export``."""

from functools import partial
from typing import Annotated, Literal

import typer

from tokcodec.batch.jobs import STANDARD
from tokcodec.cli.options import Force, option, output_option
from tokcodec.cli.terminal import note
from tokcodec.errors import counted

_token_option = partial(option, "Tokens")


def export(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="A token dataset: a folder of shards, one Parquet file, or a URL.",
        ),
    ],
    output: Annotated[
        str,
        output_option(
            "Write to this file, a path or a URL, or to standard output (-). For llamagen "
            "(NAME_codes, NAME_labels), megatron (NAME.bin, NAME.idx) and mds (a folder), give "
            "NAME without an extension.",
            "-o",
            "--output",
            metavar="OUT",
        ),
    ],
    format_name: Annotated[
        Literal[
            "npy",
            "npz",
            "safetensors",
            "jsonl",
            "bin",
            "webdataset",
            "llamagen",
            "mds",
            "megatron",
        ]
        | None,
        output_option(
            "Write this format. Default: by the extension of OUT; .tar is webdataset.",
            "--format",
        ),
    ] = None,
    rows_per_shard: Annotated[
        int | None,
        output_option("Write OUT-00000.npy, OUT-00001.npy and so on, of N rows each.", min=1),
    ] = None,
    columns: Annotated[
        str | None,
        output_option(
            "Export only these columns, besides key and view. Default: all.", metavar="NAME,NAME"
        ),
    ] = None,
    force: Force = False,
    vocabulary_offset: Annotated[
        int,
        _token_option("Add N to every token.", min=0),
    ] = 0,
    begin_token: Annotated[
        int | None,
        _token_option("Write N before the tokens of each image.", min=0),
    ] = None,
    end_token: Annotated[
        int | None,
        _token_option("Write N after the tokens of each image.", min=0),
    ] = None,
    row_token: Annotated[
        int | None,
        _token_option("Write N after each row of the grid of an image.", min=0),
    ] = None,
    dtype: Annotated[
        Literal["uint8", "uint16", "uint32", "uint64", "int32", "int64"] | None,
        _token_option(
            "Write tokens in this type, if the format has it. Default: the smallest that fits.",
        ),
    ] = None,
) -> None:
    """Export a token dataset to a format that trainers read.

    Failed rows are left out. The class_id and the other columns of a row are in the row if the
    format has a place for them, else on a line of OUT.index.jsonl. OUT.meta.json has the number of
    rows, the type of the tokens, the model and the classes.

    Example: tokcodec export dataset -o tokens.npy
    """
    from tokcodec.dataset.export import export as write

    count = write(
        dataset,
        "/dev/stdout" if output == STANDARD else output,
        format=format_name,
        columns=None if columns is None else [name for name in columns.split(",") if name],
        rows_per_shard=rows_per_shard,
        vocabulary_offset=vocabulary_offset,
        begin_token=begin_token,
        end_token=end_token,
        row_token=row_token,
        dtype=dtype,
        force=force,
    )
    note(f"{dataset} -> {output}: {counted(count, 'row')}")
