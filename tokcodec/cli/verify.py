"""``tokcodec verify``."""

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from tokcodec.cli.options import (
    WEIGHTS,
    AllowLarge,
    Images,
    Json,
    MaxImageBytes,
    allow_large,
)
from tokcodec.cli.terminal import print_json, say, show
from tokcodec.config import DEFAULT_WEIGHTS
from tokcodec.config.geometry import Placement, Size
from tokcodec.errors import ImageError
from tokcodec.io.tar import MAX_BYTES

if TYPE_CHECKING:
    from tokcodec.evaluate.agreement import Agreement
    from tokcodec.image import Pixels


def verify(
    sources: Images,
    weights: Annotated[
        str, typer.Option(**WEIGHTS, help="The checkpoint, as for encode.")
    ] = DEFAULT_WEIGHTS,
    limit: Annotated[int, typer.Option(min=1, help="At most so many images.")] = 64,
    allow: AllowLarge = False,
    max_image_bytes: MaxImageBytes = MAX_BYTES,
    as_json: Json = False,
) -> None:
    """Report whether tokens agree on this machine.

    Across devices, dtypes, thread counts and batch sizes.

    Each way that this machine has is compared with the default one, on the images of SRC. The
    margin is how much better the token is than the second best, in what the quantizer compares.
    """
    from tokcodec.checkpoint import find
    from tokcodec.image import read_tiles

    if allow:
        allow_large()
    header = find(weights)
    config = header.config

    def place(size: Size) -> Placement:
        return config.place(config.default_fit, size)[0]

    tiles: list[Pixels] = []
    failed = 0
    from tokcodec.batch.jobs import images

    for record in images(sources, max_image_bytes)[1]:
        if len(tiles) == limit:
            break
        try:
            read = read_tiles(record, config.preprocessing, place)
            tiles.append(read.pixels[:1])
        except ImageError as error:
            say(str(error))
            failed += 1
    if not tiles:
        raise ImageError("no image to compare tokens on")
    import numpy as np

    from tokcodec.evaluate.agreement import compare, ways_at_hand

    pixels = np.concatenate(tiles)
    found = list(compare(header, pixels, ways_at_hand(header.config)))
    if as_json:
        print_json([dataclasses.asdict(agreement) for agreement in found])
    else:
        _print(len(pixels), header.name, found)
    if failed:
        raise typer.Exit(3)


def _print(images: int, name: str, found: "list[Agreement]") -> None:
    show(f"{images} images, {name}; compared with {found[0].way}:")
    for agreement in found[1:]:
        share = 1 - agreement.differing / agreement.tokens
        margin = agreement.largest_margin
        note = f", margins up to {margin:.2g}" if margin is not None else ""
        show(
            f"{agreement.way}: {share:.3%} equal, "
            f"{agreement.differing} of {agreement.tokens} differ{note}"
        )
