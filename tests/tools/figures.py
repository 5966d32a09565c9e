"""Writes the tables of README.md and weights/MODEL_CARD.md, and the plot.

    python tests/tools/figures.py

Their figures are those of weights/evaluation/report.json, as ``tokcodec evaluate`` wrote it, and
of the checkpoints' own headers. A table stands between ``<!-- figures: NAME -->`` and
``<!-- end -->``.
"""

import json
import re
from pathlib import Path

from tokcodec.checkpoint import bundled
from tokcodec.cli.models import published
from tokcodec.coding.bitpack import packed_size
from tokcodec.config import DEFAULT_WEIGHTS
from tokcodec.evaluate.baselines import TITLES
from tokcodec.evaluate.report import plot, table

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
    report, latent = (json.loads(path.read_text()) for path in (REPORT, LATENT))
    tables = {
        "summary": summary(report),
        "points": points(report),
        "checkpoints": checkpoints(),
        "latent": points(latent),
        "known": known(),
    }
    return re.sub(
        r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)",
        lambda match: match[1] + markdown(tables[match[2]]) + match[3],
        text,
        flags=re.DOTALL,
    )


def known() -> list[list[str]]:
    """The published models that are known."""
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
    """The bundled checkpoints, packed and entropy-coded, each beside the best other by PSNR."""
    rows = [["", "tokens", "whole file", "PSNR", "MS-SSIM", "best other codec"]]
    for header in bundled():
        default = " (default)" if header.name == DEFAULT_WEIGHTS else ""
        for row in report["rows"]:
            own = row["own"]
            if own["codec"] != header.name:
                continue
            complete = [other for other in row["baselines"] if other["psnr"] is not None]
            best = max(complete, key=lambda other: other["psnr"])
            rows.append(
                [
                    "with `--entropy-coded`"
                    if row["entropy_coded"]
                    else f"`{header.name}`{default}",
                    f"{row['tokens']} of {header.config.quantizer.bits} bits",
                    f"{own['file_bytes']:.0f} bytes" + " on average" * row["entropy_coded"],
                    f"{own['psnr']:.2f} dB",
                    f"{own['ms_ssim']:.3f}",
                    f"{TITLES[best['codec']]}: {best['psnr']:.2f} dB, {best['ms_ssim']:.3f}",
                ]
            )
    return rows


def points(report: dict) -> list[list[str]]:
    """Every checkpoint that was measured, at every number of tokens, and the other codecs."""
    head, *rows = table(report)
    return [head, *([f"**{row[0]}**", *row[1:]] if row[1] else row for row in rows)]


def checkpoints() -> list[list[str]]:
    """What the files themselves say."""
    headers = bundled()
    columns = [["", *(f"`{header.name}`" for header in headers)]]

    def add(name: str, of) -> None:
        columns.append([name, *(str(of(header.config, header.provenance)) for header in headers)])

    def sees(config) -> str:
        side = config.preprocessing.model_size
        return f"{side}x{side} (256x256 averaged by {config.preprocessing.pixel_scale})"

    def covers(config) -> str:
        side = config.encoder.patch_size
        return f"{side}x{side}, of the image {side * config.preprocessing.pixel_scale} pixels"

    add("tokens, K", lambda c, _: f"{c.num_tokens}, {c.quantizer.codebook_size}")
    add("model sees", lambda c, _: sees(c))
    add("patches", lambda c, _: covers(c))
    add("pixels by which patches overlap", lambda c, _: c.decoder.pixel_overlap)
    add(
        "encoder, decoder",
        lambda c, _: f"width {c.encoder.width}, {c.encoder.layers} + {c.decoder.layers} layers",
    )

    def stages(provenance) -> list[dict]:
        """Of every training, each from the weights of the one before, the first first."""
        before = provenance.get("from") or provenance.get("tokens_of")
        return [*(stages(before) if before else []), provenance]

    def settings(stage: dict) -> str:
        decoder = "decoder alone: " if "tokens_of" in stage else ""
        stopped = stage["step"] < stage["recipe"]["steps"]
        done = f"{stage['step']} of " if stopped else ""
        return decoder + done + "{steps}, {batch_size}, {learning_rate}".format(**stage["recipe"])

    add(
        "held-out PSNR at the k-means start",
        lambda _, p: f"{stages(p)[0]['held_out_psnr_at_start']:.2f} dB",
    )
    add("held-out PSNR as shipped", lambda _, p: f"{p['held_out_psnr']:.2f} dB")
    add(
        "payload packed, and coded on average (held-out)",
        lambda c, p: (
            f"{packed_size(c.num_tokens, c.quantizer.bits)} and "
            f"{p['prior']['held_out_payload_bytes']:.1f} bytes"
        ),
    )
    add(
        "steps, images a step, learning rate",
        lambda _, p: "; then ".join(map(settings, stages(p))),
    )
    return columns


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(rewritten(page.read_text()))
    for kind in ("png", "svg"):
        drawn = plot(json.loads(REPORT.read_text()), ("psnr", "ms_ssim"), kind)
        REPORT.with_name(f"plot.{kind}").write_bytes(drawn)
