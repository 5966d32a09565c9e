"""Measures checkpoints on images, and other codecs at the bytes of every image."""

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
from tokcodec.config import PreprocessingConfig, geometry
from tokcodec.config.geometry import Fit, Size
from tokcodec.errors import EvaluationError, ImageError, TokcodecError
from tokcodec.evaluate.baselines import NAMES, Attempt, Name, best, open_baseline, require
from tokcodec.evaluate.metrics import SMALLEST_SIDE, Scores, score
from tokcodec.evaluate.stats import Collector
from tokcodec.image import read_tiles
from tokcodec.inputs.records import Record
from tokcodec.parallel import map_ahead
from tokcodec.tokenfile import TokenFile

T = TypeVar("T")

_SHORTEST_PREFIX = 16
_BATCH = 16


@dataclass(frozen=True)
class Point:
    """A checkpoint, the number of tokens an image, and whether they are entropy-coded."""

    codec: Codec
    tokens: int
    entropy_coded: bool

    @property
    def name(self) -> str:
        return self.codec.header.name

    @property
    def side(self) -> int:
        return self.codec.config.preprocessing.image_size


@dataclass(frozen=True)
class Example:
    """One image, and what the points make of it.

    Attributes:
        name: of the image.
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
    """One image at one point, by the checkpoint itself or by another codec.

    Attributes:
        point: index in the points.
        baseline: the other codec; None for the checkpoint itself.
        file_bytes: of the whole file.
        settings: of the other codec.
        scores: how near the image is to its original; None where that is not at hand.
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


@dataclass(frozen=True)
class Mean:
    """One codec at the bytes of one point: means over all images.

    Attributes:
        codec: name of the checkpoint or of the other codec.
        images: that it could token in no more bytes than the checkpoint.
        file_bytes: mean of the whole files; None, like the scores, unless it could token all.
        lpips: None, too, where it was not asked for.
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
    """A point: the checkpoint, how it uses its codebook, and the others at its bytes.

    Attributes:
        checkpoint_id: of the checkpoint.
        tokens: tokens an image.
        coded: whether the files are entropy-coded, where that makes them shorter.
        payload_bytes: of the tokens alone, the mean rounded up.
        usage: share of the codebook that the images use.
        perplexity: 2 to the entropy of the tokens.
        own: the checkpoint's means.
        baselines: of the other codecs, at no more bytes for every image.
    """

    checkpoint_id: str
    tokens: int
    entropy_coded: bool
    payload_bytes: int
    usage: float
    perplexity: float
    own: Mean
    baselines: tuple[Mean, ...]


@dataclass(frozen=True)
class Evaluation:
    """Means over all images.

    Attributes:
        images: measured.
        failed: that could not be read; in no other figure.
        fit: how they were fitted to the square of ``size`` pixels.
        size: None where nothing was compared.
        rows: a point each, in the order of the checkpoints.
    """

    images: int
    failed: int
    fit: Fit
    size: int | None
    rows: tuple[Row, ...]


class Evaluator:
    """Measures images one after the other, and adds them up.

    Args:
        points: of all images.
        baselines: names of the other codecs.
        fit: of the images: what is compared is the square that it gives.
        size: see ``compared_size``; None where there are no originals.
        lpips: whether to measure it; ``metrics.require_lpips`` says if it can be.

    Raises:
        EvaluationError: checkpoints of one name, or a codec that is not at hand.
    """

    def __init__(
        self,
        points: Sequence[Point],
        baselines: tuple[Name, ...],
        fit: Fit,
        size: int | None,
        lpips: bool = False,
    ) -> None:
        names = [codec.header.name for codec in {point.codec: None for point in points}]
        for name in names:
            if names.count(name) > 1 or name in NAMES:
                raise EvaluationError(f"{name}: the name of several; rename the checkpoint's file")
        require(baselines)
        self.points, self.baselines, self.fit, self.size = points, baselines, fit, size
        self._lpips = lpips
        self.images = self.failed = 0
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
            self.images += 1
            for place, (token_file, _) in result.example.own.items():
                self._collectors[place].add_row(token_file)
                self._collectors[place].add_bytes(token_file.file_bytes)
            for measured in result.measured:
                figures = (measured.file_bytes, measured.scores)
                self._figures[measured.point, measured.baseline].append(figures)
            yield result

    def evaluation(self) -> Evaluation:
        rows = []
        for place, point in enumerate(self.points):
            report = self._collectors[place].report()
            if not report.images:
                continue
            quantizer = point.codec.config.quantizer
            assert report.tokens_used is not None
            assert report.perplexity is not None
            rows.append(
                Row(
                    checkpoint_id=point.codec.header.checkpoint_id,
                    tokens=point.tokens,
                    entropy_coded=point.entropy_coded,
                    payload_bytes=math.ceil(report.payload_bits / report.images / 8),
                    usage=report.tokens_used / quantizer.codebook_size,
                    perplexity=report.perplexity,
                    own=self._mean(place, None),
                    baselines=tuple(self._mean(place, name) for name in self.baselines),
                )
            )
        return Evaluation(self.images, self.failed, self.fit, self.size, tuple(rows))

    def _measure(self, example: Example | TokcodecError) -> Result | TokcodecError:
        if isinstance(example, TokcodecError):
            return example
        original = example.original
        opened = {other: open_baseline(other, original) for other in self.baselines if original}
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

    def _mean(self, place: int, baseline: Name | None) -> Mean:
        figures = self._figures[place, baseline]
        complete = len(figures) == self.images

        def mean(values: Iterable[float | None]) -> float | None:
            known = [value for value in values if value is not None]
            return math.fsum(known) / len(known) if known and complete else None

        def mean_of(name: str) -> float | None:
            return mean(getattr(scores, name) for _, scores in figures if scores)

        return Mean(
            codec=baseline or self.points[place].name,
            images=len(figures),
            file_bytes=mean(size for size, _ in figures),
            psnr=mean_of("psnr"),
            ssim=mean_of("ssim"),
            ms_ssim=mean_of("ms_ssim"),
            lpips=mean_of("lpips"),
        )


def points_of(codecs: Iterable[Codec]) -> tuple[Point, ...]:
    """All tokens; of a checkpoint that decodes prefixes, also half of them, down to 16; packed, and
    entropy-coded too if there is a prior."""
    points = []
    for codec in codecs:
        counts = [codec.config.num_tokens]
        while codec.config.prefix_tokens and counts[0] // 2 >= _SHORTEST_PREFIX:
            counts.insert(0, counts[0] // 2)
        forms = (False, True) if codec.header.prior_id else (False,)
        points += [
            Point(codec, count, entropy_coded) for count in counts for entropy_coded in forms
        ]
    return tuple(points)


def compared_size(points: Sequence[Point]) -> int:
    """Side of the square on which the points are compared.

    Raises:
        EvaluationError: they have tiles of different or too small sizes.
    """
    sizes = {point.side for point in points}
    if len(sizes) > 1:
        raise EvaluationError("checkpoints of different image sizes cannot be compared")
    (size,) = sizes
    if size < SMALLEST_SIDE:
        raise EvaluationError(f"tiles of {size} pixels: MS-SSIM needs {SMALLEST_SIDE} or more")
    return size


def encoded(
    records: Iterable[Record], points: Sequence[Point], fit: Fit, size: int
) -> Iterator[Example | TokcodecError]:
    """What the points make of images; for a bad image, its error in that place.

    Args:
        records: the images.
        points: all forms of one checkpoint and number of tokens stand together.
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
            forms = {point.entropy_coded: place for place, point in group}
            files = _results(
                codec.compress_stream(
                    enumerate(images), fit="crop", tokens=tokens, packed=True not in forms
                )
            )
            decoded = _results(codec.decompress_stream(enumerate(files)))
            for entropy_coded, place in forms.items():
                for results, file, image in zip(own, files, decoded, strict=True):
                    results[place] = (
                        file if entropy_coded else _packed(file, file.tokens, size),
                        image,
                    )
        made = iter(own)
        for record, found in zip(batch, read, strict=True):
            if isinstance(found, TokcodecError):
                yield found
            else:
                yield Example(record.name, *found, next(made))


def decoded(
    images: Iterable[tuple[str, Mapping[int, TokenFile]]],
    points: Sequence[Point],
    fit: Fit,
    originals: Mapping[str, Record] | None,
) -> Iterator[Example | TokcodecError]:
    """What token files hold; where something is wrong with an image, its error in that place.

    Args:
        images: a name, and by index of the point its token file.
        points: of the token files.
        fit: of all token files: ``crop``, ``stretch`` or ``pad``.
        originals: images by their names; None where there is nothing to compare with.
    """
    for batch in _batches(images):
        own: list[dict[int, tuple[TokenFile, Image.Image]]] = [{} for _ in batch]
        failed: dict[int, TokcodecError] = {}
        for place, point in enumerate(points):
            tiles = {}
            for n, (_, files) in enumerate(batch):
                if place in files:
                    try:
                        tokens = files[place].tokens_with(point.codec.header)
                        tiles[n] = _packed(files[place], tokens, point.side)
                    except TokcodecError as error:
                        failed[n] = error
            for n, image in point.codec.decompress_stream(tiles.items()):
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
                yield ImageError("its image is not among the originals", name=name)
            else:
                found = _read(originals[name], fit, side)
                yield found if isinstance(found, TokcodecError) else Example(name, *found, own[n])


def _read(record: Record, fit: Fit, size: int) -> tuple[Image.Image, Size] | ImageError:
    """The square of an image, and the width and height that it stands for."""
    try:
        read = read_tiles(
            record,
            PreprocessingConfig(),
            lambda original: geometry.place(fit, original, (size, size)),
        )
    except ImageError as error:
        return error
    shape = (read.width, read.height) if fit == "stretch" else (size, size)
    return Image.fromarray(read.pixels[0]), shape


def _packed(file: TokenFile, tokens: NDArray[Any], side: int) -> TokenFile:
    """Of the same tokens the file of a square image, packed."""
    grid = tokens.reshape(file.shape)
    return TokenFile.packed(grid, file.bits, file.model_id, side, side, "crop")


def _results(results: Iterable[tuple[int, T | TokcodecError]]) -> list[T]:
    """Those of a stream, in order; raises the first error."""
    found = []
    for _, result in results:
        if isinstance(result, TokcodecError):
            raise result
        found.append(result)
    return found


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    ahead = iter(items)
    while batch := list(islice(ahead, _BATCH)):
        yield batch
