"""A page to look at images: what checkpoints made of them, beside originals and other codecs.

``index.html`` holds its style, program and data, and shows the images beside it, from a server or
from the disk. Its policy lets it load nothing else, and run nothing but its own program.
"""

import base64
import hashlib
import html
import io
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image

from tokcodec.errors import OutputError
from tokcodec.evaluate.baselines import TITLES, Name
from tokcodec.evaluate.report import SCORES, form, plot, shown_points, table, to_json
from tokcodec.inputs.records import printable
from tokcodec.io.files import write_atomically

if TYPE_CHECKING:
    from tokcodec.evaluate.run import Evaluation, Point, Result

INDEX = "index.html"
_IMAGES = "images"
_THUMB = 144  # pixels of the longer edge
_MEASURES = ("psnr", "ms_ssim")
_SHOWN_AS = "Figures are of the images themselves; they are shown here as WebP of quality 92."
_GAIN = " A gain is the PSNR of a checkpoint over that of the best other codec in no more bytes."
_SCHEMES = (False, True)  # dark
_PARTS = Path(__file__).parent
# Globs of what a page is.
FILES = (
    INDEX,
    *(f"{measure}{'-dark' * dark}.svg" for measure in _MEASURES for dark in _SCHEMES),
    f"{_IMAGES}/[0-9]*.webp",
)


class Page:
    """Writes the images of results as they come, and the page that shows them at the end.

    Args:
        folder: gets ``index.html``, ``images`` and plots; those of an earlier page are gone.
        points: of the evaluator.
        baselines: the other codecs.

    Raises:
        OutputError: the file system refused.
    """

    def __init__(self, folder: Path, points: "Sequence[Point]", baselines: Sequence[Name]) -> None:
        self.folder, self._points, self._baselines = folder, points, baselines
        self._shown = shown_points(points)
        self._images: list[dict[str, Any]] = []
        try:
            (folder / _IMAGES).mkdir(parents=True, exist_ok=True)
            for old in [path for pattern in FILES for path in folder.glob(pattern)]:
                old.unlink()
        except OSError as error:
            raise OutputError(f"{folder}: cannot write: {error.strerror}") from error

    def add(self, result: "Result") -> None:
        """Writes the images of one result, each once.

        Raises:
            OutputError: the file system refused.
        """
        example, number = result.example, len(self._images)
        images: list[Image.Image] = []
        versions: dict[Any, dict[str, Any]] = {}  # by what makes them differ
        chosen: dict[str, int] = {}  # the version that a choice stands for

        def version(choice: str, mark: Any, image: Image.Image, **facts: Any) -> None:
            if mark not in versions:
                versions[mark] = facts
                images.append(image)
            chosen[choice] = list(versions).index(mark)

        if example.original:
            version("original", "original", example.original)
        for measured in result.measured:
            place, baseline = measured.point, measured.baseline
            if place in self._shown:
                scores = measured.scores
                version(
                    f"{place} {baseline or 'own'}",
                    (baseline or place, measured.file_bytes, measured.settings),
                    measured.image,
                    bytes=measured.file_bytes,
                    settings=measured.settings,
                    scores=[round(getattr(scores, name), 4) for name in _MEASURES]
                    if scores
                    else [],
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
        file = io.BytesIO()
        image.save(file, "WEBP", quality=92)
        path = self.folder / _IMAGES / f"{name}.webp"
        try:
            path.write_bytes(file.getvalue())  # not synced: the page is, which is written last
        except OSError as error:
            raise OutputError(f"{path}: cannot write: {error.strerror}") from error

    def write(self, evaluation: "Evaluation") -> None:
        """Writes the page, and its plots where there was something to measure.

        Raises:
            OutputError: the file system refused.
        """
        figures = to_json(evaluation)
        measured = evaluation.size is not None
        for measure in _MEASURES if measured else ():
            for dark in _SCHEMES:
                drawn = plot(figures, (measure,), "svg", dark)
                write_atomically(self.folder / _plot_name(measure, dark), partial(_put, drawn))
        style, program = (_PARTS / "page.css").read_text(), (_PARTS / "page.js").read_text()
        page = Template((_PARTS / "page.html").read_text()).substitute(
            style=style,
            style_hash=_hash(style),
            program=program,
            program_hash=_hash(program),
            data=json.dumps(self._data()).replace("<", "\\u003c"),
            about=html.escape(_about(evaluation)),
            note=_SHOWN_AS + measured * _GAIN,
            plots="".join(map(_plot_element, _MEASURES)) if measured else "",
            table="".join(map(_row, table(figures))),
        )
        write_atomically(self.folder / INDEX, partial(_put, page.encode()))

    def _data(self) -> dict[str, Any]:
        """What the program reads: images, and what one may choose to see of them."""
        compared = any("original" in image["chosen"] for image in self._images)
        choices: list[dict[str, Any]] = []
        if compared:
            choices.append({"id": "original", "label": "original"})
        shown = [self._points[place].name for place in self._shown]
        for place in self._shown:
            point = self._points[place]
            label = point.name + form(point.entropy_coded)
            if shown.count(point.name) > 1:
                label += f", {point.tokens} tokens"
            for other in (None, *self._baselines):
                choices.append(
                    {
                        "id": f"{place} {other or 'own'}",
                        "label": TITLES[other] if other else label,
                        "point": place,
                        "own": other is None,
                    }
                )
        # Without the folder that all are in: a page may go to others, whom that does not concern.
        names = [image["name"] for image in self._images]
        common = os.path.commonprefix(names).rfind("/") + 1  # noqa: RUF071 (also of URLs)
        images = [{**image, "name": image["name"][common:]} for image in self._images]
        return {"choices": choices, "images": images}


def _about(evaluation: "Evaluation") -> str:
    images = f"{evaluation.images:,} image{'s' * (evaluation.images != 1)}"
    if evaluation.size is None:
        return f"{images}, fit {evaluation.fit}, without originals"
    return (
        f"{images}, {evaluation.fit} to {evaluation.size}x{evaluation.size}. Every other codec "
        "shows its best by PSNR in no more bytes than the checkpoint's whole file."
    )


def _plot_name(measure: str, dark: bool) -> str:
    return f"{measure}{'-dark' * dark}.svg"


def _plot_element(measure: str) -> str:
    title, _ = SCORES[measure]
    return (
        f'<image><source srcset="{_plot_name(measure, True)}" '
        'media="(prefers-color-scheme: dark)">'
        f'<img src="{_plot_name(measure, False)}" width="396" height="324" loading="lazy" '
        f'alt="{title} over bytes of the whole file; the table holds its figures"></image>'
    )


def _row(cells: Sequence[str]) -> str:
    """Of the table of means; that of a checkpoint has a number of tokens, the head is the first."""
    name, tokens, *figures = map(html.escape, cells)
    if not name:
        heads = "".join(f'<th scope="col">{cell}</th>' for cell in ("codec", tokens, *figures))
        return f"<thead><tr>{heads}</tr></thead>"
    own = ' class="own"' if tokens else ""
    rest = "".join(f"<td>{cell}</td>" for cell in (tokens, *figures))
    return f'<tr{own}><th scope="row">{name}</th>{rest}</tr>'


def _hash(text: str) -> str:
    """What a policy calls an element of this text by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _put(data: bytes, file: BinaryIO) -> None:
    file.write(data)
