"""The report of an evaluation: its figures as JSON, CSV and a table, plots, and sheets to look at.

Table and plots are of the evaluation as plain data, as report.json holds it.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from tokcodec.evaluate.baselines import NAMES, TITLES
from tokcodec.inputs.records import printable
from tokcodec.io.files import write_atomically

if TYPE_CHECKING:
    from tokcodec.evaluate.run import Evaluation, Measured, Point, Result

FIGURES = "report.json"
_SHEETS = "sheet-*.jpg"
FILES = (FIGURES, "images.csv", "plot.png", "plot.svg", _SHEETS)  # globs of what a report is
SHEET_IMAGES = 12
_GAP, _HEAD = 4, 20
SCORES = {
    "psnr": ("PSNR, dB", 2),
    "ssim": ("SSIM", 3),
    "ms_ssim": ("MS-SSIM", 3),
    "lpips": ("LPIPS", 3),
}
_FORMS = {None: "", False: ", packed", True: ", entropy-coded"}
# A colour each: of the other codecs, and of checkpoints in the order of a report.
_OTHERS: dict[str, str] = dict(
    zip(NAMES, ("#8c8c8c", "#b58a5a", "#2a9d8f", "#7a68c9", "#3b82c4", "#9aa83a"), strict=True)
)
_OWN = ("#d9480f", "#e8871e", "#c2255c", "#f0b429", "#862e9c", "#fa5252")


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


def form(entropy_coded: bool | None) -> str:
    """What is said of the form of the tokens, behind a name; nothing where that is not known, as in
    reports from before there was a prior."""
    return _FORMS[entropy_coded]


def table(report: dict[str, Any]) -> list[list[str]]:
    """The means, as text: a head, then a row a codec and size. Under each checkpoint stand the
    others at its bytes that have not stood above; rows of checkpoints have a number of tokens.

    Measures that nothing has are left out.
    """
    means = [mean for row in report["rows"] for mean in (row["own"], *row["baselines"])]
    scores = {
        name: style
        for name, style in SCORES.items()
        if any(mean[name] is not None for mean in means)
    }
    titles = [title for title, _ in scores.values()]
    lines = [["", "tokens", "bytes", *titles, "codebook used", "perplexity"]]
    none = [""] * len(scores)

    def figures(mean: dict[str, Any]) -> list[str]:
        if mean["file_bytes"] is None:
            return [f"fits {mean['images']} of {report['images']}", *none]
        known = [(mean[name], digits) for name, (_, digits) in scores.items()]
        shown = ["" if value is None else f"{value:.{digits}f}" for value, digits in known]
        return [f"{mean['file_bytes']:.0f}", *shown]

    seen = []
    for row in report["rows"]:
        own = row["own"]
        lines.append(
            [
                own["codec"] + form(row.get("entropy_coded")),
                str(row["tokens"]),
                *figures(own),
                f"{row['usage']:.1%}",
                f"{row['perplexity']:,.0f}",
            ]
        )
        for mean in row["baselines"]:
            if mean["images"] and mean not in seen:
                lines.append([TITLES[mean["codec"]], "", *figures(mean), "", ""])
                seen += [mean] if mean["file_bytes"] is not None else []
        if absent := [TITLES[mean["codec"]] for mean in row["baselines"] if not mean["images"]]:
            lines.append([", ".join(absent), "", "no file this small", *none, "", ""])
    return lines


def shown_points(points: "Sequence[Point]") -> list[int]:
    """Indices of the points to look at: of two that differ in their bytes alone the later one,
    which has fewer."""
    return list({(point.name, point.tokens): place for place, point in enumerate(points)}.values())


class Report:
    """Gathers results, and fills a folder with them.

    Args:
        points: of the evaluator.
        images: how many there are; twelve of them, evenly spread, are shown on the sheets, or
            the first twelve where that is not known.
    """

    def __init__(self, points: "Sequence[Point]", images: int | None) -> None:
        self.points = points
        images = SHEET_IMAGES if images is None else images
        count = min(SHEET_IMAGES, images)
        self._shown = {n * images // count for n in range(count)} if count else set()
        self._results: list[Result] = []
        self._seen = 0
        self._lines: list[dict[str, Any]] = []

    def add(self, result: "Result") -> None:
        if self._seen in self._shown:
            self._results.append(result)
        self._seen += 1
        for measured in result.measured:
            assert measured.scores
            point, scores = self.points[measured.point], dataclasses.asdict(measured.scores)
            if measured.scores.lpips is None:
                del scores["lpips"]
            line = {
                "image": result.example.name,
                "checkpoint": point.name,
                "tokens": point.tokens,
                "entropy_coded": point.entropy_coded,
                "codec": measured.baseline or point.name,
                "file_bytes": measured.file_bytes,
                "settings": measured.settings,
                **scores,
            }
            self._lines.append(_rounded(line))

    def write(self, folder: Path, evaluation: "Evaluation") -> None:
        """Writes images.csv, plot.png, plot.svg, sheet-CHECKPOINT-TOKENS.jpg and report.json.

        The sheets are of the entropy-coded files where there are any. Files of an earlier report
        are gone then.

        Raises:
            OutputError: one of them cannot be written.
        """

        (folder / FIGURES).unlink(missing_ok=True)
        for old in folder.glob(_SHEETS):
            old.unlink()

        def write(name: str, data: bytes) -> None:
            write_atomically(folder / name, lambda file: file.write(data))

        table = io.StringIO()
        writer = csv.DictWriter(table, list(self._lines[0]))
        writer.writeheader()
        writer.writerows(self._lines)
        write("images.csv", printable(table.getvalue()).encode())
        figures = to_json(evaluation)
        for kind in ("png", "svg"):
            write(f"plot.{kind}", plot(figures, ("psnr", "ms_ssim"), kind))
        for place in shown_points(self.points):
            point = self.points[place]
            sheet = _sheet(place, point, evaluation, self._results)
            file = io.BytesIO()
            sheet.save(file, "JPEG", quality=92, subsampling=0)
            write(f"sheet-{point.name}-{point.tokens}.jpg", file.getvalue())
        # The last: where it lies, there is a whole report.
        write(FIGURES, (json.dumps(figures, indent=1) + "\n").encode())


def plot(report: dict[str, Any], measures: "Sequence[str]", kind: str, dark: bool = False) -> bytes:
    """Measures over bytes of the whole file, a panel each; a line and a colour a codec.

    Args:
        report: the evaluation as plain data.
        measures: names of scores.
        kind: of image, ``png`` or ``svg``.
        dark: light lines on nothing, for dark pages.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    points: dict[str, dict[tuple[float, ...], str]] = {}  # by codec, the form of every point
    colours: dict[str, str] = {**_OTHERS}
    for row in report["rows"]:
        colours.setdefault(row["own"]["codec"], _OWN[(len(colours) - len(_OTHERS)) % len(_OWN)])
        for mean in (row["own"], *row["baselines"]):
            if mean["file_bytes"] is not None:
                place = (mean["file_bytes"], *(mean[measure] for measure in measures))
                own = mean is row["own"]
                points.setdefault(mean["codec"], {})[place] = (
                    form(row.get("entropy_coded")) if own else ""
                )
    ink = "#c9ccd1" if dark else "#333"
    inks: dict[Any, Any] = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), ink
    )
    # Equal figures give equal files.
    with rc_context({**inks, "svg.hashsalt": "tokcodec", "legend.framealpha": 0}):
        figure = Figure(figsize=(5.5 * len(measures), 4.5), layout="constrained")
        panels = figure.subplots(1, len(measures), squeeze=False)[0]
        for number, (axes, measure) in enumerate(zip(panels, measures, strict=True), start=1):
            for codec in sorted(points, key=_OTHERS.__contains__):  # the checkpoints first
                forms = points[codec]
                places = sorted(forms)
                own = codec not in _OTHERS
                style = {"marker": "o", "linewidth": 2} if own else {"marker": ".", "ls": "--"}
                axes.plot(
                    [place[0] for place in places],
                    [place[number] for place in places],
                    label=codec if own else TITLES[codec],
                    color=colours[codec],
                    **style,
                )
                for place in places:
                    entropy_coded = forms[place] == form(True)
                    axes.annotate(
                        forms[place].removeprefix(", "),
                        (place[0], place[number]),
                        xytext=(-6 if entropy_coded else 6, 3 if entropy_coded else -3),
                        textcoords="offset points",
                        ha="right" if entropy_coded else "left",
                        va="center",
                        fontsize=7,
                    )
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:.0f}")
            axes.margins(x=0.12)
            axes.set_xlabel("bytes of the whole file")
            axes.set_ylabel(SCORES[measure][0])
            axes.grid(alpha=0.2 if dark else 0.3)
            axes.set_facecolor("none")
        panels[0].legend()
        size, images = report["size"], report["images"]
        figure.suptitle(f"{images} image{'s' * (images != 1)}, {size}x{size}")
        file = io.BytesIO()
        figure.savefig(
            file,
            format=kind,
            facecolor="none" if dark else "white",
            metadata={"Date": None} if kind == "svg" else None,
        )
    return file.getvalue()


def _sheet(
    place: int, point: "Point", evaluation: "Evaluation", results: "Sequence[Result]"
) -> Image.Image:
    """A row an image: the original, the checkpoint, then every codec that fits any image."""
    row = evaluation.rows[place]
    baselines = [mean.codec for mean in row.baselines if mean.images]
    step = point.side + _GAP
    sheet = Image.new(
        "RGB", (step * (2 + len(baselines)), (step + _HEAD) * len(results)), (255, 255, 255)
    )
    draw = ImageDraw.Draw(sheet)
    for line, result in enumerate(results):
        top = line * (step + _HEAD)
        found: dict[str, Measured] = {
            measured.baseline or "": measured
            for measured in result.measured
            if measured.point == place
        }
        assert result.example.original
        sheet.paste(result.example.original, (0, top + _HEAD))
        name = printable(PurePath(result.example.name).name)
        draw.text((2, top + 2), name, "black", font_size=13)
        for column, codec in enumerate(["", *baselines], start=1):
            left = column * step
            if codec not in found:
                text = f"{TITLES[codec]}: no file this small"
                draw.text((left + 2, top + 2), text, "black", font_size=13)
                continue
            measured = found[codec]
            assert measured.scores
            title = TITLES[codec] if codec else point.name
            text = f"{title}, {measured.file_bytes} bytes, {measured.scores.psnr:.2f} dB"
            draw.text((left + 2, top + 2), text, "black", font_size=13)
            sheet.paste(measured.image, (left, top + _HEAD))
    return sheet
