"""``tokcodec train-prior``."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokcodec.cli.options import WEIGHTS, Force, command_line
from tokcodec.cli.progress import Bar
from tokcodec.cli.terminal import note, show
from tokcodec.errors import DatasetError, counted
from tokcodec.io.job import single_job

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tokcodec.checkpoint import Header


def train_prior(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="A token dataset of many images, or its URL.")
    ],
    weights: Annotated[
        str,
        typer.Option(
            **WEIGHTS, help="The checkpoint that made the tokens, which must form a grid."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write the checkpoint with its prior to this file.",
        ),
    ],
    held_out: Annotated[
        Path | None,
        typer.Option(
            metavar="DATASET", help="Measure the prior on this token dataset of other images."
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Fit a prior to the tokens of many images, and add it to their checkpoint.

    With a prior, encode writes smaller files. The grids may have any shape. A million tokens take a
    few minutes. The model_id does not change, but files that were entropy-coded with another prior
    still need that one.

    Example: tokcodec train-prior tokens --weights model.safetensors -o with-prior.safetensors
    """
    from tokcodec.checkpoint import find
    from tokcodec.train.prior import add_prior

    single_job(dataset, output).check(force)
    source = find(weights)
    with Bar("steps done", None, "step", again="starts again") as bar:

        def progress(done: int, total: int) -> None:  # noqa: ARG001
            bar.total = total
            bar.move()

        header = add_prior(
            source,
            _tokens(source, dataset),
            _tokens(source, held_out) if held_out else (),
            output,
            {"command": command_line()},
            progress,
        )
    facts = header.provenance["prior"]
    if "held_out_payload_bytes" in facts:
        packed, coded = facts["held_out_packed_bytes"], facts["held_out_payload_bytes"]
        images = counted(facts["held_out_images"], "image")
        note(
            f"{images} held out: {coded:.1f} bytes of payload on "
            f"average, {1 - coded / packed:.1%} less than {packed:.1f}"
        )
    show(str(header.path))


def _tokens(source: "Header", path: str | Path) -> "Iterator[NDArray[Any]]":
    from tokcodec.dataset.reader import open_dataset

    dataset = open_dataset(path)
    if dataset.metadata.model_id != source.model_id:
        raise DatasetError(
            f"{path}: its tokens are of model {dataset.metadata.model_id[:6]}, "
            f"{source.name} is {source.model_id[:6]}"
        )
    return dataset.grids()
