"""``tokcodec decode``."""

import functools
import io
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tokcodec.cli.jobs import (
    ENCODE,
    STANDARD,
    Job,
    escapes_folder,
    file_extension,
    is_standard,
    plan,
    refuse_others,
    refuse_terminal,
    report_dry_run,
)
from tokcodec.cli.options import (
    CORES,
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
    Output,
    Tokens,
    Workers,
    allow_large,
    load_codec,
)
from tokcodec.cli.terminal import Tally, print_json, require_pyarrow, say, write_out
from tokcodec.errors import ImageError, OutputError, TokcodecError, TokenFileError
from tokcodec.io.files import SUFFIX, is_dataset
from tokcodec.io.remote import is_remote, location
from tokcodec.parallel import map_ahead

if TYPE_CHECKING:
    from PIL.Image import Image

    from tokcodec.checkpoint import Header
    from tokcodec.codec import Codec
    from tokcodec.inputs.records import Record
    from tokcodec.tokenfile import TokenFile

    # What its image must be newer than, in nanoseconds, where that is known.
    Entry = tuple[Job, Callable[[], TokenFile], int | None]

_CHUNK = 1024  # token files read before the first of them is decoded


def decode(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC",
            help="Token files: files, folders, globs, tars; paths or URLs. Or - for standard "
            "input, or one token dataset.",
        ),
    ],
    output: Output = None,
    dry_run: DryRun = False,
    force: Force = False,
    weights: Annotated[
        str | None,
        typer.Option(
            **WEIGHTS,
            help="The checkpoint; the bundled or cached one that fits each file if not given.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="WxH|N", help="Size of the image, or of its longer edge."),
    ] = None,
    tokens: Tokens = None,
    image_format: Annotated[
        Literal["png", "jpg", "webp"] | None,
        typer.Option("--format", help="Of images in folders and on standard output: png."),
    ] = None,
    png_level: Annotated[
        int,
        typer.Option(min=1, max=9, help="How hard PNG files are compressed: 1 fast, 9 small."),
    ] = 1,
    select: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY|ROW", help="Of a token dataset, only these; may be repeated."),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_size: BatchSize = None,
    workers: Workers = CORES,
    include: Include = None,
    exclude: Exclude = None,
    follow: Follow = False,
    allow_large_images: AllowLarge = False,
    as_json: Json = False,
) -> None:
    """Turn token files back into images, at their original size.

    Images that are there, newer than their tokens and of the right size, are skipped.
    Without -o, a.jpg.tok becomes a.jpg.png beside it; what is in tars or on URLs needs a folder
    for -o. A file named with -o takes the format of its extension; all else gets PNG, or --format.
    SRC may be one token dataset, whose rows become KEY.png in the folder that -o names.
    """
    from tokcodec.checkpoint import check_token_count, find, find_by_model_id
    from tokcodec.image import extensions
    from tokcodec.inputs.listing import Selection

    if allow_large_images:
        allow_large()
    if as_json and is_standard(sources, output):
        raise typer.BadParameter("standard output cannot take both an image and JSON")
    refuse_terminal(sources, output)
    wanted = _parse_size(size)
    dataset = None
    for source in sources if len(sources) > 1 else ():
        if not is_remote(source) and is_dataset(Path(source)):
            raise typer.BadParameter(f"{source}: give one token dataset alone", param_hint="SRC")
    if len(sources) == 1 and sources[0] != STANDARD and is_dataset(found := location(sources[0])):
        dataset = found
    if select and not dataset:
        raise typer.BadParameter("it chooses rows of one token dataset", param_hint="--select")
    refuse_others(sources, extensions(), ENCODE)
    extension = f".{image_format or 'png'}"
    named = file_extension(output)
    if image_format and named in extensions() and named.replace("jpeg", "jpg") != extension:
        raise typer.BadParameter(
            f"{output} is no name of a {image_format}; leave out one", param_hint="--format"
        )
    fixed = find(weights) if weights else None
    count: int | None
    entries: Iterator[Entry]
    if dataset:
        count, entries = _rows(dataset, output, extension, select or [])
        if dry_run:
            if as_json:
                print_json({"source": str(dataset), "output": output, "rows": count})
            say(f"dry run, nothing is written: {count:,} rows of {dataset} -> {output}")
            return
    else:
        count, jobs = plan(
            sources,
            output,
            lambda name: name.removesuffix(SUFFIX) + extension,
            {SUFFIX},
            selection=Selection(include or (), exclude or (), follow),
            unread=dry_run,
        )
        if dry_run:
            report_dry_run(jobs, force, as_json)
            return
        entries = ((job, functools.partial(_read, record), record.since) for job, record in jobs)
    fitting = functools.cache(find_by_model_id)
    load = functools.cache(load_codec)
    write = functools.partial(_write, extension=extension, png_level=png_level)
    with Tally("decode", count, as_json) as tally:
        while chunk := list(islice(entries, _CHUNK)):
            # It may hold tokens of several models; each is loaded once.
            groups: dict[str, tuple[Header, list[tuple[Job, TokenFile]]]] = {}
            for job, read, since in chunk:
                try:
                    if job.problem:
                        raise TokenFileError(job.problem)
                    token_file = read()
                    header = fixed or fitting(token_file.model_id)
                    if header is None:
                        raise TokenFileError(
                            f"its tokens are of model {token_file.model_id.hex()}, which is "
                            "neither bundled nor cached; name its checkpoint with --weights"
                        )
                    check_token_count(header, tokens)
                    if job.is_there() and not force:
                        if not _is_done(job, token_file, header, wanted, since):
                            raise OutputError(f"{job.target}: is there already; -f overwrites it")
                        tally.skipped(job)
                        continue
                    tally.weigh(job.name, token_file.file_bytes)
                except OutputError as error:
                    tally.failed(job, str(error))
                except TokcodecError as error:
                    tally.failed(job, f"{job}: {error}")
                else:
                    groups.setdefault(header.checkpoint_id, (header, []))[1].append(
                        (job, token_file)
                    )
            for header, group in groups.values():
                codec = load(header.path, device, batch_size, dtype)
                _decode_group(codec, group, wanted, tokens, workers, write, tally)
    tally.close()


def _is_done(
    job: Job,
    token_file: "TokenFile",
    header: "Header",
    wanted: tuple[int, int] | int | None,
    since: int | None,
) -> bool:
    """Whether the image that is there has the size asked for, and is newer than its tokens."""
    from tokcodec.codec import output_size
    from tokcodec.image import size_of

    assert job.target
    placement, _ = header.config.place(
        token_file.fit,
        (token_file.width, token_file.height),
        token_file.num_tokens if token_file.fit != "tile" else None,
    )
    size = output_size(token_file, wanted) or placement.output
    newer = since is not None and job.target.stat().st_mtime_ns >= since
    return newer and size_of(job.target) == size


def _rows(
    path: Path, output: str | None, extension: str, select: list[str]
) -> "tuple[int, Iterator[Entry]]":
    require_pyarrow()
    from tokcodec.dataset.reader import open_dataset, token_files

    if output is None or output == STANDARD:
        raise typer.BadParameter("name a folder for the images of a dataset", param_hint="-o")
    folder = Path(output)
    dataset = open_dataset(path)
    targets: set[Path | None] = set()
    local = [file.stat().st_mtime_ns for file in dataset.files if not is_remote(file)]
    since = max(local, default=None)

    def rows() -> "Iterator[tuple[str, TokenFile | TokcodecError]]":
        try:
            yield from token_files(dataset, select)
        except TokcodecError as error:  # told behind the rows before it, which are decoded
            yield str(path), type(error)(str(error).removeprefix(f"{path}: "))

    def entries() -> "Iterator[Entry]":
        for name, row in rows():
            target: Path | None = folder / (name + extension)
            problem = None
            if escapes_folder(name) and not isinstance(row, TokcodecError):
                problem = "its key leaves the folder of the images; not written"
            elif target in targets:
                problem = "a second row of this key; choose it by --select ROW"
            targets.add(target)
            if problem or isinstance(row, TokcodecError):
                target = None
            yield Job(name, target, problem), functools.partial(_given, row), since

    return len(select) or len(dataset), entries()


def _given(row: "TokenFile | TokcodecError") -> "TokenFile":
    if isinstance(row, TokcodecError):
        raise row
    return row


def _decode_group(
    codec: "Codec",
    entries: "list[tuple[Job, TokenFile]]",
    wanted: tuple[int, int] | int | None,
    tokens: int | None,
    workers: int,
    write: "Callable[[tuple[Job, Image | TokcodecError]], tuple[Job, int | TokcodecError]]",
    tally: Tally,
) -> None:
    images = codec.decompress_stream(entries, size=wanted, tokens=tokens, workers=workers)
    for job, result in map_ahead(write, images, workers, 2 * workers, at_once=True):
        if isinstance(result, TokcodecError):
            tally.failed(job, str(result))
        else:
            tally.done(job, result, f"{result:,} bytes, decoded by {codec.header.name}")


def _write(
    pair: "tuple[Job, Image | TokcodecError]", extension: str, png_level: int
) -> tuple[Job, int | TokcodecError]:
    """Writes the image; gives its bytes."""
    from tokcodec.image import save

    job, image = pair
    if isinstance(image, TokcodecError):
        return job, type(image)(f"{job}: {image}")
    try:
        if job.target:
            return job, save(image, job.target, extension, png_level)
        buffer = io.BytesIO()
        size = save(image, buffer, extension, png_level)
        write_out(buffer.getvalue())
        return job, size
    except (OutputError, ImageError) as error:
        return job, error


def _read(record: "Record") -> "TokenFile":
    from tokcodec.tokenfile import TokenFile

    try:
        return TokenFile.from_bytes(record.read())
    except OSError as error:
        raise TokenFileError(f"cannot read: {error.strerror or error}") from error


def _parse_size(text: str | None) -> tuple[int, int] | int | None:
    from tokcodec.image import MAX_EDGE

    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if not match:
        raise typer.BadParameter(f"{text!r} is neither WxH nor N, in pixels", param_hint="--size")
    numbers = [number for number in match.groups() if number]
    if any(len(number) > 5 or int(number) > MAX_EDGE for number in numbers):
        raise typer.BadParameter(
            f"{text} is too large: {MAX_EDGE:,} pixels an edge at most", param_hint="--size"
        )
    edges = [int(number) for number in numbers]
    return (edges[0], edges[1]) if match[2] else edges[0]
