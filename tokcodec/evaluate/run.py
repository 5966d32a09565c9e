"""Measures checkpoints on pictures, and other codecs at the bytes of every picture."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokcodec.codec import Codec
from tokcodec.config import PreprocessingConfig
from tokcodec.config.geometry import Fit, Size
from tokcodec.errors import EvaluationError, PictureError, TokcodecError
from tokcodec.evaluate.baselines import NAMES, Attempt, Name, best, open_rival, require
from tokcodec.evaluate.metrics import SMALLEST_SIDE, Scores, score
from tokcodec.evaluate.stats import Collector
from tokcodec.image import read_squares
from tokcodec.inputs.records import Record
from tokcodec.parallel import map_ahead
from tokcodec.tokenfile import TokenFile

T = TypeVar("T")

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

    @property
    def side(self) -> int:
        return self.codec.config.preprocessing.image_size


@dataclass(frozen=True)
class Example:
    """One picture, and what the points make of it.

    Attributes:
        name: of the picture.
        original: its square; None where it is not at hand.
        shape: width and height that the square stands for; its own, but in the stretch fit.
        own: by index of the point the token file, and the square that is decoded from it.
    """

    name: str
    original: Image.Image | None
    shape: Size
    own: Mapping[int, tuple[TokenFile, Image.Image]]


@dataclass(frozen=True)
class Measured:
    """One picture at one point, by the checkpoint itself or by another codec.

    Attributes:
        point: index in the points.
        rival: the other codec; None for the checkpoint itself.
        file_bytes: of the whole file.
        settings: of the other codec.
        scores: how near the picture is to its original; None where that is not at hand.
        image: the decoded picture.
    """

    point: int
    rival: Name | None
    file_bytes: int
    settings: str
    scores: Scores | None
    image: Image.Image


@dataclass(frozen=True)
class Result:
    """What one picture gave; ``measured`` lacks the codecs of which no file was small enough."""

    example: Example
    measured: tuple[Measured, ...]


@dataclass(frozen=True)
class Mean:
    """One codec at the bytes of one point: means over all pictures.

    Attributes:
        codec: name of the checkpoint or of the other codec.
        pictures: that it could code in no more bytes than the checkpoint.
        file_bytes: mean of the whole files; None, like the scores, unless it could code all.
        lpips: None, too, where it was not asked for.
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
        size: None where nothing was compared.
        rows: a point each, in the order of the checkpoints.
    """

    pictures: int
    failed: int
    fit: Fit
    size: int | None
    rows: tuple[Row, ...]


class Evaluator:
    """Measures pictures one after the other, and adds them up.

    Args:
        points: of all pictures.
        others: names of the other codecs.
        fit: of the pictures: what is compared is the square that it gives.
        size: see ``compared_size``; None where there are no originals.
        lpips: whether to measure it; ``metrics.require_lpips`` says if it can be.

    Raises:
        EvaluationError: checkpoints of one name, or a codec that is not at hand.
    """

    def __init__(
        self,
        points: Sequence[Point],
        others: tuple[Name, ...],
        fit: Fit,
        size: int | None,
        lpips: bool = False,
    ) -> None:
        names = [codec.header.name for codec in {point.codec: None for point in points}]
        for name in names:
            if names.count(name) > 1 or name in NAMES:
                raise EvaluationError(f"{name}: the name of several; rename the checkpoint's file")
        require(others)
        self.points, self.others, self.fit, self.size = points, others, fit, size
        self._lpips = lpips
        self.pictures = self.failed = 0
        self._collectors = [Collector(point.codec.header) for point in points]
        self._figures: dict[tuple[int, str | None], list[tuple[int, Scores | None]]]
        self._figures = defaultdict(list)

    def run(
        self,
        examples: Iterable[Example | TokcodecError],
        workers: int,
        failed: Callable[[str], None],
    ) -> Iterator[Result]:
        """Results in the order of ``examples``; ``failed`` is told of what cannot be read."""
        for result in map_ahead(self._measure, examples, workers, workers):
            if isinstance(result, TokcodecError):
                self.failed += 1
                failed(str(result))
                continue
            self.pictures += 1
            for place, (token_file, _) in result.example.own.items():
                self._collectors[place].add_row(token_file)
                self._collectors[place].add_bytes(token_file.file_bytes)
            for measured in result.measured:
                figures = (measured.file_bytes, measured.scores)
                self._figures[measured.point, measured.rival].append(figures)
            yield result

    def evaluation(self) -> Evaluation:
        rows = []
        for place, point in enumerate(self.points):
            report = self._collectors[place].report()
            if not report.pictures:
                continue
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
        return Evaluation(self.pictures, self.failed, self.fit, self.size, tuple(rows))

    def _measure(self, example: Example | TokcodecError) -> Result | TokcodecError:
        if isinstance(example, TokcodecError):
            return example
        original = example.original
        opened = {other: open_rival(other, original) for other in self.others if original}
        known: dict[int, Scores] = {}  # by image: of several points where only bytes differ
        measured = []
        for place, (token_file, decoded) in example.own.items():
            budget = token_file.file_bytes
            attempts: dict[Name | None, Attempt | None]
            attempts = {None: Attempt(budget, "", decoded)}
            if original:
                attempts |= {name: best(r, original, budget) for name, r in opened.items()}
            for other, attempt in attempts.items():
                if attempt:
                    image = attempt.image
                    if original and id(image) not in known:
                        known[id(image)] = score(
                            np.asarray(original), np.asarray(image), self._lpips
                        )
                    scores = known.get(id(image))
                    measured.append(
                        Measured(place, other, attempt.file_bytes, attempt.settings, scores, image)
                    )
        return Result(example, tuple(measured))

    def _mean(self, place: int, rival: Name | None) -> Mean:
        figures = self._figures[place, rival]
        complete = len(figures) == self.pictures

        def mean(values: Iterable[float | None]) -> float | None:
            known = [value for value in values if value is not None]
            return math.fsum(known) / len(known) if known and complete else None

        def mean_of(name: str) -> float | None:
            return mean(getattr(scores, name) for _, scores in figures if scores)

        return Mean(
            codec=rival or self.points[place].name,
            pictures=len(figures),
            file_bytes=mean(size for size, _ in figures),
            psnr=mean_of("psnr"),
            ssim=mean_of("ssim"),
            ms_ssim=mean_of("ms_ssim"),
            lpips=mean_of("lpips"),
        )


def points_of(codecs: Iterable[Codec]) -> tuple[Point, ...]:
    """All codes; of a checkpoint that decodes prefixes, also half of them, down to 16; packed, and
    entropy-coded too if there is a prior."""
    points = []
    for codec in codecs:
        counts = [codec.config.num_codes]
        while codec.config.prefix_codes and counts[0] // 2 >= _SHORTEST_PREFIX:
            counts.insert(0, counts[0] // 2)
        forms = (False, True) if codec.header.prior_id else (False,)
        points += [Point(codec, count, coded) for count in counts for coded in forms]
    return tuple(points)


def compared_size(points: Sequence[Point]) -> int:
    """Side of the square on which the points are compared.

    Raises:
        EvaluationError: they have squares of different or too small sizes.
    """
    sizes = {point.side for point in points}
    if len(sizes) > 1:
        raise EvaluationError("checkpoints of different picture sizes cannot be compared")
    (size,) = sizes
    if size < SMALLEST_SIDE:
        raise EvaluationError(f"squares of {size} pixels: MS-SSIM needs {SMALLEST_SIDE} or more")
    return size


def encoded(
    records: Iterable[Record], points: Sequence[Point], fit: Fit, size: int
) -> Iterator[Example | TokcodecError]:
    """What the points make of pictures; for a bad picture, its error in that place.

    Args:
        records: the pictures.
        points: all forms of one checkpoint and number of codes stand together.
        fit: ``crop``, ``stretch`` or ``pad``.
        size: of the points.
    """
    for batch in _batches(records):
        read = [_read(record, fit, size) for record in batch]
        images = [found[0] for found in read if not isinstance(found, TokcodecError)]
        own: list[dict[int, tuple[TokenFile, Image.Image]]] = [{} for _ in images]
        for (codec, tokens), group in groupby(
            enumerate(points), lambda item: (item[1].codec, item[1].tokens)
        ):
            forms = {point.coded: place for place, point in group}
            files = codec.compress_batch(images, "crop", tokens=tokens, coded=True in forms)
            decoded = codec.decompress_batch(files)
            for coded, place in forms.items():
                for results, file, image in zip(own, files, decoded, strict=True):
                    results[place] = file if coded else _packed(file, file.codes, size), image
        made = iter(own)
        for record, found in zip(batch, read, strict=True):
            if isinstance(found, TokcodecError):
                yield found
            else:
                yield Example(record.name, *found, next(made))


def decoded(
    pictures: Iterable[tuple[str, Mapping[int, TokenFile]]],
    points: Sequence[Point],
    fit: Fit,
    originals: Mapping[str, Record] | None,
) -> Iterator[Example | TokcodecError]:
    """What token files hold; where something is wrong with a picture, its error in that place.

    Args:
        pictures: a name, and by index of the point its token file.
        points: of the token files.
        fit: of all token files: ``crop``, ``stretch`` or ``pad``.
        originals: pictures by their names; None where there is nothing to compare with.
    """
    for batch in _batches(pictures):
        own: list[dict[int, tuple[TokenFile, Image.Image]]] = [{} for _ in batch]
        failed: dict[int, TokcodecError] = {}
        for place, point in enumerate(points):
            squares = {}
            for n, (_, files) in enumerate(batch):
                if place in files:
                    try:
                        codes = files[place].codes_with(point.codec.header)
                        squares[n] = _packed(files[place], codes, point.side)
                    except TokcodecError as error:
                        failed[n] = error
            made = point.codec.decompress_stream((square, None) for square in squares.values())
            for n, image in zip(squares, made, strict=True):
                if isinstance(image, TokcodecError):
                    failed[n] = image
                else:
                    own[n][place] = batch[n][1][place], image
        for n, (name, files) in enumerate(batch):
            if n in failed:
                yield type(failed[n])(f"{name}: {failed[n]}")
                continue
            place, file = next(iter(files.items()))
            side = points[place].side
            shape = (file.width, file.height) if fit == "stretch" else (side, side)
            if originals is None:
                yield Example(name, None, shape, own[n])
            elif name not in originals:
                yield PictureError(f"{name}: its picture is not in --originals")
            else:
                found = _read(originals[name], fit, side)
                yield found if isinstance(found, TokcodecError) else Example(name, *found, own[n])


def _read(record: Record, fit: Fit, size: int) -> tuple[Image.Image, Size] | PictureError:
    """The square of a picture, and the width and height that it stands for."""
    try:
        read = read_squares(record, PreprocessingConfig(image_size=size), fit)
    except PictureError as error:
        return error
    shape = (read.width, read.height) if fit == "stretch" else (size, size)
    return Image.fromarray(read.pixels[0]), shape


def _packed(file: TokenFile, codes: NDArray[Any], side: int) -> TokenFile:
    """Of the same codes the file of a square picture, packed."""
    return TokenFile.packed(codes, file.bits, file.code_id, side, side, "crop")


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    ahead = iter(items)
    while batch := list(islice(ahead, _BATCH)):
        yield batch
