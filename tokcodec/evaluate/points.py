"""The points that are measured, each a checkpoint at one rate, and images at these points."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from PIL import Image

from tokcodec.codec import Codec
from tokcodec.config import PreprocessingConfig, geometry
from tokcodec.config.geometry import Fit, Placement, Size
from tokcodec.errors import EvaluationError, ImageError, TokcodecError
from tokcodec.evaluate.metrics import SMALLEST_EDGE
from tokcodec.image import read_tiles
from tokcodec.inputs.records import Record
from tokcodec.tokenfile import TokenFile

Own = dict[int, tuple[TokenFile, Image.Image]]  # by index of the point

BYTES = (40, 64, 100, 150, 232, 434, 600, 800)  # limits that are measured by default
MAX_EDGE = 384  # pixels of the longer edge of the images that are measured, by default
_FEWEST = 16
_BATCH = 16


@dataclass(frozen=True)
class Point:
    """A checkpoint at one rate.

    Attributes:
        codec: the checkpoint.
        max_bytes: most bytes of a token file, for a model of any size.
        tokens: most tokens of an image, for a model of any size, or the tokens that are kept.
        size: side of the squares that it is measured on; None for images in their own shape.
        variant: what distinguishes points of the same checkpoint and rate, in words.
    """

    codec: Codec
    max_bytes: int | None = None
    tokens: int | None = None
    size: int | None = None
    variant: str = ""

    @property
    def name(self) -> str:
        """The name of the checkpoint."""
        return self.codec.header.name

    @property
    def rate(self) -> str:
        """The rate in words: ``150 bytes``, ``64 tokens``."""
        if self.max_bytes:
            return f"{self.max_bytes} bytes"
        return f"{self.tokens} tokens" if self.tokens else ""


@dataclass(frozen=True)
class Example:
    """One image, and its token file and decoded image at each point.

    Attributes:
        name: the name of the image.
        originals: the image at every ``Point.size``; empty if the original is not known.
        shape: width and height at which a page shows it.
        own: the token file and its decoded image, by index of the point.
    """

    name: str
    originals: Mapping[int | None, Image.Image]
    shape: Size
    own: Own


def any_size(codec: Codec) -> bool:
    """Whether the model takes images of any size, not only squares of one size."""
    return codec.config.multiple > 0


def points_of(
    codecs: Iterable[Codec], tokens: Sequence[int] | None, max_bytes: Sequence[int]
) -> tuple[Point, ...]:
    """The points at which checkpoints are measured.

    A model of any size has a point for each number of tokens or, if ``tokens`` is None, for each
    limit of bytes. A model that can decode its first tokens alone has a point for each number of
    tokens, as far as it can keep so many; by default all tokens, half of them, and so on down to
    16. Other models have one point.

    A model of one size is measured on squares of this size. If there are such models, those of any
    size are measured on the largest of these squares.

    Raises:
        EvaluationError: a model takes squares that are too small.
    """
    codecs = list(codecs)
    sides = {
        codec.header.name: codec.config.preprocessing.image_size
        for codec in codecs
        if not any_size(codec)
    }
    for name, side in sides.items():
        if side < SMALLEST_EDGE:
            why = f"takes squares of {side} pixels; MS-SSIM needs at least {SMALLEST_EDGE}"
            raise EvaluationError(why, name=name)
    largest = max(sides.values(), default=None)
    points: list[Point] = []
    for codec in codecs:
        if any_size(codec):
            points += (
                [Point(codec, tokens=count, size=largest) for count in tokens]
                if tokens
                else [Point(codec, max_bytes=limit, size=largest) for limit in max_bytes]
            )
            continue
        config = codec.config
        counts = [config.num_tokens]
        if tokens:
            kept = {config.kept_tokens(count) for count in tokens if count <= counts[0]}
            counts = sorted(kept) or counts
        while not tokens and (half := counts[0] // 2) >= max(_FEWEST, config.token_counts[0]):
            counts.insert(0, config.kept_tokens(half))
        side = config.preprocessing.image_size
        points += [Point(codec, tokens=count, size=side) for count in counts]
    return tuple(points)


def encoded(
    records: Iterable[Record],
    points: Sequence[Point],
    fit: Fit,
    max_edge: int,
    packed: bool,
    workers: int,
    best: bool = False,
) -> Iterator[Example | TokcodecError]:
    """Encodes and decodes images at every point; gives the error of an image that cannot be read.

    Args:
        records: the images.
        points: the points.
        fit: how images become squares: ``crop``, ``stretch`` or ``pad``.
        max_edge: the longer edge in pixels that larger images are resized to, unless they become
            squares.
        packed: do not entropy-code the token files.
        workers: threads.
        best: try grids of several shapes, see ``Codec.compress``.
    """
    records = iter(records)
    sizes = {point.size for point in points}
    while batch := list(islice(records, _BATCH)):
        read: dict[int, dict[int | None, Image.Image]] = {}
        failed: dict[int, ImageError] = {}
        for n, record in enumerate(batch):
            try:
                read[n] = {size: read_image(record, fit, size, max_edge) for size in sizes}
            except ImageError as error:
                failed[n] = error
        own: dict[int, Own] = {n: {} for n in read}
        for place, point in enumerate(points):
            images = {n: originals[point.size] for n, originals in read.items()}
            for n, file, image in _through(point, images, packed, workers, best):
                own[n][place] = file, image
        for n, record in enumerate(batch):
            if n in failed:
                yield failed[n]
            else:
                shape = max(image.size for image in read[n].values())
                yield Example(record.name, read[n], shape, own[n])


def _through(
    point: Point, images: Mapping[int, Image.Image], packed: bool, workers: int, best: bool
) -> Iterator[tuple[int, TokenFile, Image.Image]]:
    """Encodes and decodes images, except those that have no file that is small enough."""
    codec = point.codec
    compressed = codec.compress_stream(
        images.items(),
        fit="aspect" if any_size(codec) else "stretch",
        tokens=point.tokens,
        max_bytes=point.max_bytes,
        packed=packed,
        best=best and any_size(codec),
        workers=workers,
    )
    files: dict[int, TokenFile] = {}
    for n, file in compressed:
        if isinstance(file, TokenFile):
            files[n] = file
        elif not point.max_bytes:
            raise file
    for n, image in codec.decompress_stream(files.items(), size="original", workers=workers):
        if isinstance(image, TokcodecError):
            raise image
        yield n, files[n], image


def read_image(
    record: Record, fit: Fit, size: int | None, max_edge: int, crop_scale: float = 1.0
) -> Image.Image:
    """An image as a square of this size or, if ``size`` is None, in its own shape (see ``within``).

    Raises:
        ImageError: it cannot be read, or is too small to be measured.
    """

    def place(original: Size) -> Placement:
        if size:
            return geometry.place(fit, original, (size, size), crop_scale=crop_scale)
        return geometry.place("aspect", original, within(original, max_edge))

    image = Image.fromarray(read_tiles(record, PreprocessingConfig(), place).pixels[0])
    require_size(record.name, image.size)
    return image


def within(size: Size, max_edge: int) -> Size:
    """The size to which an image is resized before it is measured: the same shape, the longer edge
    at most ``max_edge`` pixels, unless the shorter one would be too short for MS-SSIM."""
    scale = max(max_edge / max(size), SMALLEST_EDGE / min(size))
    if scale >= 1:
        return size
    width, height = (max(1, round(scale * length)) for length in size)
    return width, height


def require_size(name: str, size: Size) -> None:
    """
    Raises:
        ImageError: an image of this size is too small to be measured.
    """
    if min(size) < SMALLEST_EDGE:
        raise ImageError(
            f"{size[0]}x{size[1]} pixels: MS-SSIM needs at least {SMALLEST_EDGE} along each edge",
            name=name,
        )
