"""The report of an evaluation: its figures as JSON, CSV and a table, a plot, and sheets of images.

The table and the plot are made from the figures as plain data, as in report.json.
"""

import csv
import dataclasses
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from PIL import Image, ImageDraw

from tokcodec.evaluate.baselines import TITLES, Name
from tokcodec.evaluate.measure import Report, Result
from tokcodec.evaluate.metrics import SCORES
from tokcodec.evaluate.plot import plot
from tokcodec.evaluate.points import Point
from tokcodec.inputs.records import printable
from tokcodec.io.files import output_errors, write_atomically

FIGURES = "report.json"
_SHEETS = "sheet-*.jpg"
FILES = (FIGURES, "images.csv", "plot.svg", _SHEETS)  # globs of its files
SHEET_IMAGES = 12
_GAP, _HEAD = 4, 20


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain data, with four decimals."""
    text = json.dumps(dataclasses.asdict(report))
    plain: dict[str, Any] = json.loads(text, parse_float=lambda value: round(float(value), 4))
    return plain


def table(report: dict[str, Any]) -> list[list[str]]:
    """The means as text: a head, then a row for each codec at each rate.

    A checkpoint is followed by the baselines at its rate that have not been listed yet. Only rows
    of checkpoints have a number of tokens. Scores that no codec has are left out, and so is the
    size if it is the same for all.
    """
    means = [mean for row in report["rows"] for mean in (row["own"], *row["baselines"])]
    scores = {
        name: style
        for name, style in {**SCORES, "rfid": ("rFID", 2)}.items()
        if any(mean[name] is not None for mean in means)
    }
    titles = [title for title, _ in scores.values()]
    several = len({row["size"] for row in report["rows"]}) > 1
    sizes = ["size"] * several
    lines = [["", "tokens", *sizes, "limit", "bytes", *titles, "gain, dB", "codebook used"]]
    none = [""] * len(scores)

    def figures(mean: dict[str, Any]) -> list[str]:
        if mean["file_bytes"] is None:
            return [f"fits {mean['images']} of {report['images']}", *none]
        known = [(mean[name], digits) for name, (_, digits) in scores.items()]
        shown = ["" if value is None else f"{value:.{digits}f}" for value, digits in known]
        return [f"{mean['file_bytes']:.0f}", *shown]

    seen: list[tuple[Any, ...]] = []
    for row in report["rows"]:
        own, limit = row["own"], str(row["max_bytes"] or "")
        if several:
            sizes = [f"{row['size']}x{row['size']}"]
        tokens, gain, usage = row["tokens"], row["gain"], row["usage"]
        lines.append(
            [
                own["codec"],
                "-" if tokens is None else f"{tokens:.0f}",
                *sizes,
                limit,
                *figures(own),
                "" if gain is None else f"{gain:+.2f}",
                "" if usage is None else f"{usage:.1%}",
            ]
        )
        for mean in row["baselines"]:
            mark = (*sizes, limit, *mean.values())
            if mean["images"] and mark not in seen:
                lines.append([TITLES[mean["codec"]], "", *sizes, limit, *figures(mean), "", ""])
                seen.append(mark)
        if absent := [TITLES[mean["codec"]] for mean in row["baselines"] if not mean["images"]]:
            no_file = "no file this small"
            lines.append([", ".join(absent), "", *sizes, limit, no_file, *none, "", ""])
    return lines


class ReportFolder:
    """Gathers results, and writes them to a folder.

    The sheets show twelve of the ``images``, evenly spread, or the first twelve if their number is
    not known.
    """

    def __init__(
        self, folder: Path, points: Sequence[Point], baselines: Sequence[Name], images: int | None
    ) -> None:
        self.folder, self.points, self.baselines = folder, points, baselines
        images = SHEET_IMAGES if images is None else images
        count = min(SHEET_IMAGES, images)
        self._shown = {n * images // count for n in range(count)}
        self._results: list[Result] = []
        self._seen = 0
        with output_errors(folder):
            # This file has no name, so nothing is left of it after a run that was stopped.
            self._lines = tempfile.TemporaryFile("w+", encoding="utf-8", newline="", dir=folder)  # noqa: SIM115
        self._csv: csv.DictWriter[str] | None = None  # from the first line on

    def add(self, result: Result) -> None:
        """Writes the figures of one result, and keeps its images if the sheets show them."""
        if self._seen in self._shown:
            self._results.append(result)
        self._seen += 1
        for measured in result.measured:
            point = self.points[measured.point]
            file = None if measured.baseline else result.example.own[measured.point][0]
            line = {
                "image": printable(result.example.name),
                "checkpoint": printable(point.name),
                "size": point.size,
                "max_bytes": point.max_bytes,
                "max_tokens": point.tokens,
                "codec": printable(measured.baseline or point.name),
                "tokens": file.num_tokens if file else None,
                "file_bytes": measured.file_bytes,
                "settings": measured.settings,
                **{name: round(value, 4) for name, value in measured.scores.items()},
            }
            with output_errors(self.folder):
                if self._csv is None:
                    self._csv = csv.DictWriter(self._lines, list(line))
                    self._csv.writeheader()
                self._csv.writerow(line)

    def write(self, report: Report) -> None:
        """Writes images.csv, plot.svg, sheet-CHECKPOINT-RATE.jpg and report.json.

        Files of an earlier report are removed.
        """
        (self.folder / FIGURES).unlink(missing_ok=True)
        for old in self.folder.glob(_SHEETS):
            old.unlink()

        def write(name: str, data: bytes) -> None:
            write_atomically(self.folder / name, lambda file: file.write(data))

        with output_errors(self.folder), self._lines as lines:
            lines.seek(0)
            encoded = (line.encode() for line in lines)
            write_atomically(self.folder / "images.csv", lambda file: file.writelines(encoded))
        figures = to_json(report)
        write("plot.svg", plot(figures, ("psnr", "ms_ssim")))
        for place, point in enumerate(self.points):
            file = io.BytesIO()
            sheet = _sheet(place, point, self.baselines, self._results)
            sheet.save(file, "JPEG", quality=92, subsampling=0)
            rate = point.rate.replace(" ", "-")
            write(f"sheet-{point.name}-{rate}.jpg", file.getvalue())
        # It is written last: if it exists, the report is complete.
        write(FIGURES, (json.dumps(figures, indent=1) + "\n").encode())


def _sheet(
    place: int, point: Point, baselines: Sequence[Name], results: Sequence[Result]
) -> Image.Image:
    """A row for each image: the original, the checkpoint, then the baselines with any file."""
    # By the name of the baseline; None is the checkpoint.
    found = [{m.baseline: m for m in result.measured if m.point == place} for result in results]
    codecs = [None, *(name for name in baselines if any(name in codecs for codecs in found))]
    originals = [result.example.originals[point.size] for result in results]
    shapes = [original.size for original in originals]
    step = max((width for width, _ in shapes), default=0) + _GAP
    height = sum(height + _GAP + _HEAD for _, height in shapes)
    sheet = Image.new("RGB", (step * (1 + len(codecs)), height), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    top = 0
    for result, original, by_codec in zip(results, originals, found, strict=True):
        sheet.paste(original, (0, top + _HEAD))
        name = printable(PurePath(result.example.name).name)
        draw.text((2, top + 2), name, "black", font_size=13)
        for column, codec in enumerate(codecs, start=1):
            title = TITLES[codec] if codec else point.name
            text = f"{title}: no file this small"
            if measured := by_codec.get(codec):
                text = f"{title}, {measured.file_bytes} bytes, {measured.scores['psnr']:.2f} dB"
                sheet.paste(measured.image, (column * step, top + _HEAD))
            draw.text((column * step + 2, top + 2), text, "black", font_size=13)
        top += original.height + _GAP + _HEAD
    return sheet
