"""``tokcodec train-prior``."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokcodec.cli.options import WEIGHTS, Force, command_line
from tokcodec.cli.terminal import note, require_pyarrow, show
from tokcodec.errors import DatasetError, OutputError
from tokcodec.io.files import is_stream, same_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tokcodec.checkpoint import Header


def train_prior(
    dataset: Annotated[str, typer.Argument(help="A token dataset of many images; or its URL.")],
    weights: Annotated[
        str,
        typer.Option(**WEIGHTS, help="The checkpoint that its tokens are of, in rows and columns."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="FILE", help="The same checkpoint, now with the prior."
        ),
    ],
    held_out: Annotated[
        Path | None,
        typer.Option(
            metavar="DATASET", help="A token dataset of other images, to say what is saved."
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Give a checkpoint a prior, for encode --entropy-coded.

    From the tokens of many images.

    It takes minutes for millions of tokens. The model_id stays. Files that were coded with an
    earlier prior can only be read with that one.
    """
    require_pyarrow()
    from tokcodec.checkpoint import find
    from tokcodec.coding.bitpack import packed_size
    from tokcodec.train.prior import add_prior

    if same_file(output, dataset):
        raise OutputError(f"{output}: is the input itself; name another file with -o")
    if output.exists() and not is_stream(output) and not force:
        raise OutputError(f"{output}: is there already; -f overwrites it")
    source = find(weights)
    header = add_prior(
        source,
        _tokens(source, dataset),
        _tokens(source, held_out) if held_out else (),
        output,
        {"command": command_line()},
    )
    facts = header.provenance["prior"]
    if "held_out_payload_bytes" in facts:
        packed = packed_size(header.config.num_tokens, header.config.quantizer.bits)
        coded_size = facts["held_out_payload_bytes"]
        note(
            f"{facts['held_out_images']:,} images held out: {coded_size:.1f} bytes of payload on "
            f"average, {1 - coded_size / packed:.1%} less than {packed}"
        )
    show(str(header.path))


def _tokens(source: "Header", path: str | Path) -> "Iterator[NDArray[Any]]":
    from tokcodec.dataset.reader import open_dataset

    dataset = open_dataset(path)
    if dataset.metadata.model_id != source.model_id:
        raise DatasetError(
            f"{path}: its tokens are of model {dataset.metadata.model_id[:8]}, "
            f"{source.name} is {source.model_id[:8]}"
        )
    return dataset.grids()
