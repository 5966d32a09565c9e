"""``tokcodec models``."""

from typing import Annotated, Any

import typer

from tokcodec.cli.options import Json
from tokcodec.cli.terminal import print_json, print_table, show
from tokcodec.config import DEFAULT_WEIGHTS


def models(
    known: Annotated[
        bool,
        typer.Option("--known", help="List the published models for convert and --weights."),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the bundled checkpoints, or the published models that can be converted.

    Example: tokcodec models --known
    """
    if known:
        from tokcodec.families import published

        found, print_found = published(), _print_known
    else:
        from tokcodec.checkpoint import bundled, describe

        found, print_found = [describe(header) for header in bundled()], _print_bundled
    (print_json if as_json else print_found)(found)


def _print_bundled(found: list[dict[str, Any]]) -> None:
    rows = [
        (
            *("name", "tokens", "K", "packed payload", "entropy-coded*", "weights"),
            *("held-out PSNR*", "model_id"),
        )
    ]
    for facts in found:
        name, tokens = facts["name"], str(facts["num_tokens"])
        entropy_coded = facts["held_out_entropy_coded_bytes"]
        psnr = (facts["held_out_psnr"] or {}).get(tokens)
        rows.append(
            (
                name + (" (default)" if name == DEFAULT_WEIGHTS else ""),
                tokens,
                str(facts["codebook_size"]),
                f"{facts['payload_bytes']} B",
                "unknown" if entropy_coded is None else f"{entropy_coded:.0f} B",
                f"{facts['weights_bytes'] / 1e6:.1f} MB",
                "unknown" if psnr is None else f"{psnr:.2f} dB",
                facts["model_id"][:6],
            )
        )
    print_table(rows, left=(0, 7))
    show("* means over photos held out from training; the model card has more figures")


def _print_known(found: list[dict[str, Any]]) -> None:
    rows = [("model", "tokens", "K", "payload", "licence", "rFID*", "verified*", "published as")]
    for row in found:
        rows.append(
            (
                row["model"],
                str(row["tokens"]),
                str(row["codebook_size"]),
                f"{row['payload_bytes']} B",
                row["licence"],
                "" if row["rfid"] is None else f"{row['rfid']:.2f}",
                row["verified"],
                row["published"],
            )
        )
    print_table(rows, left=(0, 4, 6, 7))
    show("* rFID on ImageNet at 256x256, as the authors state it; verified: what was compared with")
    show(
        "  the published code on seeded weights: tokens (and z and pixels), or only the shapes of "
        "tensors"
    )
