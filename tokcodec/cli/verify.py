"""``tokcodec verify``."""

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from tokcodec.cli.hints import explain
from tokcodec.cli.options import WEIGHTS, AllowLarge, Images, Json, MaxImageBytes, allow_large
from tokcodec.cli.terminal import print_json, say, show
from tokcodec.config import DEFAULT_WEIGHTS
from tokcodec.errors import counted
from tokcodec.io.read import MAX_BYTES

if TYPE_CHECKING:
    from tokcodec.errors import TokcodecError
    from tokcodec.evaluate.agreement import Agreement


def verify(
    sources: Images,
    weights: Annotated[str, typer.Option(**WEIGHTS, help="Use this checkpoint.")] = DEFAULT_WEIGHTS,
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, help="Read only the first N images.")
    ] = 64,
    allow: AllowLarge = False,
    max_image_bytes: MaxImageBytes = MAX_BYTES,
    as_json: Json = False,
) -> None:
    """Compare tokens across devices, dtypes, thread counts and batch sizes.

    Every combination that this machine supports is compared with the default one. The margins of
    the tokens that differ show how close the choice was: by how much the quantizer prefers the best
    vector to the second best.

    Example: tokcodec verify photos --limit 16
    """
    if allow:
        allow_large()
    from tokcodec.evaluate.agreement import verify as run

    failed: list[TokcodecError] = []

    def report(error: "TokcodecError") -> None:
        say(explain(error))
        failed.append(error)

    found = run(
        sources, weights=weights, limit=limit, max_image_bytes=max_image_bytes, failed=report
    )
    if as_json:
        print_json([dataclasses.asdict(agreement) for agreement in found])
    else:
        _print(found)
    if failed:
        raise typer.Exit(3)


def _print(found: "list[Agreement]") -> None:
    first, *others = found
    show(f"{counted(first.images, 'image')}; compared with {first.way}:")
    for agreement in others:
        share = 1 - agreement.differing / agreement.tokens
        margin = agreement.largest_margin
        note = f", margins up to {margin:.2g}" if margin is not None else ""
        show(
            f"{agreement.way}: {share:.3%} equal, "
            f"{agreement.differing:,} of {counted(agreement.tokens, 'token')} differ{note}"
        )
