"""Writes the tables of README.md and weights/MODEL_CARD.md, and the plot.

    python tests/tools/figures.py

Their figures are those of weights/evaluation/report.json, as ``tokcodec evaluate`` wrote it, and
of the checkpoint's own header. A table stands between ``<!-- figures: NAME -->`` and
``<!-- end -->``.
"""

import json
import re
from math import prod
from pathlib import Path

from tokcodec.checkpoint import Header, bundled
from tokcodec.coding.bitpack import packed_size
from tokcodec.config import DEFAULT_WEIGHTS
from tokcodec.evaluate.baselines import TITLES
from tokcodec.evaluate.plot import plot
from tokcodec.evaluate.report import table
from tokcodec.families import published
from tokcodec.io.tensorfile import open_tensors

ROOT = Path(__file__).parents[2]
PAGES = (
    ROOT / "README.md",
    ROOT / "weights" / "MODEL_CARD.md",
    ROOT / "tokcodec" / "families" / "README.md",
)
REPORT = ROOT / "weights" / "evaluation" / "report.json"


def rewritten(text: str) -> str:
    """The page with every table as it should be."""
    tables = {
        "summary": lambda: summary(json.loads(REPORT.read_text())),
        "points": lambda: points(json.loads(REPORT.read_text())),
        "checkpoint": checkpoint,
        "known": known,
    }
    return re.sub(
        r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)",
        lambda match: match[1] + markdown(tables[match[2]]()) + match[3],
        text,
        flags=re.DOTALL,
    )


def known() -> list[list[str]]:
    """The published models."""
    rows = [["`--family`", "tokens, K", "payload", "published as", "licence", "rFID", "verified"]]
    for facts in published():
        rows.append(
            [
                f"`{facts['model']}`",
                f"{facts['tokens']}, {facts['codebook_size']}",
                f"{facts['payload_bytes']} bytes",
                facts["published"],
                facts["licence"],
                "" if facts["rfid"] is None else f"{facts['rfid']:.2f}",
                facts["verified"],
            ]
        )
    return rows


def markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join(lines) + "\n"


def summary(report: dict) -> list[list[str]]:
    """The default checkpoint at each limit, and the best baseline there by PSNR."""
    rows = [["at most", "tokens", "PSNR", "MS-SSIM", "best baseline", "gain"]]
    for row in report["rows"]:
        own, best = row["own"], row["best_baseline"]
        if own["codec"] != DEFAULT_WEIGHTS:
            continue
        (baseline,) = [mean for mean in row["baselines"] if mean["codec"] == best] or [None]
        against = ["none has a file this small for every photo", ""]
        if baseline:
            scores = f"{baseline['psnr']:.2f} dB, {baseline['ms_ssim']:.3f}"
            against = [f"{TITLES[best]}: {scores}", f"{row['gain']:+.2f} dB"]
        rows.append(
            [
                f"{row['max_bytes']} bytes",
                f"{row['tokens']:.0f}",
                f"{own['psnr']:.2f} dB",
                f"{own['ms_ssim']:.3f}",
                *against,
            ]
        )
    return rows


def points(report: dict) -> list[list[str]]:
    """Every checkpoint at every rate, and the baselines."""
    head, *rows = table(report)
    return [head, *([f"**{row[0]}**", *row[1:]] if row[1] else row for row in rows)]


def checkpoint() -> list[list[str]]:
    """What the file of the default checkpoint itself says."""
    (header,) = [header for header in bundled() if header.name == DEFAULT_WEIGHTS]
    config, facts = header.config, header.provenance
    recipe, start, shipped = (
        facts[name] for name in ("recipe", "held_out_psnr_at_start", "held_out_psnr")
    )
    payload = facts["prior"]["held_out_payload_bytes"]
    packed = packed_size(config.num_tokens, config.quantizer.bits)
    images = facts["held_out_images"]

    def decibels(psnr: dict[str, float]) -> str:
        by_tokens = sorted(psnr.items(), key=lambda item: int(item[0]))
        return ", ".join(f"{value:.2f} dB ({tokens} tokens)" for tokens, value in by_tokens)

    return [
        ["", f"`{header.name}`"],
        ["size of the file", f"{header.path.stat().st_size / 1e6:.1f} MB"],
        ["parameters of the encoder", f"{count(header, 'encoder.') / 1e6:.1f} million"],
        ["parameters of the decoder", f"{count(header, 'decoder.') / 1e6:.1f} million"],
        ["codebook", f"{config.quantizer.codebook_size:,} x {config.quantizer.embedding_dim}"],
        [f"held-out PSNR at the start of the last training ({images} photos)", decibels(start)],
        ["held-out PSNR as shipped", decibels(shipped)],
        [
            f"payload of {config.num_tokens} tokens, packed and entropy-coded (held-out mean)",
            f"{packed} and {payload:.1f} bytes",
        ],
        [
            "last training",
            f"{recipe['steps']:,} steps of {recipe['tokens']:,} tokens, "
            f"learning rate {recipe['learning_rate']}",
        ],
    ]


def count(header: Header, prefix: str) -> int:
    """Parameters of a part."""
    with open_tensors(header.path) as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        shapes = [file.get_slice(name).get_shape() for name in names]
    return sum(map(prod, shapes))


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(rewritten(page.read_text()))
    drawn = plot(json.loads(REPORT.read_text()), ("psnr", "ms_ssim"))
    REPORT.with_name("plot.svg").write_bytes(drawn)
