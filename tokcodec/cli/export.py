"""``tokcodec export``."""

from typing import Annotated, Literal

import typer

from tokcodec.cli.options import OUTPUT, STANDARD, Force
from tokcodec.cli.terminal import note, require_pyarrow
from tokcodec.errors import counted

TOKENS = "Tokens"  # a panel of the help


def export(
    dataset: Annotated[
        str, typer.Argument(help="A token dataset: a folder of shards, one Parquet file, or a URL.")
    ],
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT",
            help="Write to this file; a path or a URL. NAME without an extension for llamagen "
            "(NAME_codes and NAME_labels), mds (a folder) and megatron (NAME.bin and NAME.idx); - "
            "for standard output.",
            rich_help_panel=OUTPUT,
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
        typer.Option(
            "--format",
            help="Write this format. Default: that of the extension of OUT, .tar is webdataset.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    rows_per_shard: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Write OUT-00000.npy, OUT-00001.npy and so on, of N rows each.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="Carry only these columns besides key and view. Default: all.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    force: Force = False,
    vocabulary_offset: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Add N to every token.", rich_help_panel=TOKENS),
    ] = 0,
    begin_token: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Write N before the tokens of each image.",
            rich_help_panel=TOKENS,
        ),
    ] = None,
    end_token: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Write N after the tokens of each image.",
            rich_help_panel=TOKENS,
        ),
    ] = None,
    row_token: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Write N after each row of the grid of an image.",
            rich_help_panel=TOKENS,
        ),
    ] = None,
    dtype: Annotated[
        Literal["uint8", "uint16", "uint32", "uint64", "int32", "int64"] | None,
        typer.Option(
            help="Write tokens in this type, if the format has it. Default: the smallest that "
            "holds all.",
            rich_help_panel=TOKENS,
        ),
    ] = None,
) -> None:
    """Export a token dataset to a format that trainers read.

    Failed rows are left out. Each row has its class_id and its other columns: in the row where the
    format has a place for them, else on a line of OUT.index.jsonl. OUT.meta.json has the number of
    rows, the type of tokens, the model and the classes.

    Example: tokcodec export dataset -o tokens.npy
    """
    require_pyarrow()
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
