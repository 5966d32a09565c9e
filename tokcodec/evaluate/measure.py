"""Measures checkpoints on images, and baselines in no more bytes."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from PIL import Image

from tokcodec.config.geometry import Fit
from tokcodec.errors import EvaluationError, TokcodecError
from tokcodec.evaluate.baselines import NAMES, Name, open_baseline, require
from tokcodec.evaluate.inception import Inception
from tokcodec.evaluate.metrics import SCORES, score
from tokcodec.evaluate.points import Example, Point
from tokcodec.evaluate.rfid import Features, FeatureSums, Gaussian
from tokcodec.evaluate.stats import Collector
from tokcodec.parallel import map_ahead


@dataclass(frozen=True)
class Measured:
    """One image at one point, by the checkpoint or by a baseline.

    Attributes:
        point: the index of the point.
        baseline: None for the checkpoint.
        file_bytes: the size of the whole file.
        settings: the settings of the baseline, in words.
        scores: by name; empty if the original is not known.
        features: for rFID; None if that is not measured.
        image: the decoded image.
    """

    point: int
    baseline: Name | None
    file_bytes: int
    settings: str
    scores: Mapping[str, float]
    features: Features | None
    image: Image.Image


@dataclass(frozen=True)
class Result:
    """What one image gave.

    Attributes:
        example: the image.
        measured: the image by every codec that has a file that is small enough.
        features: features of the originals, by their size; empty if rFID is not measured.
    """

    example: Example
    measured: tuple[Measured, ...]
    features: Mapping[int | None, Features]


@dataclass(frozen=True)
class Mean:
    """One codec at one point: means over all images.

    Attributes:
        codec: name of the checkpoint or of the baseline.
        images: the number of images that have a file that is small enough.
        file_bytes: size of the whole file. It and the scores are None unless all images have one.
        lpips: None also if it was not measured.
        rfid: over all images; None also if it was not measured, or if there is only one image.
    """

    codec: str
    images: int
    file_bytes: float | None
    psnr: float | None
    ssim: float | None
    ms_ssim: float | None
    lpips: float | None
    rfid: float | None


@dataclass(frozen=True)
class Row:
    """One point of a checkpoint, and the baselines there.

    Attributes:
        checkpoint_id: identifies the checkpoint.
        size: side of the squares that images were brought to; None for their own shape.
        max_bytes: the limit of every file; None if the rate is given in tokens. Baselines then
            have the bytes of the checkpoint's file of the same image.
        max_tokens: most tokens of an image; None if the rate is given in bytes.
        tokens: mean number of tokens of an image.
        usage: share of the codebook that the images use.
        perplexity: 2 to the entropy of the tokens.
        own: means of the checkpoint.
        baselines: means of the baselines.
        best_baseline: the one of highest PSNR, of those that have a file for every image.
        gain: PSNR of the checkpoint over that of the best baseline, in dB.
    """

    checkpoint_id: str
    size: int | None
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
        images: the number of images that were measured.
        failed: the number of images that could not be read; no other figure includes them.
        compared: whether there were originals to compare with.
        max_edge: pixels of the longer edge to which larger images were resized, where they kept
            their shape.
        fit: how they were brought to squares; None if all kept their shape.
        packed: whether token files were not entropy-coded.
        best: whether grids of several shapes were tried.
        cut: whether there are further images, beyond a limit.
        rows: one for each point, in the order of the checkpoints.
    """

    images: int = 0
    failed: int = 0
    compared: bool
    max_edge: int
    fit: Fit | None
    packed: bool
    best: bool = False
    cut: bool = False
    rows: tuple[Row, ...] = ()

    @property
    def shape(self) -> str:
        """The shape at which images were measured, in words."""
        if self.fit:
            sizes = sorted({row.size for row in self.rows if row.size})
            return f"{self.fit} to {' and '.join(f'{size}x{size}' for size in sizes)}"
        return f"at most {self.max_edge} pixels along the longer edge"


class Means:
    """Adds up the results of images.

    Raises:
        EvaluationError: several codecs have the same name, or this machine lacks a baseline.
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
        self._sums: dict[tuple[int, Name | None], _Sums] = defaultdict(_Sums)
        self._originals: dict[int | None, FeatureSums] = {}  # by size

    def add(self, result: Result) -> None:
        self.images += 1
        for place, (token_file, _) in result.example.own.items():
            self._collectors[place].add(token_file)
            self._collectors[place].file_bytes += token_file.file_bytes
        for measured in result.measured:
            self._sums[measured.point, measured.baseline].add(measured)
        for size, features in result.features.items():
            self._originals.setdefault(size, FeatureSums(len(features))).add(features)

    def rows(self) -> tuple[Row, ...]:
        """The means of each point so far."""
        originals = {size: sums.gaussian() for size, sums in self._originals.items()}
        return tuple(
            self._row(place, originals.get(point.size)) for place, point in enumerate(self.points)
        )

    def _row(self, place: int, originals: Gaussian | None) -> Row:
        point, stats = self.points[place], self._collectors[place].report()
        own = self._mean(place, None, originals)
        baselines = tuple(self._mean(place, name, originals) for name in self.baselines)
        known = [(mean.psnr, mean.codec) for mean in baselines if mean.psnr is not None]
        best_psnr, best = max(known, default=(None, None))
        compared = own.psnr is not None and best_psnr is not None
        return Row(
            checkpoint_id=point.codec.header.checkpoint_id,
            size=point.size,
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

    def _mean(self, place: int, baseline: Name | None, originals: Gaussian | None) -> Mean:
        sums = self._sums[place, baseline]
        complete = sums.images == self.images
        decoded = sums.features.gaussian() if sums.features and complete else None
        return Mean(
            codec=baseline or self.points[place].name,
            images=sums.images,
            file_bytes=sums.file_bytes / sums.images if sums.images and complete else None,
            rfid=originals.distance(decoded) if originals and decoded else None,
            **{
                name: sums.scores[name] / sums.images if complete and name in sums.scores else None
                for name in SCORES
            },
        )


@dataclass
class _Sums:
    """Sums over the images of one codec at one point."""

    images: int = 0
    file_bytes: int = 0
    scores: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    features: FeatureSums | None = None

    def add(self, measured: Measured) -> None:
        self.images += 1
        self.file_bytes += measured.file_bytes
        for name, value in measured.scores.items():
            self.scores[name] += value
        if measured.features is not None:
            self.features = self.features or FeatureSums(len(measured.features))
            self.features.add(measured.features)


def measure(
    examples: Iterable[Example | TokcodecError],
    points: Sequence[Point],
    baselines: tuple[Name, ...],
    lpips: bool,
    inception: Inception | None,
    workers: int,
) -> Iterator[Result | TokcodecError]:
    """Measures examples in threads, in order; an error in the place of an example is passed on.

    Baselines have the limit of the point or, if it has none, the bytes of the token file. Without
    ``inception``, rFID is not measured.
    """
    work = partial(_measure, points=points, baselines=baselines, lpips=lpips, inception=inception)
    threads = torch.get_num_threads()
    try:
        begin = partial(torch.set_num_threads, 1)  # each worker computes on one core
        yield from map_ahead(work, examples, workers, 2 * workers, begin)
    finally:
        torch.set_num_threads(threads)


def _measure(
    example: Example | TokcodecError,
    points: Sequence[Point],
    baselines: tuple[Name, ...],
    lpips: bool,
    inception: Inception | None,
) -> Result | TokcodecError:
    if isinstance(example, TokcodecError):
        return example
    originals = example.originals
    opened = {
        (size, name): open_baseline(name, original)
        for size, original in originals.items()
        for name in baselines
    }
    # By id of the image: one may be the best at several points.
    known: dict[int, tuple[Mapping[str, float], Features | None]] = {}
    measured: list[Measured] = []

    def add(place: int, name: Name | None, size: int, settings: str, image: Image.Image) -> None:
        original = originals.get(points[place].size)
        if original and id(image) not in known:
            known[id(image)] = (
                score(np.asarray(original), np.asarray(image), lpips),
                inception.features(np.asarray(image)) if inception else None,
            )
        measured.append(
            Measured(place, name, size, settings, *known.get(id(image), ({}, None)), image)
        )

    for place, point in enumerate(points):
        file, decoded = example.own.get(place, (None, None))
        if file and decoded:
            add(place, None, file.file_bytes, "", decoded)
        limit = point.max_bytes or (file.file_bytes if file else 0)
        for name in baselines if originals else ():
            if attempt := opened[point.size, name].best(limit):
                add(place, name, attempt.file_bytes, attempt.settings, attempt.image)
    features = {}
    if inception:
        features = {size: inception.features(np.asarray(o)) for size, o in originals.items()}
    return Result(example, tuple(measured), features)
