"""A web page that shows images as checkpoints decode them, with originals and baselines.

``index.html`` holds its style, program and data, and shows the image files in the same folder, from
a server or from the disk. Its content security policy allows no other files and no other programs.
"""

import html
import json
import os
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from tokcodec.errors import counted
from tokcodec.evaluate.baselines import TITLES, Name
from tokcodec.evaluate.measure import Report, Result
from tokcodec.evaluate.metrics import SCORES
from tokcodec.evaluate.plot import plot
from tokcodec.evaluate.points import Point
from tokcodec.evaluate.report import table, to_json
from tokcodec.inputs.records import printable
from tokcodec.io.files import output_errors, write_atomically
from tokcodec.web.policy import source_hash

INDEX = "index.html"
_IMAGES = "images"
_THUMB = 144  # pixels of the longer edge
_MEASURES = ("psnr", "ms_ssim")
_NOTE = "Scores are of the images themselves; they are shown here as WebP of quality 92."
_GAIN = " A gain is the PSNR of a checkpoint over that of the best baseline in no more bytes."
_PARTS = Path(__file__).parent
# Globs of the files of a page.
FILES = (INDEX, *(f"{measure}.svg" for measure in _MEASURES), f"{_IMAGES}/[0-9]*.webp")


class Page:
    """Writes the images of results as they come, and at the end the page that shows them.

    The files of an earlier page in the folder are removed.
    """

    def __init__(self, folder: Path, points: Sequence[Point], baselines: Sequence[Name]) -> None:
        self.folder, self._points, self._baselines = folder, points, baselines
        self._images: list[dict[str, Any]] = []
        with output_errors(folder):
            (folder / _IMAGES).mkdir(exist_ok=True)
            for old in [path for pattern in FILES for path in folder.glob(pattern)]:
                old.unlink()

    def add(self, result: Result) -> None:
        """Writes the images of one result, each once."""
        example, number = result.example, len(self._images)
        images: list[Image.Image] = []
        versions: dict[Any, dict[str, Any]] = {}  # by what distinguishes them
        chosen: dict[str, int] = {}  # the version of each choice

        def version(choice: str, mark: Any, image: Image.Image, **facts: Any) -> None:
            if mark not in versions:
                versions[mark] = facts
                images.append(image)
            chosen[choice] = list(versions).index(mark)

        if example.originals:
            largest = max(example.originals.values(), key=lambda image: image.size)
            version("original", "original", largest)
        for measured in result.measured:
            place, baseline, scores = measured.point, measured.baseline, measured.scores
            shown = [round(scores[name], 4) for name in _MEASURES] if scores else []
            settings = measured.settings
            if not baseline:
                settings = f"{example.own[place][0].num_tokens} tokens"
            version(
                f"{place} {baseline or 'own'}",
                (baseline or place, self._points[place].size, measured.file_bytes, settings),
                measured.image,
                bytes=measured.file_bytes,
                settings=settings,
                scores=shown,
            )
        for index, image in enumerate(images):
            self._save(image, f"{number}-{index}")
        longer = max(example.shape)
        width, height = (max(1, _THUMB * edge // longer) for edge in example.shape)
        thumb = images[0].resize((width, height), Image.Resampling.LANCZOS)
        self._save(thumb, f"{number}-small")
        self._images.append(
            {
                "name": printable(example.name),
                "shape": example.shape,
                "versions": list(versions.values()),
                "chosen": chosen,
            }
        )

    def _save(self, image: Image.Image, name: str) -> None:
        path = self.folder / _IMAGES / f"{name}.webp"
        with output_errors(path):
            image.save(path, quality=92)  # not synced, unlike the page, which is written last

    def write(self, report: Report) -> None:
        """Writes the page, and its plots if the images were compared."""

        def write(name: str, data: bytes) -> None:
            write_atomically(self.folder / name, lambda file: file.write(data))

        figures = to_json(report)
        for measure in _MEASURES if report.compared else ():
            write(f"{measure}.svg", plot(figures, (measure,)))
        style, program = (_PARTS / "page.css").read_text(), (_PARTS / "page.js").read_text()
        page = Template((_PARTS / "page.html").read_text()).substitute(
            style=style,
            style_hash=source_hash(style),
            program=program,
            program_hash=source_hash(program),
            data=json.dumps(self._data()).replace("<", "\\u003c"),
            about=html.escape(_about(report)),
            note=_NOTE + report.compared * _GAIN,
            plots="".join(map(_plot_element, _MEASURES)) if report.compared else "",
            table="".join(map(_row, table(figures))),
        )
        write(INDEX, page.encode())

    def _data(self) -> dict[str, Any]:
        """The data of the program: the images, and the choices of what to show of them."""
        compared = any("original" in image["chosen"] for image in self._images)
        choices: list[dict[str, Any]] = []
        if compared:
            choices.append({"id": "original", "label": "original", "codec": "original"})
        several = len({point.size for point in self._points}) > 1
        for place, point in enumerate(self._points):
            shape = f"{point.size}x{point.size}" if several else ""
            label = _joined(point.name, point.variant, shape)
            for baseline in (None, *self._baselines):
                choices.append(
                    {
                        "id": f"{place} {baseline or 'own'}",
                        "label": _joined(TITLES[baseline], shape) if baseline else label,
                        "codec": baseline or label,
                        "rate": point.rate,
                        "point": place,
                        "own": baseline is None,
                    }
                )
        # The page may be given to others, who need not know the folder of all images.
        names = [image["name"] for image in self._images]
        common = os.path.commonprefix(names).rfind("/") + 1  # noqa: RUF071 (also of URLs)
        images = [{**image, "name": image["name"][common:]} for image in self._images]
        return {"choices": choices, "images": images}


def _joined(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def _about(report: Report) -> str:
    images = counted(report.images, "image")
    if not report.compared:
        return f"{images}, without originals to compare with"
    told = f"{images}, {report.shape}."
    if any(row.baselines for row in report.rows):
        told += " Each baseline shows its best by PSNR within the bytes."
    return told


def _plot_element(measure: str) -> str:
    title, _ = SCORES[measure]
    return (
        f'<img src="{measure}.svg" width="560" height="380" loading="lazy" '
        f'alt="{title} over bytes of the whole file; the table holds its figures">'
    )


def _row(cells: Sequence[str]) -> str:
    """A row of the table of means. The head has no name; rows of checkpoints have tokens."""
    name, tokens, *figures = map(html.escape, cells)
    if not name:
        heads = "".join(f'<th scope="col">{cell}</th>' for cell in ("codec", tokens, *figures))
        return f"<thead><tr>{heads}</tr></thead>"
    own = ' class="own"' if tokens else ""
    rest = "".join(f"<td>{cell}</td>" for cell in (tokens, *figures))
    return f'<tr{own}><th scope="row">{name}</th>{rest}</tr>'
