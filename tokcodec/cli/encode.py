"""``tokcodec encode``."""

import math
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from tokcodec.cli.jobs import STANDARD, Job, plan
from tokcodec.cli.options import (
    CORES,
    MANY,
    WEIGHTS,
    AllowLarge,
    BatchSize,
    Device,
    Dtype,
    Force,
    Json,
    MaxPictureBytes,
    Output,
    Tokens,
    Workers,
    allow_large,
)
from tokcodec.cli.terminal import Tally
from tokcodec.config import DEFAULT_WEIGHTS
from tokcodec.errors import OutputError, PictureError, TokcodecError, TokenFileError
from tokcodec.geometry import Fit
from tokcodec.parallel import map_ahead
from tokcodec.tar import MAX_BYTES

if TYPE_CHECKING:
    from tokcodec.checkpoint import Header
    from tokcodec.prior import Prior
    from tokcodec.sources import Record
    from tokcodec.tokenfile import TokenFile


def encode(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SRC", help=f"Pictures: {MANY} Or - for standard input."),
    ],
    output: Output = None,
    force: Force = False,
    weights: Annotated[
        str,
        typer.Option(
            metavar=WEIGHTS,
            help="The checkpoint: bundled (see tokcodec models), converted, or a published one.",
        ),
    ] = DEFAULT_WEIGHTS,
    fit: Annotated[
        Fit | None,
        typer.Option(
            help="How a picture meets the model's square; the checkpoint's own if not given."
        ),
    ] = None,
    tokens: Tokens = None,
    coded: Annotated[
        bool,
        typer.Option(
            "--coded",
            help="Entropy-code the codes with the checkpoint's prior: smaller files, for whose "
            "codes one needs that checkpoint.",
        ),
    ] = False,
    background: Annotated[
        str, typer.Option(metavar="COLOUR", help="Behind transparent parts: a name or #rrggbb.")
    ] = "white",
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_size: BatchSize = None,
    workers: Workers = CORES,
    allow_large_pictures: AllowLarge = False,
    max_picture_bytes: MaxPictureBytes = MAX_BYTES,
    as_json: Json = False,
) -> None:
    """Turn pictures into token files.

    Without -o, a.jpg becomes a.jpg.tok beside it; what is in tars and Parquet files or on URLs
    needs a folder for -o: some.tar/a.jpg.tok, file.parquet/0.tok. Pictures whose token file is
    whole, newer and of the same model and fit are skipped; other existing files are kept unless -f
    is given.
    """
    from tokcodec.checkpoint import check_fit, check_tokens, find, read_prior
    from tokcodec.tokenfile import SUFFIX

    if allow_large_pictures:
        allow_large()
    if as_json and (output == STANDARD or (sources == [STANDARD] and output is None)):
        raise typer.BadParameter("standard output cannot take both tokens and JSON")
    colour = colour_of(background)
    count, jobs = plan(sources, output, lambda name: name + SUFFIX, max_bytes=max_picture_bytes)
    header = find(weights)
    kept = check_tokens(header, tokens)
    prior = read_prior(header) if coded else None
    fit = fit or header.config.default_fit
    check_fit(header, fit)
    with Tally("encode", count, as_json) as tally:
        begun: deque[Job] = deque()

        def todo() -> "Iterator[Record]":
            for job, record in jobs:
                if job.problem:
                    tally.failed(job, f"{job}: {job.problem}")
                elif force or not job.is_there():
                    begun.append(job)
                    yield record
                elif (reason := _stale(job, record, header, fit, kept, prior)) is None:
                    tally.skipped(job)
                else:
                    tally.failed(job, f"{job.target}: {reason}; -f overwrites it")

        records = tally.weighed(todo())
        if first := next(records, None):
            results: Iterable[TokenFile | TokcodecError]
            if count == 1:
                how = device, batch_size, dtype
                results = [_alone(header, first, fit, colour, tokens, prior, *how)]
            else:
                from tokcodec.codec import Codec

                codec = Codec.load(header, device, batch_size, dtype)
                images = chain([first], records)
                results = codec.compress_stream(images, fit, colour, tokens, coded, workers)
            pairs = ((begun.popleft(), result) for result in results)
            for job, written in map_ahead(_write, pairs, workers, 4 * workers, at_once=True):
                if isinstance(written, TokcodecError):
                    tally.failed(job, str(written))
                    continue
                what = f"{written.file_bytes} bytes, {written.num_codes} codes of {header.name}"
                tally.done(job, written.file_bytes, what)
    tally.close()


def _alone(
    header: "Header",
    record: "Record",
    fit: Fit,
    background: tuple[int, int, int],
    tokens: int | None,
    prior: "Prior | None",
    device: str,
    batch_size: int | None,
    dtype: Dtype,
) -> "TokenFile | TokcodecError":
    """The only picture, without torch where that is the same."""
    from tokcodec.model import plain
    from tokcodec.picture import read_squares
    from tokcodec.tokenfile import TokenFile

    config = header.config
    try:
        picture = read_squares(record, config.preprocessing, fit, background, config.multiple)
    except PictureError as error:
        return error
    exact = device != "cuda" and dtype == "float32"
    codes = plain.encode(header, picture.pixels) if exact else None
    if codes is None:
        from tokcodec.codec import Codec

        codes = Codec.load(header, device, batch_size, dtype).encode_squares(picture.pixels)
    kept = codes[:, : tokens if config.prefix_codes else None]
    return TokenFile.of(header, kept, picture.width, picture.height, fit, prior)


def _write(
    pair: "tuple[Job, TokenFile | TokcodecError]",
) -> "tuple[Job, TokenFile | TokcodecError]":
    job, result = pair
    if isinstance(result, TokcodecError):
        return pair
    try:
        if job.target:
            result.save(job.target)
        else:
            sys.stdout.buffer.write(result.to_bytes())
    except OutputError as error:
        return job, error
    return pair


def _stale(
    job: Job, record: "Record", header: "Header", fit: Fit, tokens: int, prior: "Prior | None"
) -> str | None:
    """Why the token file that is there is not what this run would write; None if it is."""
    from tokcodec.remote import is_remote
    from tokcodec.sources import ABSENT
    from tokcodec.tokenfile import TokenFile, check_codes

    assert job.target
    try:
        there = TokenFile.load(job.target)
        if there.code_id.hex() != header.code_id[:8]:
            return "is there, of another model"
        if there.fit != fit:
            return f"is there, with fit {there.fit}"
        placement, shape = header.config.place(fit, there.width, there.height)
        kept = tokens if header.config.prefix_codes else math.prod(shape)
        if there.num_codes != placement.num_squares * kept:
            return f"is there, with {there.num_codes} codes"
        codes = there.codes_with(header)
        check_codes(codes, header.config.quantizer.codebook_size)
    except TokenFileError as error:
        reason = str(error).removeprefix(f"{job.target}: ")
        return "is there, unreadable: " + reason.partition("; ")[0]  # and not how to decode it
    again = TokenFile.of(header, codes, there.width, there.height, fit, prior)
    if there.entropy_coded != again.entropy_coded:
        return "is there, entropy-coded" if there.entropy_coded else "is there, not entropy-coded"
    stamp = record.stamp
    if stamp.mtime == ABSENT:
        return "is there already"
    if not is_remote(stamp.path) and job.target.stat().st_mtime_ns < int(stamp.mtime):
        return "is there, older than the picture"
    return None


def colour_of(name: str) -> tuple[int, int, int]:
    """A colour as the command line names it."""
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--background") from error
    return red, green, blue
