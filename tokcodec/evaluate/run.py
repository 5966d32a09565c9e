"""Measures checkpoints on pictures, and other codecs at the bytes of every picture."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np
from PIL import Image

from tokcodec.codec import Codec
from tokcodec.config import PreprocessingConfig
from tokcodec.errors import EvaluationError, PictureError
from tokcodec.evaluate import rivals
from tokcodec.evaluate.metrics import SMALLEST_SIDE, Scores, score, why_no_lpips
from tokcodec.geometry import Fit
from tokcodec.parallel import map_ahead
from tokcodec.picture import read_squares
from tokcodec.sources import Record
from tokcodec.stats import Collector

_SHORTEST_PREFIX = 16
_BATCH = 16


@dataclass(frozen=True)
class Point:
    """A checkpoint, the number of codes a picture, and whether they are entropy-coded."""

    codec: Codec
    tokens: int
    coded: bool

    @property
    def name(self) -> str:
        return self.codec.header.name


@dataclass(frozen=True)
class Measured:
    """One picture at one point, by the checkpoint itself or by another codec.

    Attributes:
        point: index in the points.
        rival: the other codec; None for the checkpoint itself.
        file_bytes: of the whole file.
        settings: of the other codec.
        scores: how near the picture is to its original.
        image: the decoded picture.
    """

    point: int
    rival: rivals.Name | None
    file_bytes: int
    settings: str
    scores: Scores
    image: Image.Image


@dataclass(frozen=True)
class Result:
    """What one picture gave; ``measured`` lacks the codecs of which no file was small enough."""

    name: str
    original: Image.Image
    measured: tuple[Measured, ...]


@dataclass(frozen=True)
class Mean:
    """One codec at the bytes of one point: means over all pictures.

    Attributes:
        codec: name of the checkpoint or of the other codec.
        pictures: that it could code in no more bytes than the checkpoint.
        file_bytes: mean of the whole files; None, like the scores, unless it could code all.
    """

    codec: str
    pictures: int
    file_bytes: float | None
    psnr: float | None
    ssim: float | None
    ms_ssim: float | None
    lpips: float | None


@dataclass(frozen=True)
class Row:
    """A point: the checkpoint, how it uses its codebook, and the others at its bytes.

    Attributes:
        checkpoint_id: of the checkpoint.
        tokens: codes a picture.
        coded: whether the files are entropy-coded, where that makes them shorter.
        payload_bytes: of the codes alone, the mean rounded up.
        usage: share of the codebook that the pictures use.
        perplexity: 2 to the entropy of the codes.
        own: the checkpoint's means.
        others: of the other codecs, at no more bytes for every picture.
    """

    checkpoint_id: str
    tokens: int
    coded: bool
    payload_bytes: int
    usage: float
    perplexity: float
    own: Mean
    others: tuple[Mean, ...]


@dataclass(frozen=True)
class Evaluation:
    """Means over all pictures.

    Attributes:
        pictures: measured.
        failed: that could not be read; in no other figure.
        fit: how they were fitted to the square of ``size`` pixels.
        no_lpips: why there is no LPIPS; None where there is.
        rows: a point each, in the order of the checkpoints.
    """

    pictures: int
    failed: int
    fit: Fit
    size: int
    no_lpips: str | None
    rows: tuple[Row, ...]


class Evaluator:
    """Measures pictures one after the other, and adds them up.

    Args:
        codecs: the checkpoints, of one picture size.
        others: names of the other codecs.
        fit: ``crop``, ``stretch`` or ``pad``: what is compared is the square that it gives.

    Raises:
        EvaluationError: checkpoints of one name, squares of different or too small sizes, or a
            codec that is not at hand.
    """

    def __init__(self, codecs: Sequence[Codec], others: tuple[rivals.Name, ...], fit: Fit) -> None:
        names = [codec.header.name for codec in codecs]
        for name in names:
            if names.count(name) > 1 or name in rivals.NAMES:
                raise EvaluationError(f"{name}: the name of several; rename the checkpoint's file")
        sizes = {codec.config.preprocessing.image_size for codec in codecs}
        if len(sizes) > 1:
            raise EvaluationError("checkpoints of different picture sizes cannot be compared")
        (self.size,) = sizes
        if self.size < SMALLEST_SIDE:
            raise EvaluationError(
                f"squares of {self.size} pixels: MS-SSIM needs {SMALLEST_SIDE} or more"
            )
        rivals.require(others)
        self.points = tuple(point for codec in codecs for point in _points(codec))
        self.others, self.fit = others, fit
        self.no_lpips = why_no_lpips()
        self.pictures = self.failed = 0
        self._collectors = [Collector() for _ in self.points]
        self._figures: dict[tuple[int, str | None], list[tuple[int, Scores]]] = defaultdict(list)

    def run(
        self, records: Iterable[Record], workers: int, failed: Callable[[str], None]
    ) -> Iterator[Result]:
        """Results in the order of ``records``; ``failed`` is told of what cannot be read."""
        config = PreprocessingConfig(image_size=self.size)
        ahead = iter(records)
        while chunk := list(islice(ahead, _BATCH)):
            squares: list[tuple[str, Image.Image]] = []
            for record in chunk:
                try:
                    read = read_squares(record, config, self.fit)
                    squares.append((record.name, Image.fromarray(read.pixels[0])))
                except PictureError as error:
                    self.failed += 1
                    failed(str(error))
            images = [image for _, image in squares]
            own: list[list[tuple[int, Image.Image]]] = [[] for _ in images]
            for (codec, tokens), forms in groupby(
                enumerate(self.points), lambda item: (item[1].codec, item[1].tokens)
            ):
                places = {point.coded: place for place, point in forms}
                files = codec.compress_batch(images, "crop", tokens=tokens, coded=True in places)
                decoded = codec.decompress_batch(files)
                for coded, place in places.items():
                    for results, file, image in zip(own, files, decoded, strict=True):
                        token_file = file if coded else file.as_packed()
                        self._collectors[place].add_row(token_file)
                        self._collectors[place].add_bytes(token_file.file_bytes)
                        results.append((token_file.file_bytes, image))
            jobs = zip(squares, own, strict=True)
            for result in map_ahead(lambda job: self._measure(*job), jobs, workers, workers):
                self.pictures += 1
                for measured in result.measured:
                    figures = (measured.file_bytes, measured.scores)
                    self._figures[measured.point, measured.rival].append(figures)
                yield result

    def evaluation(self) -> Evaluation:
        rows = []
        for place, point in enumerate(self.points):
            report = self._collectors[place].report()
            quantizer = point.codec.config.quantizer
            assert report.codes_used is not None
            assert report.perplexity is not None
            rows.append(
                Row(
                    checkpoint_id=point.codec.header.checkpoint_id,
                    tokens=point.tokens,
                    coded=point.coded,
                    payload_bytes=math.ceil(report.payload_bits / report.pictures / 8),
                    usage=report.codes_used / quantizer.codebook_size,
                    perplexity=report.perplexity,
                    own=self._mean(place, None),
                    others=tuple(self._mean(place, name) for name in self.others),
                )
            )
        return Evaluation(
            self.pictures, self.failed, self.fit, self.size, self.no_lpips, tuple(rows)
        )

    def _measure(
        self, square: tuple[str, Image.Image], own: list[tuple[int, Image.Image]]
    ) -> Result:
        name, original = square
        opened = {other: rivals.open_rival(other, original) for other in self.others}
        known: dict[int, Scores] = {}  # by image: of several points where only bytes differ
        measured = []
        for place, (budget, decoded) in enumerate(own):
            attempts: dict[rivals.Name | None, rivals.Attempt | None]
            attempts = {None: rivals.Attempt(budget, "", decoded)}
            attempts |= {other: rivals.best(r, original, budget) for other, r in opened.items()}
            for other, attempt in attempts.items():
                if attempt:
                    image = attempt.image
                    if id(image) not in known:
                        known[id(image)] = score(
                            np.asarray(original), np.asarray(image), lpips=not self.no_lpips
                        )
                    scores = known[id(image)]
                    measured.append(
                        Measured(place, other, attempt.file_bytes, attempt.settings, scores, image)
                    )
        return Result(name, original, tuple(measured))

    def _mean(self, place: int, rival: rivals.Name | None) -> Mean:
        figures = self._figures[place, rival]
        complete = len(figures) == self.pictures

        def mean(values: Iterable[float | None]) -> float | None:
            known = [value for value in values if value is not None]
            return math.fsum(known) / len(known) if known and complete else None

        return Mean(
            codec=rival or self.points[place].name,
            pictures=len(figures),
            file_bytes=mean(size for size, _ in figures),
            psnr=mean(scores.psnr for _, scores in figures),
            ssim=mean(scores.ssim for _, scores in figures),
            ms_ssim=mean(scores.ms_ssim for _, scores in figures),
            lpips=mean(scores.lpips for _, scores in figures),
        )


def _points(codec: Codec) -> list[Point]:
    """All codes; of a checkpoint that decodes prefixes, also half of them, down to 16; packed, and
    entropy-coded too if there is a prior."""
    counts = [codec.config.num_codes]
    while codec.config.prefix_codes and counts[0] // 2 >= _SHORTEST_PREFIX:
        counts.insert(0, counts[0] // 2)
    forms = (False, True) if codec.header.prior_id else (False,)
    return [Point(codec, count, coded) for count in counts for coded in forms]
