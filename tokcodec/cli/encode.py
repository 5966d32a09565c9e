"""``tokcodec encode``."""

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Annotated

import typer

from tokcodec.cli.jobs import (
    DECODE,
    Job,
    file_extension,
    is_standard,
    plan,
    refuse_others,
    refuse_terminal,
    report_dry_run,
)
from tokcodec.cli.options import (
    CORES,
    MANY,
    WEIGHTS,
    AllowLarge,
    BatchSize,
    Device,
    DryRun,
    Dtype,
    Exclude,
    Follow,
    Force,
    Include,
    Json,
    MaxImageBytes,
    Output,
    Tokens,
    Workers,
    allow_large,
    load_codec,
)
from tokcodec.cli.terminal import Tally, write_out
from tokcodec.config import DEFAULT_WEIGHTS
from tokcodec.config.geometry import Fit
from tokcodec.errors import ImageError, OutputError, TokcodecError, TokenFileError
from tokcodec.io.files import SUFFIX
from tokcodec.io.tar import MAX_BYTES
from tokcodec.parallel import map_ahead

if TYPE_CHECKING:
    from pathlib import Path

    from tokcodec.checkpoint import Header
    from tokcodec.codec import Codec
    from tokcodec.inputs.records import Record
    from tokcodec.tokenfile import TokenFile

_CHUNK = 64  # images that are held while checkpoints are tried on them


def encode(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SRC", help=f"Images: {MANY} Or - for standard input."),
    ],
    output: Output = None,
    dry_run: DryRun = False,
    force: Force = False,
    weights: Annotated[
        str | None,
        typer.Option(
            **WEIGHTS,
            help="The checkpoint: bundled (see tokcodec models), converted, or a published one; "
            f"{DEFAULT_WEIGHTS} if not given.",
        ),
    ] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The best image in so many bytes (with --text, characters): the bundled "
            "checkpoint of most tokens that fits, packed or entropy-coded.",
        ),
    ] = None,
    text: Annotated[
        bool,
        typer.Option("--text", help="Write base64url, to be pasted into a message."),
    ] = False,
    fit: Annotated[
        Fit | None,
        typer.Option(
            help="How an image meets the model's square; the checkpoint's own if not given."
        ),
    ] = None,
    tokens: Tokens = None,
    entropy_coded: Annotated[
        bool,
        typer.Option(
            "--entropy-coded",
            help="Entropy-code the tokens with the checkpoint's prior: smaller files, which only "
            "this checkpoint decodes.",
        ),
    ] = False,
    background: Annotated[
        str, typer.Option(metavar="COLOUR", help="Behind transparent parts: a name or #rrggbb.")
    ] = "white",
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_size: BatchSize = None,
    workers: Workers = CORES,
    include: Include = None,
    exclude: Exclude = None,
    follow: Follow = False,
    allow_large_images: AllowLarge = False,
    max_image_bytes: MaxImageBytes = MAX_BYTES,
    as_json: Json = False,
) -> None:
    """Turn images into token files.

    Without -o, a.jpg becomes a.jpg.tok beside it; what is in tars and Parquet files or on URLs
    needs a folder for -o: some.tar/a.jpg.tok, file.parquet/0.tok. Images whose token file is
    whole, newer and of the same model and fit are skipped; other existing files are kept unless -f
    is given. In folders, hidden files and images that decode made are left out.
    """
    from tokcodec.checkpoint import bundled, check_fit, check_token_count, find, read_prior
    from tokcodec.image import extensions
    from tokcodec.inputs.listing import Selection

    if allow_large_images:
        allow_large()
    if as_json and is_standard(sources, output):
        raise typer.BadParameter("standard output cannot take both tokens and JSON")
    if not text:
        refuse_terminal(sources, output)
    colour = colour_of(background)
    refuse_others(sources, {SUFFIX}, DECODE)
    if file_extension(output) in extensions():
        raise typer.BadParameter(
            f"{output} is the name of an image; token files end in {SUFFIX}", param_hint="-o"
        )
    count, jobs = plan(
        sources,
        output,
        lambda name: name + SUFFIX,
        max_bytes=max_image_bytes,
        selection=Selection(include or (), exclude or (), follow),
        unread=dry_run,
    )
    if dry_run:
        report_dry_run(jobs, force, as_json)
        return
    if max_bytes and weights is None:
        headers = bundled()[::-1]  # most tokens first
    else:
        headers = (find(weights or DEFAULT_WEIGHTS),)
    for header in headers:
        check_token_count(header, tokens)
        check_fit(header, fit or header.config.default_fit)
        if entropy_coded:
            read_prior(header)
    names = {header.model_id[:8]: header.name for header in headers}
    how = _How(
        fit,
        colour,
        tokens,
        entropy_coded,
        device,
        batch_size,
        dtype,
        workers,
        count == 1,
        cache(load_codec),
    )
    with Tally("encode", count, as_json) as tally:
        begun: deque[Job] = deque()

        def todo() -> "Iterator[Record]":
            for job, record in jobs:
                if job.problem:
                    tally.failed(job, f"{job}: {job.problem}")
                elif force or not job.is_there():
                    begun.append(job)
                    yield record
                elif (reason := _stale_of(job, record, headers, how, text, max_bytes)) is None:
                    tally.skipped(job)
                else:
                    tally.failed(job, f"{job.target}: {reason}; -f overwrites it")

        records = tally.weighed(todo())
        if max_bytes:
            results = _within(max_bytes, text, headers, records, how)
        else:
            results = _compressed(headers[0], records, how)
        pairs = ((begun.popleft(), result) for result in results)
        write = partial(_write, text=text)
        for job, written, size in map_ahead(write, pairs, workers, 4 * workers, at_once=True):
            if isinstance(written, TokcodecError):
                tally.failed(job, str(written))
                continue
            name = names[written.model_id.hex()]
            what = f"{size} bytes, {written.num_tokens} tokens of {name}"
            facts = {"checkpoint": name, "entropy_coded": written.entropy_coded}
            tally.done(job, size, what, facts)
    tally.close()


@dataclass(frozen=True)
class _How:
    """What the command line says of encoding; ``alone``: there is one image; ``load`` loads each
    checkpoint once."""

    fit: Fit | None
    background: tuple[int, int, int]
    tokens: int | None
    entropy_coded: bool
    device: str
    batch_size: int | None
    dtype: Dtype
    workers: int
    alone: bool
    load: "Callable[[Path, str, int | None, Dtype], Codec]"

    def fit_of(self, header: "Header") -> Fit:
        return self.fit or header.config.default_fit


def _compressed(
    header: "Header", records: "Iterable[Record]", how: _How
) -> "Iterator[TokenFile | TokcodecError]":
    """Token files of images, in order; for a bad one, its error in that place."""
    records = iter(records)
    if how.alone:
        for record in records:
            yield _alone(header, record, how)
    elif first := next(records, None):
        codec = how.load(header.path, how.device, how.batch_size, how.dtype)
        images = chain([first], records)
        for _, result in codec.compress_stream(
            ((None, image) for image in images),
            fit=how.fit_of(header),
            tokens=how.tokens,
            background=how.background,
            packed=not how.entropy_coded,
            workers=how.workers,
        ):
            yield result


def _within(
    limit: int,
    text: bool,
    headers: "Sequence[Header]",
    records: "Iterator[Record]",
    how: _How,
) -> "Iterator[TokenFile | TokcodecError]":
    """As ``_compressed``, of the first checkpoint whose file has at most ``limit`` bytes; packed
    where that fits, as it asks for less to be read."""

    def size(file: "TokenFile") -> int:
        return len(file.to_text()) if text else file.file_bytes

    while chunk := list(islice(records, _CHUNK)):
        left = {n: replace(record, read=cache(record.read)) for n, record in enumerate(chunk)}
        done: dict[int, TokenFile | TokcodecError] = {}
        least: dict[int, tuple[int, str]] = {}
        for header in headers:
            own = replace(how, entropy_coded=how.entropy_coded or header.prior_id is not None)
            files = zip(tuple(left), _compressed(header, tuple(left.values()), own), strict=True)
            for n, file in files:
                if isinstance(file, TokcodecError):
                    done[n] = file
                else:
                    forms = (file,) if how.entropy_coded else (file.as_packed(), file)
                    if fitting := [form for form in forms if size(form) <= limit]:
                        done[n] = fitting[0]
                    least[n] = min((size(file), header.name), least.get(n, (limit << 32, "")))
                if n in done:
                    del left[n]
        for n, record in left.items():
            size_of, name = least[n]
            done[n] = ImageError(
                f"{record.name}: takes {size_of} bytes at least, with {name}; that is more than "
                f"--max-bytes {limit}"
            )
        yield from (done[n] for n in range(len(chunk)))


def _alone(header: "Header", record: "Record", how: _How) -> "TokenFile | TokcodecError":
    """The only image, without torch where that is the same."""
    from tokcodec.checkpoint import read_prior
    from tokcodec.image import read_tiles
    from tokcodec.model import plain
    from tokcodec.tokenfile import TokenFile

    config, fit = header.config, how.fit_of(header)
    try:
        image = read_tiles(
            record,
            config.preprocessing,
            lambda size: config.place(fit, size, how.tokens)[0],
            how.background,
        )
    except ImageError as error:
        return error
    exact = how.device != "cuda" and how.dtype == "float32"
    tokens = plain.encode(header, image.pixels) if exact else None
    if tokens is None:
        codec = how.load(header.path, how.device, how.batch_size, how.dtype)
        tokens = codec.encode_tiles(image.pixels)
    kept = tokens[:, : how.tokens] if config.prefix_tokens else tokens
    prior = read_prior(header) if how.entropy_coded else None
    return TokenFile.of(header, kept, image.width, image.height, fit, prior)


def _write(
    pair: "tuple[Job, TokenFile | TokcodecError]", text: bool
) -> "tuple[Job, TokenFile | TokcodecError, int]":
    """Writes the file; gives its bytes, too."""
    job, result = pair
    if isinstance(result, TokcodecError):
        return job, result, 0
    try:
        if job.target:
            return job, result, result.save(job.target, text)
        data = result.to_text().encode() + b"\n" if text else result.to_bytes()
        write_out(data)
        return job, result, len(data)
    except OutputError as error:
        return job, error, 0


def _stale_of(
    job: Job,
    record: "Record",
    headers: "Sequence[Header]",
    how: _How,
    text: bool,
    limit: int | None,
) -> str | None:
    """As ``_stale``; with a limit, of the first checkpoint whose packed tokens surely fit, or of
    one
    of more tokens: whether those fit, entropy-coded, would have to be tried."""
    import numpy as np

    from tokcodec.tokenfile import TokenFile

    reason = None
    for header in headers:
        reason = _stale(job, record, header, how, text, limit)
        if reason is None or not limit:
            break
        assert job.target
        with contextlib.suppress(TokenFileError, ImageError):
            there = TokenFile.load(job.target)
            placement, shape = header.config.place(
                how.fit_of(header), (there.width, there.height), how.tokens
            )
            tokens = np.zeros(placement.num_tiles * math.prod(shape), np.int64)
            bits = header.config.quantizer.bits
            packed = TokenFile.packed(tokens, bits, there.model_id, 1, 1, "crop")
            if (len(packed.to_text()) if text else packed.file_bytes) <= limit:
                break
    return reason


def _stale(
    job: Job, record: "Record", header: "Header", how: _How, text: bool, limit: int | None
) -> str | None:
    """Why the token file that is there is not what this run would write; None if it is."""
    from tokcodec.checkpoint import check_token_count, read_prior
    from tokcodec.image import size_of
    from tokcodec.inputs.records import ABSENT
    from tokcodec.io.remote import is_remote
    from tokcodec.tokenfile import MAGIC, TokenFile, check_tokens

    assert job.target
    fit = how.fit_of(header)
    try:
        there = TokenFile.load(job.target)
        if there.model_id.hex() != header.model_id[:8]:
            return "is there, of another model"
        if there.fit != fit:
            return f"is there, with fit {there.fit}"
        placement, shape = header.config.place(fit, (there.width, there.height), how.tokens)
        kept = math.prod(shape)
        if header.config.prefix_tokens:
            kept = check_token_count(header, how.tokens)
        if there.num_tokens != placement.num_tiles * kept:
            return f"is there, with {there.num_tokens} tokens"
        tokens = there.tokens_with(header)
        check_tokens(tokens, header.config.quantizer.codebook_size)
    except (ImageError, TokenFileError) as error:
        reason = str(error).removeprefix(f"{job.target}: ")
        return "is there, unreadable: " + reason.partition("; ")[0]  # and not how to decode it
    if limit:
        if (len(there.to_text()) if text else there.file_bytes) > limit:
            return f"is there, with {there.file_bytes} bytes"
    else:  # what is to be coded is coded again, as only that tells whether it gets shorter
        prior = read_prior(header) if how.entropy_coded else None
        again = TokenFile.of(header, tokens, there.width, there.height, fit, prior)
        if there.entropy_coded != again.entropy_coded:
            form = "entropy-coded" if there.entropy_coded else "not entropy-coded"
            return f"is there, {form}"
    with job.target.open("rb") as opened:
        if (opened.read(1) != bytes([MAGIC])) != text:
            return "is there, not as text" if text else "is there, as text"
    stamp = record.stamp
    own = record if record.member else stamp.path
    if not is_remote(stamp.path) and size_of(own) not in (None, (there.width, there.height)):
        return f"is there, of another image ({there.width}x{there.height})"
    if stamp.mtime == ABSENT:
        return "is there already"
    if not is_remote(stamp.path) and job.target.stat().st_mtime_ns < int(stamp.mtime):
        return "is there, older than the image"
    return None


def colour_of(name: str) -> tuple[int, int, int]:
    """A colour as the command line names it."""
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--background") from error
    return red, green, blue
