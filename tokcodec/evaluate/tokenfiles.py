"""A page of token files and rows of token datasets: gathered by image, and decoded."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby

from tokcodec.batch.jobs import images
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
from tokcodec.evaluate.packets import join_packets, name_of_image
from tokcodec.evaluate.points import Example, Own, Point, read_image, require_size, within
from tokcodec.inputs.listing import expand, gather
from tokcodec.inputs.records import Record, printable
from tokcodec.io.files import SUFFIX
from tokcodec.tokenfile import TokenFile

_BATCH = 16


@dataclass(frozen=True)
class Gathered:
    """Token files of several checkpoints or folders, by image.

    Attributes:
        points: a point for each checkpoint and folder.
        files: by the name of the image and the index of the point.
        problems: the errors of token files that cannot be shown.
        cut: whether there are more images than the limit.
    """

    points: tuple[Point, ...]
    files: Mapping[str, Mapping[int, TokenFile]]
    problems: Sequence[TokcodecError]
    cut: bool


def is_tokens(source: str) -> bool:
    """Whether a source has token files or is a token dataset, rather than has images."""
    if is_dataset(source):
        return holds_tokens(source)
    found = list(expand(source)) or list(expand(source, {SUFFIX}))
    return bool(found) and all(stamp.path.endswith(SUFFIX) for stamp in found)


def gather_tokens(
    sources: Sequence[str], weights: Sequence[str], compared: bool, limit: int | None, device: str
) -> Gathered:
    """Groups token files by image, according to their names, and by checkpoint and folder.

    Args:
        sources: token files, folders, globs, token datasets.
        weights: checkpoints that are neither bundled nor cached.
        compared: whether there are originals to compare with.
        limit: most images; None for all.
        device: where the models run.

    Raises:
        DatasetError: a dataset cannot be read, or contains crops although there are originals.
        EvaluationError: there are no token files.
    """
    given = [find(name) for name in weights]
    headers: dict[tuple[str, str], Header] = {}  # by checkpoint and folder, a point each
    files: dict[str, dict[int, TokenFile]] = {}
    problems: list[TokcodecError] = []
    cut = False
    read = chain.from_iterable(_read(source, compared) for source in sources)
    for (name, folder), found in join_packets(read):
        name = name_of_image(name, found)
        if name not in files and len(files) == limit:
            cut = True
            break
        try:
            if isinstance(found, TokcodecError):
                raise found
            if found.packets and not found.packets.is_complete:
                raise TokenFileError("incomplete: some of its packets are missing")
            header = _header_of(found, given)
            key = header.checkpoint_id, folder
            headers.setdefault(key, header)
            place = list(headers).index(key)
            if place in files.get(name, {}):
                raise TokenFileError("there is another token file of this name and model")
        except TokcodecError as error:
            problems.append(error.named(name))
            continue
        files.setdefault(name, {})[place] = found
    if not files:
        raise (
            problems[0] if problems else EvaluationError("no token files", name=", ".join(sources))
        )
    codecs: dict[str, Codec] = {}
    points = []
    for (own, folder), header in headers.items():
        codec = codecs.get(own) or codecs.setdefault(own, Codec.load(header, device))
        folders = [other for checkpoint, other in headers if checkpoint == own]
        common = os.path.commonprefix(folders).rfind("/") + 1  # noqa: RUF071 (also of URLs)
        variant = printable(folder[common:]) if len(folders) > 1 else ""
        points.append(Point(codec, variant=variant))
    return Gathered(tuple(points), files, problems, cut)


def _read(
    source: str, compared: bool
) -> Iterator[tuple[tuple[str, str], TokenFile | TokcodecError]]:
    """The name of each token file and its folder or dataset; and the token file or its error."""
    if is_dataset(source):
        from tokcodec.dataset.reader import open_dataset, token_files

        dataset = open_dataset(source)
        views = dataset.metadata.run["views"]
        if compared and views not in ("one", "hflip"):
            raise DatasetError(f"contains crops ({views}): leave out the originals", name=source)
        yield from (((name, source), row) for name, row in token_files(dataset))
        return
    for batch in gather(expand(source, {SUFFIX}), kinds={SUFFIX}):
        for record in batch.records():
            name = record.key.removesuffix(SUFFIX), record.stamp.base
            try:
                yield name, TokenFile.from_bytes(record.read())
            except OSError as error:
                yield name, TokenFileError(f"cannot read: {error.strerror or error}")
            except TokenFileError as error:
                yield name, error


def _header_of(file: TokenFile, given: Sequence[Header]) -> Header:
    """The checkpoint that decodes a token file: a given, a bundled or a cached one."""
    for header in given:
        if header.decodes(file.model_id):
            return header
    if found := find_by_model_id(file.model_id):
        return found
    raise TokenFileError(f"its tokens are of model {file.model_id.hex()}", hint=Hint.NAME_WEIGHTS)


def decoded(
    gathered: Gathered, originals: Mapping[str, Record] | None, max_edge: int, workers: int
) -> Iterator[Example | TokcodecError]:
    """Decodes token files; gives the error of an image that cannot be shown.

    Args:
        gathered: the token files.
        originals: the original images, by name; None if there are none.
        max_edge: larger images are shown at this many pixels along the longer edge.
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
    """Width and height at which an image is shown that has these token files, by their points."""
    found = {
        points[place].codec.config.place(file.fit, (file.width, file.height))[0].output
        for place, file in files.items()
    }
    if len(found) > 1:
        sizes = " and ".join(sorted(f"{width}x{height}" for width, height in found))
        raise TokenFileError(f"its token files are of images of different sizes: {sizes}")
    return within(found.pop(), max_edge)


def _example(
    name: str,
    shape: Size,
    own: Own,
    points: Sequence[Point],
    originals: Mapping[str, Record] | None,
    max_edge: int,
) -> Example | TokcodecError:
    """An example; its original is resized to the shape of the decoded images."""
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
    """The images whose key, or path below their source, is one of these names."""
    return {
        name: record
        for record in images(sources)[1]
        for name in (printable(record.below), record.key)
        if name in names
    }
