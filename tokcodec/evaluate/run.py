"""``evaluate`` and ``page``: the two calls behind the commands of these names."""

from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Literal, Protocol

from tokcodec.batch.jobs import images as images_of
from tokcodec.batch.jobs import refuse_remote
from tokcodec.codec import Codec
from tokcodec.config import DEFAULT_WEIGHTS
from tokcodec.errors import EvaluationError, Hint, OutputError, TokcodecError
from tokcodec.evaluate.baselines import NAMES, Name
from tokcodec.evaluate.measure import Means, Report, Result, measure
from tokcodec.evaluate.metrics import require_lpips
from tokcodec.evaluate.page import FILES as PAGE_FILES
from tokcodec.evaluate.page import Page
from tokcodec.evaluate.points import (
    BYTES,
    MAX_EDGE,
    Example,
    Point,
    encoded,
    points_of,
    square_size,
)
from tokcodec.evaluate.report import FILES as REPORT_FILES
from tokcodec.evaluate.report import ReportFolder
from tokcodec.evaluate.tokenfiles import decoded, gather_tokens, is_tokens, named
from tokcodec.io.read import MAX_BYTES

SquareFit = Literal["crop", "stretch", "pad"]

UNFINISHED = ".unfinished"  # lies in a folder whose files may be overwritten
# What the extra ``metrics`` installs, by the names that are imported.
_PACKAGES = ("torchmetrics", "pillow_jxl", "thumbhash", "blurhash")


class Progress(Protocol):
    """Follows the work; ``total`` is set when the number of images is known."""

    total: int | None

    def move(self) -> None: ...
    def fail(self, error: TokcodecError) -> None: ...


class _Silent:
    """Follows nothing."""

    total: int | None = None

    def move(self) -> None: ...
    def fail(self, error: TokcodecError) -> None: ...


def evaluate(
    sources: Sequence[str],
    output: Path | None = None,
    *,
    weights: Sequence[str] = (DEFAULT_WEIGHTS,),
    baselines: Sequence[Name] = NAMES,
    tokens: Sequence[int] | None = None,
    bytes: Sequence[int] = BYTES,  # noqa: A002 (as the option is called)
    packed: bool = False,
    fit: SquareFit = "crop",
    max_edge: int = MAX_EDGE,
    lpips: bool = False,
    device: str = "auto",
    workers: int = 1,
    max_image_bytes: int = MAX_BYTES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Measures checkpoints and baselines on images, at several rates.

    Args:
        sources: images: files, folders, globs, WebDataset tars, Parquet files; paths or URLs.
        output: a folder for report.json, images.csv, a plot and sheets of images; None for none.
        weights: checkpoints.
        baselines: other codecs; each shows its best by PSNR in no more bytes.
        tokens: most tokens of an image, for models of any size, in place of ``bytes``.
        bytes: limits of the whole file, for models of any size.
        packed: do not entropy-code the token files.
        fit: how images become squares, if a checkpoint takes only squares of one size.
        max_edge: larger images are first resized to this many pixels along the longer edge.
        lpips: measure LPIPS, too; needs torchvision, and downloads a network.
        device: where the models run.
        workers: processes that measure. With more than one, a script that calls this needs
            ``if __name__ == "__main__":``.
        max_image_bytes: images of more bytes fail.
        overwrite: replace an existing report.
        progress: follows the work, and receives the images that cannot be read.

    Raises:
        EvaluationError: the checkpoints cannot be compared, a package or a baseline is missing,
            or no image could be measured.
        OutputError: the output holds a report already, or cannot be written.
    """
    names = _checked(baselines)
    images, records = images_of(sources, max_image_bytes)
    if output:
        _prepare(output, REPORT_FILES, overwrite)
    if lpips:
        require_lpips()
    points = points_of((Codec.load(name, device) for name in weights), tokens, bytes)
    size = square_size(points)
    means = Means(points, names)
    folder = ReportFolder(points, names, images)
    examples = encoded(records, points, fit, size, max_edge, packed, workers)
    take = folder.add if output else None  # it keeps images, which nothing else needs
    _measure(means, examples, lpips, workers, images, progress, take)
    _require_images(means, sources)
    report = Report(
        images=means.images,
        failed=means.failed,
        compared=True,
        max_edge=max_edge,
        size=size,
        fit=fit if size else None,
        packed=packed,
        cut=False,
        rows=means.rows(),
    )
    if output:
        folder.write(output, report)
        (output / UNFINISHED).unlink()
    return report


def page(
    sources: Sequence[str],
    output: Path,
    *,
    weights: Sequence[str] = (),
    originals: Sequence[str] = (),
    baselines: Sequence[Name] = NAMES,
    tokens: Sequence[int] | None = None,
    bytes: Sequence[int] = BYTES,  # noqa: A002 (as the option is called)
    packed: bool = False,
    fit: SquareFit = "crop",
    max_edge: int = MAX_EDGE,
    limit: int | None = None,
    device: str = "auto",
    workers: int = 1,
    max_image_bytes: int = MAX_BYTES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Writes a page to compare images on: of images, as ``evaluate`` measures them, or of token
    files and token datasets, as they are.

    Args:
        sources: images, or token files: files, folders, globs, token datasets.
        output: the folder of the page, whose index.html needs no network.
        weights: checkpoints; of token files those that are neither bundled nor cached.
        originals: the images that token files are of, by the same names, to compare with.
        baselines, tokens, bytes, packed, fit: as of ``evaluate``.
        max_edge: pixels of the longer edge that images are measured and shown at.
        limit: show only this many images, the first ones; None for all.
        device, workers, max_image_bytes, overwrite, progress: as of ``evaluate``.

    Raises:
        EvaluationError: as ``evaluate``; or sources of both kinds.
        OutputError: the output holds a page already, or cannot be written.
    """
    kinds = {is_tokens(source) for source in sources}
    if len(kinds) > 1:
        raise EvaluationError("images and token files together: make a page of one kind")
    of_tokens = kinds == {True}
    if originals and not of_tokens:
        raise EvaluationError("originals are for token files: images are compared with themselves")
    compared = bool(originals) or not of_tokens
    names = _checked(baselines) if compared else ()
    _prepare(output, PAGE_FILES, overwrite)
    images: int | None
    size: int | None = None
    examples: Iterable[Example | TokcodecError]
    points: tuple[Point, ...]
    if of_tokens:
        gathered = gather_tokens(sources, weights, compared, limit, device)
        points, images, cut = gathered.points, len(gathered.files), gathered.cut
        known = named(originals, gathered.files) if originals else None
        examples = decoded(gathered, known, max_edge, workers)
    else:
        found, records = images_of(sources, max_image_bytes)
        images = min(found, limit) if found and limit else found
        cut = found is not None and images != found
        loaded = (Codec.load(name, device) for name in weights or (DEFAULT_WEIGHTS,))
        points = points_of(loaded, tokens, bytes)
        size = square_size(points)
        shown = islice(records, limit)
        examples = encoded(shown, points, fit, size, max_edge, packed, workers)
    means = Means(points, names)
    made = Page(output, points, names)
    _measure(means, examples, False, workers, images, progress, made.add)
    _require_images(means, sources)
    report = Report(
        images=means.images,
        failed=means.failed,
        compared=compared,
        max_edge=max_edge,
        size=size,
        fit=fit if size else None,
        packed=packed,
        cut=cut,
        rows=means.rows(),
    )
    made.write(report)
    (output / UNFINISHED).unlink()
    return report


def _checked(baselines: Sequence[Name]) -> tuple[Name, ...]:
    """The baselines in the order in which they are shown.

    Raises:
        EvaluationError: one is not known, or the extra ``metrics`` is not installed.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise EvaluationError(
            f"measuring needs {', '.join(missing)}: pip install 'tokcodec[metrics]'"
        )
    if unknown := [name for name in baselines if name not in NAMES]:
        raise EvaluationError(f"{unknown[0]!r} is no baseline: choose from {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in baselines)


def _measure(
    means: Means,
    examples: Iterable[Example | TokcodecError],
    lpips: bool,
    workers: int,
    images: int | None,
    progress: Progress | None,
    take: Callable[[Result], object] | None,
) -> None:
    """Measures all examples; each result is also given to ``take``."""
    progress = progress or _Silent()
    progress.total = images
    for result in measure(examples, means.points, means.baselines, lpips, workers):
        if isinstance(result, TokcodecError):
            means.failed += 1
            progress.fail(result)
            continue
        means.add(result)
        if take:
            take(result)
        progress.move()


def _require_images(means: Means, sources: Sequence[str]) -> None:
    """
    Raises:
        EvaluationError: no image was measured.
    """
    if not means.images:
        raise EvaluationError("no image could be measured", name=", ".join(sources))


def _prepare(folder: Path, files: Iterable[str], overwrite: bool) -> None:
    """Makes the folder of a report or a page before anything is measured.

    Args:
        folder: the folder.
        files: globs of what will be written.
        overwrite: whether what is there may be overwritten.

    Raises:
        OutputError: something of it is there already, or the folder cannot be made.
    """
    refuse_remote(folder)
    if str(folder) in ("-", "."):
        raise OutputError("cannot take the output", name=folder, hint=Hint.OTHER_OUTPUT)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = (folder / UNFINISHED).exists()  # by a run that was stopped
        taken = [path.name for pattern in files for path in folder.glob(pattern)]
        if taken and not unfinished and not overwrite:
            raise OutputError(f"holds {taken[0]} already", name=folder, hint=Hint.OVERWRITE)
        (folder / UNFINISHED).touch()
    except OSError as error:
        raise OutputError(f"cannot be a folder: {error.strerror}", name=folder) from error
