"""``tokcodec export``."""

from pathlib import Path
from typing import Annotated

import typer

from tokcodec.cli.options import Force
from tokcodec.cli.terminal import note, require_pyarrow
from tokcodec.errors import counted


def export(
    dataset: Annotated[
        str, typer.Argument(help="A token dataset: a folder of shards, one Parquet file, or a URL.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="FILE", help="NAME.npy, NAME.safetensors or NAME.jsonl."
        ),
    ],
    force: Force = False,
) -> None:
    """Export a token dataset to a format that trainers read.

    .npy and .safetensors hold the tokens [n, N] in the smallest unsigned type; the keys are written
    to a file next to them. .jsonl has a line {"class_id": ..., "tokens": [...]} for each row.
    Failed rows are left out.

    Example: tokcodec export dataset -o tokens.npy
    """
    require_pyarrow()
    from tokcodec.dataset.export import export as write

    count = write(dataset, output, force=force)
    note(f"{dataset} -> {output}: {counted(count, 'row')}")
