"""``evaluate`` and ``page``."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Literal

from tokcodec.batch.jobs import Name as Source
from tokcodec.batch.jobs import images as images_of
from tokcodec.batch.jobs import names_of
from tokcodec.codec import Codec
from tokcodec.config import DEFAULT_WEIGHTS
from tokcodec.errors import ArgumentError, EvaluationError, Hint, OutputError, TokcodecError
from tokcodec.evaluate.baselines import NAMES, Name
from tokcodec.evaluate.inception import load_inception
from tokcodec.evaluate.measure import Means, Report, Result, measure
from tokcodec.evaluate.metrics import require_lpips
from tokcodec.evaluate.page import FILES as PAGE_FILES
from tokcodec.evaluate.page import Page
from tokcodec.evaluate.points import BYTES, MAX_EDGE, Example, encoded, points_of
from tokcodec.evaluate.report import FILES as REPORT_FILES
from tokcodec.evaluate.report import ReportFolder
from tokcodec.evaluate.tokenfiles import decoded, gather_tokens, is_tokens, named
from tokcodec.io.files import output_errors, refuse_file_name, refuse_remote
from tokcodec.io.job import Job
from tokcodec.io.lock import locked
from tokcodec.io.read import MAX_BYTES

SquareFit = Literal["crop", "stretch", "pad"]
# Called for each image with the number of all images, if that is known, and the error of this one,
# if it failed.
Progress = Callable[[int | None, TokcodecError | None], object]

UNFINISHED = ".unfinished"  # marks a folder whose files may be overwritten
# What the extra ``metrics`` installs, by the names that are imported.
_PACKAGES = ("torchmetrics", "pillow_jxl", "thumbhash", "blurhash")


def evaluate(
    sources: Source | Sequence[Source],
    output: Source | None = None,
    *,
    weights: str | Sequence[str] = DEFAULT_WEIGHTS,
    baselines: Sequence[Name] = NAMES,
    tokens: Sequence[int] | None = None,
    bytes: Sequence[int] = BYTES,  # noqa: A002 (as the option is called)
    packed: bool = False,
    best: bool = False,
    fit: SquareFit = "crop",
    max_edge: int = MAX_EDGE,
    lpips: bool = False,
    rfid: bool = False,
    rfid_weights: Path | None = None,
    device: str = "auto",
    workers: int = 1,
    max_image_bytes: int = MAX_BYTES,
    overwrite: bool = False,
    progress: Progress = lambda _total, _error: None,
) -> Report:
    """Measures checkpoints and baselines on images, at several rates.

    Args:
        sources: images: files, folders, globs, WebDataset tars, Parquet files; paths or URLs.
        output: a folder for report.json, images.csv, a plot and sheets of images.
        weights: checkpoints.
        baselines: other codecs, each measured at its best by PSNR in no more bytes.
        tokens: most tokens of an image, for models of any size, instead of ``bytes``.
        bytes: most bytes of the whole file, for models of any size.
        packed: do not entropy-code the token files.
        best: let models of any size try grids of several shapes, see ``Codec.compress``.
        fit: how images become squares, if a checkpoint takes only squares of one size.
        max_edge: larger images are first resized to this many pixels along the longer edge.
        lpips: also measure LPIPS; needs torchvision, and downloads a network.
        rfid: also measure rFID, with the weights of Inception that torch-fidelity or torchmetrics
            have downloaded.
        rfid_weights: also measure rFID, with the published weights of Inception in this file.
        device: where the models run.
        workers: threads that measure.
        max_image_bytes: images of more bytes fail.
        overwrite: replace an existing report.
        progress: called for each image.

    Raises:
        ArgumentError: there is no such baseline.
        EvaluationError: the checkpoints cannot be compared, a package, a baseline or the weights
            of Inception are missing, or no image could be measured.
        OutputError: the output contains a report, is in a source, is in use by another run, or
            cannot be written.
    """
    names, sources = _checked(baselines), names_of(sources)
    output = Path(output) if output else None
    images, records = images_of(sources, max_image_bytes)
    with _writing(output, REPORT_FILES, sources, overwrite) if output else nullcontext():
        if lpips:
            require_lpips()
        points = points_of((Codec.load(name, device) for name in names_of(weights)), tokens, bytes)
        inception = None
        if rfid or rfid_weights:
            inception = load_inception(rfid_weights, points[0].codec.runtime.device)
        means = Means(points, names)
        folder = ReportFolder(output, points, names, images) if output else None
        examples = encoded(records, points, fit, max_edge, packed, workers, best)
        squares = any(point.size for point in points)
        settings = Report(
            compared=True,
            max_edge=max_edge,
            fit=fit if squares else None,
            packed=packed,
            best=best,
        )
        results = measure(examples, points, names, lpips, inception, workers)
        return _run(settings, results, means, folder, images, sources, progress)


def page(
    sources: Source | Sequence[Source],
    output: Source,
    *,
    weights: str | Sequence[str] = (),
    originals: Source | Sequence[Source] = (),
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
    progress: Progress = lambda _total, _error: None,
) -> Report:
    """Writes a web page to compare images.

    It shows images as ``evaluate`` measures them, or token files and token datasets as they are.

    Args:
        sources: images, or token files: files, folders, globs, token datasets.
        output: the folder of the page, whose index.html needs no network.
        weights: checkpoints; for token files, those that are neither bundled nor cached.
        originals: the original images of token files, which have the same names.
        baselines, tokens, bytes, packed, fit: as of ``evaluate``.
        max_edge: larger images are resized to this many pixels along the longer edge.
        limit: show only the first images, this many.
        device, workers, max_image_bytes, overwrite, progress: as of ``evaluate``.

    Raises:
        EvaluationError: as ``evaluate``; or there are sources of both kinds.
        ArgumentError, OutputError: as ``evaluate``.
    """
    output = Path(output)
    sources, weights, originals = names_of(sources), names_of(weights), names_of(originals)
    kinds = {is_tokens(source) for source in sources}
    if len(kinds) > 1:
        raise EvaluationError("images and token files together: make a page of one kind")
    of_tokens = kinds == {True}
    if originals and not of_tokens:
        raise EvaluationError("originals are for token files: images are compared with themselves")
    compared = bool(originals) or not of_tokens
    names = _checked(baselines) if compared else ()
    with _writing(output, PAGE_FILES, [*sources, *originals], overwrite):
        images = None
        examples: Iterator[Example | TokcodecError]
        if of_tokens:
            gathered = gather_tokens(sources, weights, compared, limit, device)
            points, images, cut = gathered.points, len(gathered.files), gathered.cut
            known = named(originals, gathered.files) if originals else None
            examples = decoded(gathered, known, max_edge, workers)
        else:
            found, records = images_of(sources, max_image_bytes)
            images = min(found, limit) if found and limit else found
            cut = found != images
            loaded = (Codec.load(name, device) for name in weights or (DEFAULT_WEIGHTS,))
            points = points_of(loaded, tokens, bytes)
            shown = islice(records, limit)
            examples = encoded(shown, points, fit, max_edge, packed, workers)
        means = Means(points, names)
        settings = Report(
            compared=compared,
            max_edge=max_edge,
            fit=fit if any(point.size for point in points) else None,
            packed=packed,
            cut=cut,
        )
        folder = Page(output, points, names)
        results = measure(examples, points, names, False, None, workers)
        return _run(settings, results, means, folder, images, sources, progress)


def _run(
    settings: Report,
    results: Iterable[Result | TokcodecError],
    means: Means,
    folder: ReportFolder | Page | None,
    images: int | None,
    sources: Sequence[str],
    progress: Progress,
) -> Report:
    """Adds up all results, adds them to ``folder``, and completes the report."""
    for result in results:
        if isinstance(result, TokcodecError):
            means.failed += 1
            progress(images, result)
            continue
        means.add(result)
        if folder:
            folder.add(result)
        progress(images, None)
    if not means.images:
        raise EvaluationError("no image could be measured", name=", ".join(sources))
    report = replace(settings, images=means.images, failed=means.failed, rows=means.rows())
    if folder:
        folder.write(report)
    return report


def _checked(baselines: Sequence[Name]) -> tuple[Name, ...]:
    """The baselines in the order in which they are shown, if everything is installed."""
    if unknown := [name for name in baselines if name not in NAMES]:
        raise ArgumentError(f"{unknown[0]!r} is not a baseline: choose from {', '.join(NAMES)}")
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise EvaluationError(
            f"measuring needs {', '.join(missing)}: pip install 'tokcodec[metrics]'"
        )
    return tuple(name for name in NAMES if name in baselines)


@contextmanager
def _writing(
    folder: Path, files: Iterable[str], sources: Iterable[str], overwrite: bool
) -> Iterator[None]:
    """Makes and locks the folder of a report or a page.

    It may not be in a source, where later runs would read the images in it. It may only contain
    ``files``, given as globs, with ``overwrite``, or if they are those of a run that was stopped.
    """
    refuse_remote(folder)
    refuse_file_name(folder)
    if str(folder) in ("-", "."):
        raise OutputError("is not a folder for the output", name=folder, hint=Hint.OTHER_OUTPUT)
    path = Path(os.path.realpath(folder))
    for source in filter(os.path.isdir, sources):
        if path.is_relative_to(os.path.realpath(source)):
            reason = f"is in the source {source}: later runs would read its images"
            raise OutputError(reason, name=folder, hint=Hint.OTHER_OUTPUT)
    marker = folder / UNFINISHED
    with locked(folder):
        taken = [path.name for pattern in files for path in folder.glob(pattern)]
        if taken and not marker.exists():
            Job(folder, folder, "foreign", f"already contains {taken[0]}").check(overwrite)
        with output_errors(folder):
            marker.touch()
        yield
        marker.unlink(missing_ok=True)
