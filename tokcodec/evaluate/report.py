"""The report of an evaluation: its figures as JSON and CSV, a plot, and sheets to look at."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from tokcodec.files import write_atomically

if TYPE_CHECKING:
    from tokcodec.evaluate.run import Evaluation, Mean, Measured, Point, Result

FIGURES = "report.json"
SHEET_PICTURES = 12
_GAP, _HEAD = 4, 20


def to_json(evaluation: "Evaluation") -> dict[str, Any]:
    """The evaluation as plain data, with four decimals."""
    plain = _rounded(dataclasses.asdict(evaluation))
    assert isinstance(plain, dict)
    return plain


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


def _printable(text: str) -> str:
    """Names of files may hold bytes that are no text."""
    return text.encode(errors="backslashreplace").decode()


class Report:
    """Gathers results, and fills a folder with them.

    Args:
        points: of the evaluator.
        pictures: how many there are; twelve of them, evenly spread, are shown on the sheets, or
            the first twelve where that is not known.
    """

    def __init__(self, points: "Sequence[Point]", pictures: int | None) -> None:
        self.points = points
        pictures = SHEET_PICTURES if pictures is None else pictures
        count = min(SHEET_PICTURES, pictures)
        self._shown = {n * pictures // count for n in range(count)} if count else set()
        self._results: list[Result] = []
        self._seen = 0
        self._lines: list[dict[str, Any]] = []

    def add(self, result: "Result") -> None:
        if self._seen in self._shown:
            self._results.append(result)
        self._seen += 1
        for measured in result.measured:
            point = self.points[measured.point]
            line = {
                "picture": result.name,
                "checkpoint": point.name,
                "tokens": point.tokens,
                "coded": point.coded,
                "codec": measured.rival or point.name,
                "file_bytes": measured.file_bytes,
                "settings": measured.settings,
                **dataclasses.asdict(measured.scores),
            }
            self._lines.append(_rounded(line))

    def write(self, folder: Path, evaluation: "Evaluation") -> None:
        """Writes pictures.csv, plot.png, plot.svg, sheet-CHECKPOINT-TOKENS.jpg and report.json.

        The sheets are of the entropy-coded files where there are any. Files of an earlier report
        are gone then.

        Raises:
            OutputError: one of them cannot be written.
        """

        for old in [folder / FIGURES, *folder.glob("sheet-*.jpg")]:
            old.unlink(missing_ok=True)

        def write(name: str, data: bytes) -> None:
            write_atomically(folder / name, lambda file: file.write(data))

        table = io.StringIO()
        writer = csv.DictWriter(table, list(self._lines[0]))
        writer.writeheader()
        writer.writerows(self._lines)
        write("pictures.csv", _printable(table.getvalue()).encode())
        for kind, drawn in _plots(evaluation).items():
            write(f"plot.{kind}", drawn)
        # Of two points that differ in their bytes alone, the later one, which has fewer.
        sheets = {(point.name, point.tokens): place for place, point in enumerate(self.points)}
        for (name, tokens), place in sheets.items():
            sheet = _sheet(place, self.points[place], evaluation, self._results)
            file = io.BytesIO()
            sheet.save(file, "JPEG", quality=92, subsampling=0)
            write(f"sheet-{name}-{tokens}.jpg", file.getvalue())
        # The last: where it lies, there is a whole report.
        write(FIGURES, (json.dumps(to_json(evaluation), indent=1) + "\n").encode())


def _plots(evaluation: "Evaluation") -> dict[str, bytes]:
    """PSNR and MS-SSIM over bytes of the whole file, a line a codec."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    lines: dict[str, list[Mean]] = {}
    for row in evaluation.rows:
        for mean in (row.own, *row.others):
            if mean.file_bytes is not None:
                lines.setdefault(mean.codec, []).append(mean)
    own = {row.own.codec for row in evaluation.rows}
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, metric, label in zip(
        panels, ("psnr", "ms_ssim"), ("PSNR, dB", "MS-SSIM"), strict=True
    ):
        for name, means in lines.items():
            means = sorted(means, key=lambda mean: mean.file_bytes or 0)
            style = {"marker": "o", "linewidth": 2} if name in own else {"marker": ".", "ls": "--"}
            axes.plot(
                [mean.file_bytes for mean in means],
                [getattr(mean, metric) for mean in means],
                label=name,
                **style,
            )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set_xlabel("bytes of the whole file")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    panels[0].legend()
    figure.suptitle(f"{evaluation.pictures} pictures, {evaluation.size}x{evaluation.size}")
    drawn = {}
    with rc_context({"svg.hashsalt": "tokcodec"}):  # equal figures give equal files
        for kind in ("png", "svg"):
            file = io.BytesIO()
            figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
            drawn[kind] = file.getvalue()
    return drawn


def _sheet(
    place: int, point: "Point", evaluation: "Evaluation", results: "Sequence[Result]"
) -> Image.Image:
    """A row a picture: the original, the checkpoint, then every codec that fits any picture."""
    row = evaluation.rows[place]
    others = [mean.codec for mean in row.others if mean.pictures]
    step = evaluation.size + _GAP
    sheet = Image.new(
        "RGB", (step * (2 + len(others)), (step + _HEAD) * len(results)), (255, 255, 255)
    )
    draw = ImageDraw.Draw(sheet)
    for line, result in enumerate(results):
        top = line * (step + _HEAD)
        found: dict[str, Measured] = {
            measured.rival or "": measured
            for measured in result.measured
            if measured.point == place
        }
        sheet.paste(result.original, (0, top + _HEAD))
        draw.text((2, top + 2), _printable(PurePath(result.name).name), "black", font_size=13)
        for column, codec in enumerate(["", *others], start=1):
            left = column * step
            if codec not in found:
                draw.text((left + 2, top + 2), f"{codec}: no file so small", "black", font_size=13)
                continue
            measured = found[codec]
            text = f"{codec or point.name}, {measured.file_bytes} bytes, "
            text += f"{measured.scores.psnr:.2f} dB"
            draw.text((left + 2, top + 2), text, "black", font_size=13)
            sheet.paste(measured.image, (left, top + _HEAD))
    return sheet
