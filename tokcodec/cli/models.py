"""``tokcodec models``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokcodec.cli.options import Json
from tokcodec.cli.terminal import cell, print_json
from tokcodec.config import DEFAULT_WEIGHTS

if TYPE_CHECKING:
    from tokcodec.checkpoint import Header


def models(
    known: Annotated[
        bool,
        typer.Option("--known", help="The published models that convert and --weights take."),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the bundled checkpoints.

    Their bytes, ids, and quality on images held out from training.
    """
    from tokcodec.checkpoint import bundled

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
        "payload",
        "coded*",
        "weights",
        "held-out PSNR*",
        "model_id",
    ):
        left = name in ("name", "model_id")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    counts = set()
    for header in bundled():
        facts = describe(header)
        counts.add(f"{facts['held_out_images']}")
        psnr, entropy_coded = facts["held_out_psnr"], facts["held_out_entropy_coded_bytes"]
        table.add_row(
            cell(header.name) + (" (default)" if header.name == DEFAULT_WEIGHTS else ""),
            str(facts["num_tokens"]),
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
        f"* mean over {' or '.join(sorted(counts))} images held out from training, 256x256; the "
        "README and the model card\n  have the evaluation's figures, which are of other photos",
        highlight=False,
    )


def _known(as_json: bool) -> None:
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
        "  the published code on seeded weights, tokens (and z and pixels) or the tensors' shapes",
        highlight=False,
    )


def published() -> list[dict[str, Any]]:
    """The facts of every published model that is known."""
    from tokcodec.coding.bitpack import packed_size
    from tokcodec.families import FAMILIES

    return [
        {
            "family": family.title,
            "model": model.name,
            "tokens": model.tokens,
            "codebook_size": model.codebook_size,
            "payload_bytes": packed_size(model.tokens, (model.codebook_size - 1).bit_length()),
            "published": model.published,
            "licence": model.licence or family.licence,
            "rfid": model.rfid,
            "verified": model.verified,
        }
        for family in FAMILIES
        for model in family.models
    ]


def describe(header: "Header") -> dict[str, Any]:
    """The facts of a checkpoint that people choose by."""
    from tokcodec.coding.bitpack import packed_size

    config = header.config
    prior = header.provenance.get("prior")
    entropy_coded = prior.get("held_out_payload_bytes") if isinstance(prior, dict) else None
    return {
        "name": header.name,
        "path": str(header.path),
        "encoder": config.encoder.kind,
        "image_size": config.preprocessing.image_size,
        "num_tokens": config.num_tokens,
        "codebook_size": config.quantizer.codebook_size,
        "bits_per_token": config.quantizer.bits,
        "payload_bytes": packed_size(config.num_tokens, config.quantizer.bits),
        "weights_bytes": header.path.stat().st_size,
        "default_fit": config.default_fit,
        "held_out_entropy_coded_bytes": entropy_coded,
        "held_out_images": header.provenance.get("held_out_images"),
        "held_out_psnr": header.provenance.get("held_out_psnr"),
        "model_id": header.model_id,
        "checkpoint_id": header.checkpoint_id,
        "prior_id": header.prior_id,
    }
