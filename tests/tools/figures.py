"""Writes the tables of README.md and weights/MODEL_CARD.md, and the plot.

    python tests/tools/figures.py

Their figures are those of weights/evaluation/report.json, as ``tokcodec evaluate`` wrote it, and
of the checkpoints' own headers. A table stands between ``<!-- figures: NAME -->`` and
``<!-- end -->``.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

from tokcodec.checkpoint import bundled
from tokcodec.coding.bitpack import packed_size
from tokcodec.config import DEFAULT_WEIGHTS, ModelConfig
from tokcodec.evaluate.baselines import TITLES
from tokcodec.evaluate.plot import plot
from tokcodec.evaluate.report import table
from tokcodec.families import published

ROOT = Path(__file__).parents[2]
PAGES = (
    ROOT / "README.md",
    ROOT / "weights" / "MODEL_CARD.md",
    ROOT / "tokcodec" / "families" / "README.md",
)
REPORT = ROOT / "weights" / "evaluation" / "report.json"
LATENT = ROOT / "weights" / "evaluation" / "latent" / "report.json"


def rewritten(text: str) -> str:
    """The page with every table as it should be."""
    tables = {
        "summary": lambda: summary(json.loads(REPORT.read_text())),
        "points": lambda: points(json.loads(REPORT.read_text())),
        "latent": lambda: points(json.loads(LATENT.read_text())),
        "checkpoints": checkpoints,
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


def checkpoints() -> list[list[str]]:
    """What the files themselves say; what none of them says is left out."""
    headers = bundled()
    rows = [["", *(f"`{header.name}`" for header in headers)]]

    def add(name: str, of: Callable[[ModelConfig, dict], object]) -> None:
        found = [of(header.config, header.provenance) for header in headers]
        if any(value is not None for value in found):
            rows.append([name, *("" if value is None else str(value) for value in found)])

    def stages(provenance: dict) -> list[dict]:
        """Of every training, each from the weights of the one before, the first first."""
        before = provenance.get("from") or provenance.get("tokens_of")
        return [*(stages(before) if before else []), provenance]

    def settings(provenance: dict) -> str | None:
        text = "{steps}, {batch_size}, {learning_rate}"
        recipes = [stage["recipe"] for stage in stages(provenance) if "recipe" in stage]
        return "; then ".join(text.format(**recipe) for recipe in recipes) or None

    def psnr(provenance: dict, name: str) -> str | None:
        return f"{provenance[name]:.2f} dB" if name in provenance else None

    def encoded(config: ModelConfig, provenance: dict) -> str | None:
        size = provenance.get("prior", {}).get("held_out_payload_bytes")
        packed = packed_size(config.num_tokens, config.quantizer.bits)
        return f"{packed} and {size:.1f} bytes" if size else None

    add("tokens by default, K", lambda c, _: f"{c.num_tokens}, {c.quantizer.codebook_size}")
    add("pixels of a token, of the resized image", lambda c, _: f"{c.multiple}x{c.multiple}")
    add("pixels by which patches overlap", lambda c, _: c.decoder.pixel_overlap)
    add(
        "encoder, decoder",
        lambda c, _: f"width {c.encoder.width}, {c.encoder.layers} + {c.decoder.layers} layers",
    )
    add("held-out PSNR at the start", lambda _, p: psnr(stages(p)[0], "held_out_psnr_at_start"))
    add("held-out PSNR as shipped", lambda _, p: psnr(p, "held_out_psnr"))
    add("payload packed, and entropy-coded on average (held-out)", encoded)
    add("steps, images per step, learning rate", lambda _, p: settings(p))
    return rows


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(rewritten(page.read_text()))
    drawn = plot(json.loads(REPORT.read_text()), ("psnr", "ms_ssim"))
    REPORT.with_name("plot.svg").write_bytes(drawn)
