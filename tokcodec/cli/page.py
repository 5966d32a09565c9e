"""``tokcodec page``."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tokcodec.cli.evaluate import (
    EVERY,
    UNFINISHED,
    Against,
    measure,
    parse_names,
    prepare,
    require_packages,
)
from tokcodec.cli.options import (
    CORES,
    WEIGHTS,
    AllowLarge,
    Device,
    Force,
    MaxImageBytes,
    Workers,
    allow_large,
)
from tokcodec.cli.terminal import note, require_pyarrow
from tokcodec.dataset.folder import holds_tokens, is_dataset
from tokcodec.errors import DatasetError, EvaluationError, TokcodecError, TokenFileError
from tokcodec.io.tar import MAX_BYTES

if TYPE_CHECKING:
    from tokcodec.checkpoint import Header
    from tokcodec.config.geometry import Fit
    from tokcodec.evaluate.baselines import Name
    from tokcodec.evaluate.run import Evaluator, Example
    from tokcodec.inputs.records import Record
    from tokcodec.tokenfile import TokenFile

    Prepared = tuple[Evaluator, Iterable[Example | TokcodecError], int | None]


def page(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC",
            help="Images, as for evaluate; or token files: files, folders, globs; or token "
            "datasets.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FOLDER", help="Gets index.html and images."),
    ],
    weights: Annotated[
        list[str] | None,
        typer.Option(
            **WEIGHTS,
            help="A checkpoint; again for more. If not given, every bundled one, or those that "
            "fit the token files.",
        ),
    ] = None,
    originals: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SRC", help="The images that token files are of, to compare with; also again."
        ),
    ] = None,
    against: Against = EVERY,
    fit: Annotated[
        Literal["crop", "stretch", "pad"] | None,
        typer.Option(help="From an image to the square; crop if not given."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Show so many images, the first.")] = 1000,
    device: Device = "auto",
    workers: Workers = CORES,
    allow: AllowLarge = False,
    max_image_bytes: MaxImageBytes = MAX_BYTES,
    force: Force = False,
) -> None:
    """Write a page to compare images on.

    Every image, what checkpoints make of it, and what other codecs do in no more bytes.

    Images are encoded and measured as evaluate does it. Token files, and rows of token datasets,
    are shown as they are, in the fit that they have; measured, and beside other codecs, where
    --originals are named, by the names of the token files without .tok, or the rows' keys. Of two
    token files of one name, by different checkpoints, one image is made. FOLDER/index.html needs
    no network, and asks for none.
    """
    from tokcodec.evaluate.page import FILES, INDEX, Page

    of_tokens = {_holds_tokens(source) for source in sources}
    if len(of_tokens) > 1:
        raise typer.BadParameter("images and token files: take one kind", param_hint="SRC")
    (tokens,) = of_tokens
    if originals and not tokens:
        raise typer.BadParameter("images are their own originals", param_hint="--originals")
    if fit and tokens:
        raise typer.BadParameter("token files have theirs", param_hint="--fit")
    compared = bool(originals) or not tokens
    if compared:
        require_packages()
    else:
        note("nothing is measured, and no other codec shown, without --originals")
    baselines = parse_names(against) if compared else ()
    if allow:
        allow_large()
    prepare(output, FILES, force)

    if tokens:
        evaluator, examples, count = _of_tokens(
            sources, weights or [], originals, baselines, limit, device
        )
    else:
        from tokcodec.batch.jobs import images

        found = images(sources, max_image_bytes)
        evaluator, examples, count = _of_images(
            found, weights, baselines, fit or "crop", limit, device
        )
    made = Page(output, evaluator.points, baselines)
    measure(evaluator, examples, workers, count, sources, made.add)
    made.write(evaluator.evaluation())
    (output / UNFINISHED).unlink()
    note(f"{evaluator.images} images in {output / INDEX}")
    if evaluator.failed:
        raise typer.Exit(3)


def _of_images(
    found: "tuple[int | None, Iterator[Record]]",
    weights: list[str] | None,
    baselines: "tuple[Name, ...]",
    fit: Literal["crop", "stretch", "pad"],
    limit: int,
    device: str,
) -> "Prepared":
    from tokcodec.checkpoint import bundled
    from tokcodec.codec import Codec
    from tokcodec.evaluate.run import Evaluator, compared_size, encoded, points_of

    count, records = found
    if count and count > limit:
        note(f"the first {limit:,} of {count:,} images; --limit for more")
    points = points_of(Codec.load(name, device) for name in weights or bundled())
    size = compared_size(points)
    examples = encoded(islice(records, limit), points, fit, size)
    return Evaluator(points, baselines, fit, size), examples, count and min(count, limit)


def _of_tokens(
    sources: list[str],
    weights: list[str],
    originals: list[str] | None,
    baselines: "tuple[Name, ...]",
    limit: int,
    device: str,
) -> "Prepared":
    """Files are gathered to images by name, and to points by model and number of tokens."""
    from tokcodec.checkpoint import find
    from tokcodec.codec import Codec
    from tokcodec.evaluate.run import Evaluator, Point, compared_size, decoded

    given = [find(name) for name in weights]
    codecs: dict[str, Codec] = {}
    places: dict[tuple[str, int], int] = {}
    entropy_coded: set[tuple[str, int]] = set()
    named: dict[str, dict[int, TokenFile]] = {}
    problems: list[TokcodecError] = []
    fits: set[Fit] = set()
    cut = False
    for name, found in chain.from_iterable(
        islice(_token_files(source, bool(originals)), limit + 1) for source in sources
    ):
        if name not in named and len(named) == limit:
            cut = True
            continue
        try:
            file, header = _usable(found, given)
            key = header.checkpoint_id, file.num_tokens
            place = places.setdefault(key, len(places))
            if place in named.get(name, {}):
                raise TokenFileError("a second one of this name and model")
        except TokcodecError as error:
            problems.append(TokenFileError(f"{name}: {error}"))
            continue
        if header.checkpoint_id not in codecs:
            codecs[header.checkpoint_id] = Codec.load(header, device)
        entropy_coded |= {key} if file.entropy_coded else set()  # those that it makes shorter
        named.setdefault(name, {})[place] = file
        fits.add(file.fit)
    if cut:
        note(f"the first {limit:,} images; --limit for more")
    if len(fits) > 1:
        raise EvaluationError(f"token files of several fits, {', '.join(sorted(fits))}: take one")
    if not fits:
        raise problems[0] if problems else EvaluationError(f"{', '.join(sources)}: no token files")
    (fit,) = fits
    points = [Point(codecs[key[0]], key[1], key in entropy_coded) for key in places]
    size = compared_size(points) if originals else None
    known = _named(originals, named) if originals else None
    examples = chain(problems, decoded(named.items(), points, fit, known))
    return Evaluator(points, baselines, fit, size), examples, len(named)


def _usable(
    file: "TokenFile | TokcodecError", given: "Sequence[Header]"
) -> "tuple[TokenFile, Header]":
    """A token file, and the checkpoint that decodes it: a given, a bundled or a cached one.

    Raises:
        TokcodecError: there is none; the file is of several tiles; or the error that is given.
    """
    from tokcodec.checkpoint import find_by_model_id

    if isinstance(file, TokcodecError):
        raise file
    if file.fit in ("tile", "native"):
        raise TokenFileError(f"its fit is {file.fit}, and a page shows single tiles: decode it")
    fitting = (header for header in given if header.decodes(file.model_id))
    header = next(fitting, None) or find_by_model_id(file.model_id)
    if header is None:
        model = file.model_id.hex()
        raise TokenFileError(f"its tokens are of model {model}: name its checkpoint by --weights")
    return file, header


def _holds_tokens(source: str) -> bool:
    from tokcodec.inputs.listing import expand
    from tokcodec.tokenfile import SUFFIX

    if is_dataset(source):
        require_pyarrow()
        return holds_tokens(source)
    found = list(expand(source)) or list(expand(source, {SUFFIX}))
    return bool(found) and all(stamp.path.endswith(SUFFIX) for stamp in found)


def _token_files(source: str, compared: bool) -> "Iterator[tuple[str, TokenFile | TokcodecError]]":
    """An image's name, and its token file, or what is wrong with it."""
    from tokcodec.inputs.listing import expand, gather
    from tokcodec.tokenfile import SUFFIX, TokenFile

    if is_dataset(source):
        from tokcodec.dataset.reader import open_dataset, token_files

        dataset = open_dataset(source)
        if compared and dataset.metadata.run["views"] == "ten-crop":
            raise DatasetError(f"{source}: ten crops an image: leave --originals out")
        yield from token_files(dataset)
        return
    for batch in gather(expand(source, {SUFFIX}), kinds={SUFFIX}):
        for record in batch.records():
            name = record.key.removesuffix(SUFFIX)
            try:
                yield name, TokenFile.from_bytes(record.read())
            except OSError as error:
                yield name, TokenFileError(f"cannot read: {error.strerror or error}")
            except TokenFileError as error:
                yield name, error


def _named(sources: list[str], names: Collection[str]) -> "dict[str, Record]":
    """Those images that have one of these names, as keys or as paths below their source."""
    from tokcodec.batch.jobs import images
    from tokcodec.inputs.records import printable

    _, records = images(sources)
    return {
        name: record
        for record in records
        for name in (printable(record.below), record.key)
        if name in names
    }
