"""``tokcodec models``."""

from typing import Annotated

import typer

from tokcodec.cli.options import Json
from tokcodec.cli.terminal import cell, print_json
from tokcodec.config import DEFAULT_WEIGHTS


def models(
    known: Annotated[
        bool,
        typer.Option("--known", help="List the published models that convert and --weights take."),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the bundled checkpoints, or the published models that can be converted.

    Example: tokcodec models --known
    """
    from tokcodec.checkpoint import bundled, describe

    if known:
        _known(as_json)
        return
    if as_json:
        print_json([describe(header) for header in bundled()])
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for name in (
        "name",
        "tokens",
        "K",
        "packed",
        "entropy-coded*",
        "weights",
        "held-out PSNR*",
        "model_id",
    ):
        left = name in ("name", "model_id")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for header in bundled():
        facts = describe(header)
        tokens, entropy_coded = str(facts["num_tokens"]), facts["held_out_entropy_coded_bytes"]
        psnr = (facts["held_out_psnr"] or {}).get(tokens)
        table.add_row(
            cell(header.name) + (" (default)" if header.name == DEFAULT_WEIGHTS else ""),
            tokens,
            str(facts["codebook_size"]),
            f"{facts['payload_bytes']} B",
            "unknown" if entropy_coded is None else f"{entropy_coded:.0f} B",
            f"{facts['weights_bytes'] / 1e6:.1f} MB",
            "unknown" if psnr is None else f"{psnr:.2f} dB",
            header.model_id[:6],
        )
    # Figures must not be cut, in a pipe or a narrow terminal.
    console = Console(width=max(Console().width, 100))
    console.print(table)
    console.print(
        "* means over photos held out from training, at this number of tokens. The README and the\n"
        "  model card have figures of other photos, and of other numbers of tokens.",
        highlight=False,
    )


def _known(as_json: bool) -> None:
    from tokcodec.families import published

    rows = published()
    if as_json:
        print_json(rows)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for name in (
        "model",
        "tokens",
        "K",
        "payload",
        "licence",
        "rFID*",
        "verified*",
        "published as",
    ):
        right = name in ("tokens", "K", "payload", "rFID*")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for row in rows:
        table.add_row(
            row["model"],
            str(row["tokens"]),
            str(row["codebook_size"]),
            f"{row['payload_bytes']} B",
            row["licence"],
            "" if row["rfid"] is None else f"{row['rfid']:.2f}",
            row["verified"],
            row["published"],
        )
    # What --family takes must not be cut, in a pipe or a narrow terminal.
    console = Console(width=max(Console().width, 190))
    console.print(table)
    console.print(
        "* rFID on ImageNet at 256x256, as the authors state it; verified: what was compared with\n"
        "  the published code on seeded weights: tokens (and z and pixels), or only the shapes of "
        "tensors",
        highlight=False,
    )
