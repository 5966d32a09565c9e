"""``tokcodec export``."""

from pathlib import Path
from typing import Annotated

import typer

from tokcodec.cli.options import Force
from tokcodec.cli.terminal import note, require_pyarrow
from tokcodec.errors import OutputError
from tokcodec.io.files import is_stream, same_file


def export(
    dataset: Annotated[
        str,
        typer.Argument(help="A token dataset: a folder of shards, or one Parquet file; or a URL."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="FILE", help="NAME.npy, NAME.safetensors or NAME.jsonl."
        ),
    ],
    force: Force = False,
) -> None:
    """Write a token dataset in a format that trainers read.

    .npy and .safetensors hold the tokens [n, N] in the smallest unsigned type, and a file beside
    them the keys; .jsonl a line {"class_id": ..., "tokens": [...]} a row. Failed rows are left out.
    """
    require_pyarrow()
    from tokcodec.batch.jobs import refuse_remote
    from tokcodec.dataset.export import export as write
    from tokcodec.dataset.reader import open_dataset

    if same_file(output, dataset):
        raise OutputError(f"{output}: is the input itself; name another file with -o")
    refuse_remote(output)
    if output.exists() and not is_stream(output) and not force:
        raise OutputError(f"{output}: is there already; -f overwrites it")
    count = write(open_dataset(dataset), output)
    note(f"{dataset} -> {output}: {count:,} rows")
