"""``tokcodec models``."""

from typing import TYPE_CHECKING, Any

from tokcodec.cli.options import Json
from tokcodec.cli.terminal import print_json
from tokcodec.config import DEFAULT_WEIGHTS

if TYPE_CHECKING:
    from tokcodec.checkpoint import Header


def models(as_json: Json = False) -> None:
    """List the bundled checkpoints: bytes, ids, measured quality."""
    from tokcodec.checkpoint import bundled

    if as_json:
        print_json([describe(header) for header in bundled()])
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for name in ("name", "codes", "K", "payload", "coded*", "weights", "PSNR*", "code_id"):
        left = name in ("name", "code_id")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for header in bundled():
        facts = describe(header)
        psnr, coded = facts["held_out_psnr"], facts["held_out_coded_bytes"]
        table.add_row(
            header.name + (" (default)" if header.name == DEFAULT_WEIGHTS else ""),
            str(facts["num_codes"]),
            str(facts["codebook_size"]),
            f"{facts['payload_bytes']} B",
            "unknown" if coded is None else f"{coded:.0f} B",
            f"{facts['weights_bytes'] / 1e6:.1f} MB",
            "unknown" if psnr is None else f"{psnr:.2f} dB",
            header.code_id[:8],
        )
    # Figures must not be cut, in a pipe or a narrow terminal.
    console = Console(width=max(Console().width, 100))
    console.print(table)
    console.print("* mean over pictures held out from training, 256x256", highlight=False)


def describe(header: "Header") -> dict[str, Any]:
    """The facts of a checkpoint that people choose by."""
    from tokcodec.bitpack import packed_size

    config = header.config
    prior = header.provenance.get("prior")
    coded = prior.get("held_out_payload_bytes") if isinstance(prior, dict) else None
    return {
        "name": header.name,
        "path": str(header.path),
        "layout": config.encoder.kind,
        "image_size": config.preprocessing.image_size,
        "num_codes": config.num_codes,
        "codebook_size": config.quantizer.codebook_size,
        "bits_per_code": config.quantizer.bits,
        "payload_bytes": packed_size(config.num_codes, config.quantizer.bits),
        "weights_bytes": header.path.stat().st_size,
        "default_fit": config.default_fit,
        "held_out_coded_bytes": coded,
        "held_out_psnr": header.provenance.get("held_out_psnr"),
        "code_id": header.code_id,
        "checkpoint_id": header.checkpoint_id,
        "prior_id": header.prior_id,
    }
