"""``tokcodec decode``."""

import functools
import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tokcodec.cli.jobs import STANDARD, Job, StandardInput, plan
from tokcodec.cli.options import (
    CORES,
    WEIGHTS,
    AllowLarge,
    BatchSize,
    Device,
    Force,
    Json,
    Output,
    Sources,
    Tokens,
    Workers,
    allow_large,
)
from tokcodec.cli.terminal import Tally
from tokcodec.errors import CheckpointError, TokcodecError, TokenFileError

if TYPE_CHECKING:
    from PIL import Image

    from tokcodec.checkpoint import Header
    from tokcodec.codec import Codec
    from tokcodec.tokenfile import TokenFile


def decode(
    sources: Sources,
    output: Output = None,
    force: Force = False,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar=WEIGHTS,
            help="The checkpoint; the bundled or cached one that fits each file if not given.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="WxH|N", help="Size of the picture, or of its longer edge."),
    ] = None,
    tokens: Tokens = None,
    device: Device = "auto",
    batch_size: BatchSize = 16,
    workers: Workers = CORES,
    allow_large_pictures: AllowLarge = False,
    as_json: Json = False,
) -> None:
    """Turn token files back into pictures, at their original size.

    Without -o, a.jpg.tok becomes a.jpg.png beside it. A file named with -o takes the format of
    its extension; folders and standard output get PNG.
    """
    from tokcodec.checkpoint import check_tokens, find_by_code_id
    from tokcodec.convert.weights import find
    from tokcodec.tokenfile import SUFFIX

    if allow_large_pictures:
        allow_large()
    if as_json and (output == STANDARD or (sources == [STANDARD] and output is None)):
        raise typer.BadParameter("standard output cannot take both a picture and JSON")
    wanted = _parse_size(size)
    jobs = plan(sources, output, lambda: {SUFFIX}, lambda name: name.removesuffix(SUFFIX) + ".png")
    fixed = find(weights) if weights else None
    fitting = functools.cache(find_by_code_id)
    with Tally("decode", len(jobs), as_json) as tally:
        # A folder may hold files of several models; each is loaded once.
        groups: dict[str, tuple[Header, list[tuple[Job, TokenFile]]]] = {}
        for job in jobs:
            try:
                if job.target and job.target.exists() and not force:
                    raise TokcodecError(f"{job.target}: is there already; -f overwrites it")
                token_file = _read(job)
                header = fixed or fitting(token_file.code_id)
                if header is None:
                    raise TokenFileError(
                        f"{job}: its codes are of model {token_file.code_id.hex()}, which is "
                        "neither bundled nor cached; name its checkpoint with --weights"
                    )
                try:
                    check_tokens(header, tokens)
                except CheckpointError as error:
                    raise CheckpointError(f"{job}: {error}") from error
            except TokcodecError as error:
                tally.failed(job, str(error))
            else:
                group = groups.setdefault(header.checkpoint_id, (header, []))
                group[1].append((job, token_file))
        for header, entries in groups.values():
            from tokcodec.codec import Codec

            codec = Codec.load(header, device, batch_size)
            _decode_group(codec, entries, wanted, tokens, workers, tally)
    tally.close()


def _decode_group(
    codec: "Codec",
    entries: "list[tuple[Job, TokenFile]]",
    wanted: tuple[int, int] | int | None,
    tokens: int | None,
    workers: int,
    tally: Tally,
) -> None:
    from tokcodec.parallel import map_ahead
    from tokcodec.picture import save

    items = ((token_file, _output_size(token_file, wanted)) for _, token_file in entries)
    pairs = zip((job for job, _ in entries), codec.decompress_stream(items, tokens), strict=True)

    def finish(pair: tuple[Job, "Image.Image | TokcodecError"]) -> tuple[Job, int | TokcodecError]:
        job, image = pair
        if isinstance(image, TokcodecError):
            return job, type(image)(f"{job}: {image}")
        return job, save(image, job.target or sys.stdout.buffer)

    for job, result in map_ahead(finish, pairs, workers, 2 * workers):
        if isinstance(result, TokcodecError):
            tally.failed(job, str(result))
        else:
            tally.done(job, result, f"{result:,} bytes, decoded by {codec.header.name}")


def _read(job: Job) -> "TokenFile":
    from tokcodec.tokenfile import TokenFile

    if job.source:
        return TokenFile.load(job.source)
    try:
        return TokenFile.from_bytes(StandardInput().getvalue())
    except TokenFileError as error:
        raise TokenFileError(f"{job}: {error}") from error


def _parse_size(text: str | None) -> tuple[int, int] | int | None:
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text)
    if not match:
        raise typer.BadParameter(f"{text!r} is neither WxH nor N, in pixels", param_hint="--size")
    return (int(match[1]), int(match[2])) if match[2] else int(match[1])


def _output_size(
    token_file: "TokenFile", wanted: tuple[int, int] | int | None
) -> tuple[int, int] | None:
    from tokcodec.geometry import place

    if not isinstance(wanted, int):
        return wanted
    if token_file.fit == "crop":
        return wanted, wanted
    # The rule of the pad fit: the longer edge as wanted, the other rounded half up.
    return place("pad", token_file.width, token_file.height, wanted).resized
