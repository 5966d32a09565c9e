"""Measures checkpoints on images, and baselines in no more bytes."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image

from tokcodec.config.geometry import Fit
from tokcodec.errors import EvaluationError, TokcodecError
from tokcodec.evaluate.baselines import NAMES, Name, open_baseline, require
from tokcodec.evaluate.metrics import SCORES, Scores, score
from tokcodec.evaluate.points import Example, Point
from tokcodec.evaluate.stats import Collector
from tokcodec.parallel import map_ahead


@dataclass(frozen=True)
class Measured:
    """One image at one point, by the checkpoint or by a baseline.

    Attributes:
        point: its index.
        baseline: None for the checkpoint.
        file_bytes: of the whole file.
        settings: of the baseline.
        scores: None if the original is not known.
        image: the decoded image.
    """

    point: int
    baseline: Name | None
    file_bytes: int
    settings: str
    scores: Scores | None
    image: Image.Image


@dataclass(frozen=True)
class Result:
    """What one image gave; ``measured`` lacks the codecs of which no file was small enough."""

    example: Example
    measured: tuple[Measured, ...]

    def by_codec(self, point: int) -> Mapping[str, Measured]:
        """What it gave at one point, by the name of the baseline; empty for the checkpoint."""
        return {found.baseline or "": found for found in self.measured if found.point == point}


@dataclass(frozen=True)
class Mean:
    """One codec at one point: means over all images.

    Attributes:
        codec: name of the checkpoint or of the baseline.
        images: how many it has a file for that is small enough.
        file_bytes: of the whole files; None, like the scores, unless there is one for all images.
        lpips: None, too, if it was not measured.
    """

    codec: str
    images: int
    file_bytes: float | None
    psnr: float | None
    ssim: float | None
    ms_ssim: float | None
    lpips: float | None


@dataclass(frozen=True)
class Row:
    """One point of a checkpoint, and the baselines there.

    Attributes:
        checkpoint_id: of the checkpoint.
        max_bytes: the limit of every file; None if the rate is given by the tokens. Baselines
            then have the bytes of the checkpoint's file of the same image.
        max_tokens: most tokens of an image; None if the rate is given in bytes.
        tokens: of an image, the mean.
        usage: share of the codebook that the images use.
        perplexity: 2 to the entropy of the tokens.
        own: means of the checkpoint.
        baselines: means of the baselines.
        best_baseline: the one of highest PSNR, of those that have a file for every image.
        gain: PSNR of the checkpoint over that of the best baseline, in dB.
    """

    checkpoint_id: str
    max_bytes: int | None
    max_tokens: int | None
    tokens: float | None
    usage: float | None
    perplexity: float | None
    own: Mean
    baselines: tuple[Mean, ...]
    best_baseline: str | None
    gain: float | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """Means over all images.

    Attributes:
        images: measured.
        failed: could not be read; they are in no other figure.
        compared: whether there were originals to compare with.
        max_edge: pixels of the longer edge to which larger images were resized.
        size: side of the squares to which images were brought instead; None for their own shape.
        fit: how they were brought to squares; None for their own shape.
        packed: whether token files were not entropy-coded.
        cut: whether there are further images, beyond a limit.
        rows: one for each point, in the order of the checkpoints.
    """

    images: int = 0
    failed: int = 0
    compared: bool
    max_edge: int
    size: int | None
    fit: Fit | None
    packed: bool
    cut: bool = False
    rows: tuple[Row, ...] = ()

    @property
    def shape(self) -> str:
        """For people: the shape at which images were measured."""
        if self.size:
            return f"{self.fit} to {self.size}x{self.size}"
        return f"at most {self.max_edge} pixels along the longer edge"


class Means:
    """Adds up what images give.

    Args:
        points: of all images.
        baselines: names of the baselines.

    Raises:
        EvaluationError: checkpoints of one name, or a baseline that this machine lacks.
    """

    def __init__(self, points: Sequence[Point], baselines: tuple[Name, ...]) -> None:
        names = [codec.header.name for codec in {point.codec: None for point in points}]
        for name in names:
            if names.count(name) > 1 or name in NAMES:
                raise EvaluationError("several codecs have this name: rename the file", name=name)
        require(baselines)
        self.points, self.baselines = points, baselines
        self.images = self.failed = 0
        self._collectors = [Collector(point.codec.header) for point in points]
        self._figures: dict[tuple[int, str | None], list[tuple[int, Scores | None]]]
        self._figures = defaultdict(list)

    def add(self, result: Result) -> None:
        self.images += 1
        for place, (token_file, _) in result.example.own.items():
            self._collectors[place].add(token_file)
            self._collectors[place].file_bytes += token_file.file_bytes
        for measured in result.measured:
            figures = (measured.file_bytes, measured.scores)
            self._figures[measured.point, measured.baseline].append(figures)

    def rows(self) -> tuple[Row, ...]:
        """What all points gave so far."""
        return tuple(map(self._row, range(len(self.points))))

    def _row(self, place: int) -> Row:
        point, stats = self.points[place], self._collectors[place].report()
        own = self._mean(place, None)
        baselines = tuple(self._mean(place, name) for name in self.baselines)
        known = [(mean.psnr, mean.codec) for mean in baselines if mean.psnr is not None]
        best_psnr, best = max(known, default=(None, None))
        compared = own.psnr is not None and best_psnr is not None
        return Row(
            checkpoint_id=point.codec.header.checkpoint_id,
            max_bytes=point.max_bytes,
            max_tokens=point.tokens,
            tokens=stats.tokens / stats.images if stats.images else None,
            usage=stats.usage,
            perplexity=stats.perplexity,
            own=own,
            baselines=baselines,
            best_baseline=best,
            gain=own.psnr - best_psnr if compared else None,  # type: ignore[operator]
        )

    def _mean(self, place: int, baseline: Name | None) -> Mean:
        figures = self._figures[place, baseline]
        complete = len(figures) == self.images

        def mean(values: Iterable[float | None]) -> float | None:
            known = [value for value in values if value is not None]
            return math.fsum(known) / len(known) if known and complete else None

        return Mean(
            codec=baseline or self.points[place].name,
            images=len(figures),
            file_bytes=mean(size for size, _ in figures),
            **{
                name: mean(getattr(scores, name) for _, scores in figures if scores)
                for name in SCORES
            },
        )


def measure(
    examples: Iterable[Example | TokcodecError],
    points: Sequence[Point],
    baselines: tuple[Name, ...],
    lpips: bool,
    workers: int,
) -> Iterator[Result | TokcodecError]:
    """Measures examples, in order; an error in the place of an example is passed on.

    Baselines have the limit of the point or, if it has none, the bytes of the token file.

    Args:
        examples: of the images.
        points: of the examples.
        baselines: names of the baselines.
        lpips: whether to measure it.
        workers: threads; encoders and scores leave Python's lock to each other.
    """
    limits = [point.max_bytes for point in points]
    work = partial(_measure, limits=limits, baselines=baselines, lpips=lpips)
    threads = torch.get_num_threads()
    try:
        begin = partial(torch.set_num_threads, 1)  # each thread of ours computes on one core
        yield from map_ahead(work, examples, workers, 2 * workers, begin)
    finally:
        torch.set_num_threads(threads)


def _measure(
    example: Example | TokcodecError,
    limits: Sequence[int | None],
    baselines: tuple[Name, ...],
    lpips: bool,
) -> Result | TokcodecError:
    if isinstance(example, TokcodecError):
        return example
    original = example.original
    opened = {name: open_baseline(name, original) for name in baselines if original}
    known: dict[int, Scores] = {}  # by id of the image: one may be the best at several points
    measured: list[Measured] = []

    def add(place: int, name: Name | None, size: int, settings: str, image: Image.Image) -> None:
        if original and id(image) not in known:
            known[id(image)] = score(np.asarray(original), np.asarray(image), lpips)
        measured.append(Measured(place, name, size, settings, known.get(id(image)), image))

    for place, max_bytes in enumerate(limits):
        file, decoded = example.own.get(place, (None, None))
        if file and decoded:
            add(place, None, file.file_bytes, "", decoded)
        limit = max_bytes or (file.file_bytes if file else 0)
        for name, baseline in opened.items():
            if attempt := baseline.best(limit):
                add(place, name, attempt.file_bytes, attempt.settings, attempt.image)
    return Result(example, tuple(measured))
