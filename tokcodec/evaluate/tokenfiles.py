"""Token files and rows of token datasets, as examples of a page."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby

from tokcodec.checkpoint import Header, find, find_by_model_id
from tokcodec.codec import Codec
from tokcodec.config.geometry import Size
from tokcodec.dataset.folder import holds_tokens, is_dataset
from tokcodec.errors import (
    DatasetError,
    EvaluationError,
    Hint,
    ImageError,
    TokcodecError,
    TokenFileError,
)
from tokcodec.evaluate.points import (
    Example,
    Own,
    Point,
    read_image,
    require_size,
    within,
)
from tokcodec.inputs.listing import expand, gather, list_inputs
from tokcodec.inputs.records import Record, printable
from tokcodec.io.files import SUFFIX
from tokcodec.tokenfile import TokenFile

_BATCH = 16


@dataclass(frozen=True)
class Gathered:
    """Token files of several checkpoints or folders, by the images that they are of.

    Attributes:
        points: a checkpoint and a folder each.
        files: by the name of the image and the index of the point.
        problems: of token files that cannot be shown.
        cut: whether there are more images than the limit.
    """

    points: tuple[Point, ...]
    files: Mapping[str, Mapping[int, TokenFile]]
    problems: Sequence[TokcodecError]
    cut: bool


def is_tokens(source: str) -> bool:
    """Whether a source is of token files or a token dataset, rather than of images."""
    if is_dataset(source):
        return holds_tokens(source)
    found = list(expand(source)) or list(expand(source, {SUFFIX}))
    return bool(found) and all(stamp.path.endswith(SUFFIX) for stamp in found)


def gather_tokens(
    sources: Sequence[str], weights: Sequence[str], compared: bool, limit: int | None, device: str
) -> Gathered:
    """Gathers token files to images by their names, and to points by checkpoint and folder.

    Args:
        sources: token files, folders, globs, token datasets.
        weights: checkpoints that may be neither bundled nor cached.
        compared: whether there are originals to compare with.
        limit: most images; None for all.
        device: where the models run.

    Raises:
        DatasetError: a dataset cannot be read, or holds ten crops of an image where one original
            is to be compared.
        EvaluationError: there are no token files.
    """
    given = [find(name) for name in weights]
    headers: dict[tuple[str, str], Header] = {}  # by checkpoint and folder: the points
    places: dict[tuple[str, str], int] = {}
    files: dict[str, dict[int, TokenFile]] = {}
    problems: list[TokcodecError] = []
    cut = False
    for name, folder, found in chain.from_iterable(_read(s, compared) for s in sources):
        if name not in files and len(files) == limit:
            cut = True
            break
        try:
            file, header = _usable(found, given)
            key = header.checkpoint_id, folder
            place = places.setdefault(key, len(places))
            headers[key] = header
            if place in files.get(name, {}):
                raise TokenFileError("there is another token file of this name and model")
        except TokcodecError as error:
            problems.append(error.named(name))
            continue
        files.setdefault(name, {})[place] = file
    if not files:
        raise (
            problems[0] if problems else EvaluationError("no token files", name=", ".join(sources))
        )
    codecs = {header.checkpoint_id: header for header in headers.values()}
    loaded = {own: Codec.load(header, device) for own, header in codecs.items()}
    points = []
    for own, folder in places:
        folders = [other for checkpoint, other in places if checkpoint == own]
        common = os.path.commonprefix(folders).rfind("/") + 1  # noqa: RUF071 (also of URLs)
        variant = printable(folder[common:]) if len(folders) > 1 else ""
        points.append(Point(loaded[own], variant=variant))
    return Gathered(tuple(points), files, problems, cut)


def _read(source: str, compared: bool) -> Iterator[tuple[str, str, TokenFile | TokcodecError]]:
    """The name of an image, the folder or dataset, and the token file or what is wrong with it."""
    if is_dataset(source):
        from tokcodec.dataset.reader import open_dataset, token_files

        dataset = open_dataset(source)
        views = dataset.metadata.run["views"]
        if compared and views not in ("one", "hflip"):
            raise DatasetError(f"holds crops ({views}): leave out the originals", name=source)
        yield from ((name, source, row) for name, row in token_files(dataset))
        return
    for batch in gather(expand(source, {SUFFIX}), kinds={SUFFIX}):
        for record in batch.records():
            name, folder = record.key.removesuffix(SUFFIX), record.stamp.base
            try:
                yield name, folder, TokenFile.from_bytes(record.read())
            except OSError as error:
                yield name, folder, TokenFileError(f"cannot read: {error.strerror or error}")
            except TokenFileError as error:
                yield name, folder, error


def _usable(file: TokenFile | TokcodecError, given: Sequence[Header]) -> tuple[TokenFile, Header]:
    """A token file, and the checkpoint that decodes it: a given, a bundled or a cached one.

    Raises:
        TokcodecError: there is none; or the error that is given.
    """
    if isinstance(file, TokcodecError):
        raise file
    fitting = (header for header in given if header.decodes(file.model_id))
    header = next(fitting, None) or find_by_model_id(file.model_id)
    if header is None:
        raise TokenFileError(
            f"its tokens are of model {file.model_id.hex()}", hint=Hint.NAME_WEIGHTS
        )
    return file, header


def decoded(
    gathered: Gathered, originals: Mapping[str, Record] | None, max_edge: int, workers: int
) -> Iterator[Example | TokcodecError]:
    """Decodes token files; for an image with which something is wrong, gives the error.

    Args:
        gathered: the token files.
        originals: the images, by their names; None if nothing is compared.
        max_edge: pixels of the longer edge of images that are shown.
        workers: threads.
    """
    yield from gathered.problems
    names = list(gathered.files)
    for start in range(0, len(names), _BATCH):
        batch = {name: gathered.files[name] for name in names[start : start + _BATCH]}
        failed: dict[str, TokcodecError] = {}
        shapes: dict[str, Size] = {}
        for name, files in batch.items():
            try:
                shapes[name] = _shape(files, gathered.points, max_edge)
            except (TokenFileError, ImageError) as error:
                failed[name] = error
        own: dict[str, Own] = {name: {} for name in shapes}
        for place, point in enumerate(gathered.points):
            there = sorted(
                (name for name in shapes if place in batch[name]), key=shapes.__getitem__
            )
            for size, same in groupby(there, key=shapes.__getitem__):
                items = [(name, batch[name][place]) for name in same]
                for name, image in point.codec.decompress_stream(items, size=size, workers=workers):
                    if isinstance(image, TokcodecError):
                        failed[name] = image
                    else:
                        own[name][place] = batch[name][place], image
        for name in batch:
            if name in failed:
                yield failed[name].named(name)
            else:
                yield _example(name, shapes[name], own[name], gathered.points, originals, max_edge)


def _shape(files: Mapping[int, TokenFile], points: Sequence[Point], max_edge: int) -> Size:
    """Width and height to show an image at, of which there are these token files, by their points.

    Raises:
        TokenFileError: they are of images of different sizes.
        ImageError: an image is too large for its fit.
    """
    found = {
        points[place].codec.config.place(file.fit, (file.width, file.height))[0].output
        for place, file in files.items()
    }
    if len(found) > 1:
        sizes = " and ".join(sorted(f"{width}x{height}" for width, height in found))
        raise TokenFileError(f"its token files are of images of different sizes, {sizes}")
    return within(found.pop(), max_edge)


def _example(
    name: str,
    shape: Size,
    own: Own,
    points: Sequence[Point],
    originals: Mapping[str, Record] | None,
    max_edge: int,
) -> Example | TokcodecError:
    """An example; with originals, these are brought to the shape of the decoded images."""
    if originals is None:
        return Example(name, {}, shape, own)
    if name not in originals:
        return ImageError("its image is not among the originals", name=name)
    crops = [
        points[place].codec.config.preprocessing.crop_scale
        for place, (file, _) in own.items()
        if file.fit == "crop"
    ]
    square = shape[0] if crops else None
    try:
        require_size(name, shape)
        image = read_image(originals[name], "crop", square, max_edge, *crops[:1])
    except ImageError as error:
        return error
    if image.size != shape:
        return TokenFileError("its original is an image of another size", name=name)
    return Example(name, {None: image}, shape, own)


def named(sources: Sequence[str], names: Collection[str]) -> dict[str, Record]:
    """The images that have one of these names, as keys or as paths below their source."""
    records = chain.from_iterable(batch.records() for batch in list_inputs(sources))
    return {
        name: record
        for record in records
        for name in (printable(record.below), record.key)
        if name in names
    }
