"""``tokcodec tokenize``."""

import re
import shlex
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tokcodec.cli import options as shared
from tokcodec.cli.options import STANDARD, colour_of
from tokcodec.cli.outcomes import report_jobs
from tokcodec.cli.progress import Bar
from tokcodec.cli.terminal import note, print_json, require_pyarrow
from tokcodec.config import DEFAULT_WEIGHTS
from tokcodec.errors import counted
from tokcodec.io.files import SUFFIX
from tokcodec.io.read import MAX_BYTES

if TYPE_CHECKING:
    from tokcodec.tokenize.api import Overview
    from tokcodec.tokenize.task import Progress


def _panel(panel: str) -> Any:
    """``typer.Option`` with the help first, in a panel of the help page."""

    def option(help: str, *names: str, **more: Any) -> Any:  # noqa: A002
        return typer.Option(*names, help=help, rich_help_panel=panel, **more)

    return option


_INPUT, _ROWS, _RESUME, _COMPUTE = map(_panel, ("Input", "Rows", "Resuming", "Computation"))
_OUTPUT = "A folder of shards, or one file.parquet; a path, or the URL of a store."
_LIST = "Also the images that this file lists, one name on each line."
_COLUMNS = "Further columns of Parquet to keep, as text. Comma-separated."
_IMAGE_SIZE = "Side of the square in pixels, instead of --tokens, if the checkpoint supports it."
_VIEWS = "Rows per image: one, with its mirror image, ten crops, or N random resized crops."
_CROP_RANGE = "Size of the square that ten crops are cut from, in tiles. Default: 1.1."
_RETRY = "Make shards with failed rows again, where their files have not changed."
_BATCH = (
    "Tiles per batch; another batch size can change a few tokens. Default: 64 on CUDA, 16 on a "
    "CPU, fewer for a large model, 1 with --fit aspect and native."
)
_ACTORS = "Ray's actors; each loads the model and, on CUDA, takes a GPU."


def tokenize(
    output: Annotated[str, typer.Option("-o", "--output", metavar="OUT", help=_OUTPUT)],
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="[SRC]...", help="Images: " + shared.MANY)
    ] = None,
    from_file: Annotated[str | None, _INPUT(_LIST, metavar="FILE|-")] = None,
    label: Annotated[
        str | None, _INPUT("Column of labels in Parquet. Default: label.", metavar="COLUMN")
    ] = None,
    columns: Annotated[str | None, _INPUT(_COLUMNS, metavar="A,B")] = None,
    limit: Annotated[int | None, _INPUT("Only the first N images.", metavar="N", min=1)] = None,
    include: shared.Include = None,
    exclude: shared.Exclude = None,
    follow: shared.Follow = False,
    allow_large_images: shared.AllowLarge = False,
    max_image_bytes: shared.MaxImageBytes = MAX_BYTES,
    weights: Annotated[
        str, _ROWS("The checkpoint, as for encode.", **shared.WEIGHTS)
    ] = DEFAULT_WEIGHTS,
    fit: Annotated[
        Literal["aspect", "stretch", "crop", "pad", "native"] | None,
        _ROWS("How an image meets the model's input size. Default: the checkpoint's."),
    ] = None,
    tokens: shared.Tokens = None,
    image_size: Annotated[int | None, _ROWS(_IMAGE_SIZE, metavar="N", min=1)] = None,
    background: Annotated[
        str, _ROWS("Behind transparent parts: a name or #rrggbb.", metavar="COLOUR")
    ] = "white",
    views: Annotated[str, _ROWS(_VIEWS, metavar="one|hflip|ten-crop|random:N")] = "one",
    crop_range: Annotated[float | None, _ROWS(_CROP_RANGE, metavar="X", min=1, max=4)] = None,
    seed: Annotated[int | None, _ROWS("Seed of random crops. Default: 0.", metavar="N")] = None,
    rows_per_shard: Annotated[int, _ROWS("Rows per shard; a tar is one shard.", min=1)] = 10_000,
    force: Annotated[bool, _RESUME("Begin again.", "-f", "--force")] = False,
    retry_failed: Annotated[bool, _RESUME(_RETRY, "--retry-failed")] = False,
    verify_inputs: Annotated[
        bool, _RESUME("Also compare the bytes of finished shards' inputs.", "--verify-inputs")
    ] = False,
    max_failures: Annotated[int | None, _RESUME("Abort above N failed images.", min=0)] = None,
    shard: Annotated[
        str | None, _COMPUTE("Process part I of N, from 0, on one of N machines.", metavar="I/N")
    ] = None,
    device: shared.Device = "auto",
    dtype: shared.Dtype = "float32",
    compiled: Annotated[bool, _COMPUTE("Compile the encoder first.", "--compile")] = False,
    batch_size: Annotated[int | None, _COMPUTE(_BATCH, min=1, max=1_000_000)] = None,
    workers: Annotated[
        int | None, _COMPUTE("Threads that read images. Default: cores; 1 per Ray actor.", min=1)
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], _COMPUTE("Make shards here, or with Ray's actors.")
    ] = "local",
    ray_address: Annotated[
        str | None, _COMPUTE("A Ray cluster. Default: start Ray on this machine.")
    ] = None,
    actors: Annotated[int, _COMPUTE(_ACTORS, min=1)] = 1,
    dry_run: shared.DryRun = False,
    as_json: shared.Json = False,
) -> None:
    """Tokenize images to a dataset.

    The dataset is Parquet, in shards. A bad image becomes a row with its error. After an
    interruption, the same command resumes after the last whole shard, and ends with the same bytes.

    Example: tokcodec tokenize photos -o dataset
    """
    require_pyarrow()
    from tokcodec.inputs.listing import read_list
    from tokcodec.tokenize import api

    if allow_large_images:
        shared.allow_large()
    if not sources and not from_file:
        raise typer.BadParameter("no images: name sources, or --from-file", param_hint="SRC")
    from tokcodec.batch.jobs import DECODE, refuse_others

    refuse_others(sources or [], {SUFFIX}, DECODE)
    failures = f"tokcodec inspect {shlex.quote(output)} --failed names all"
    bar = Bar("tokenized", None, where_failed=failures)
    bar.again = "the same command resumes after the last whole shard"
    with ExitStack() as stack:

        def move(done: "Progress") -> None:
            bar.bytes_in += done.bytes_in
            bar.bytes_read += done.bytes_read
            bar.bytes_skipped += done.bytes_read if done.kept else 0
            if done.failed:
                bar.fail(": ".join(done.error or ()), done.failed)
            if good := done.images - done.failed:
                (bar.skip if done.kept else bar.move)(good)

        def begin(run: "Overview") -> None:
            if line := run.skipped.told():
                note(line)
            if dry_run:
                images = "unknown images" if run.images is None else counted(run.images, "image")
                size, shards = counted(run.source_bytes, "byte"), counted(run.shards, "shard")
                return report_jobs(run.jobs, as_json, force, f"{images}, {size}, {shards}")
            if run.faster_dtype:
                note(f"--dtype {run.faster_dtype} is faster here, and changes some tokens")
            if not run.shards:
                note(f"part {shard} has no shards: there are {run.all_shards} in all")
            bar.total, bar.total_bytes = run.images, run.source_bytes
            stack.enter_context(bar)
            return None

        names = sys.stdin.buffer if from_file == STANDARD else from_file
        listed = read_list(names) if names else ()
        result = api.tokenize(
            sources or (), output, listed=listed, weights=weights, fit=fit, tokens=tokens,
            image_size=image_size, views=views, crop_range=crop_range, seed=seed,
            background=colour_of(background),
            label=label, columns=[name for name in (columns or "").split(",") if name], limit=limit,
            rows_per_shard=rows_per_shard, shard=_part(shard), include=include or (),
            exclude=exclude or (), follow=follow, max_image_bytes=max_image_bytes, device=device,
            dtype=dtype, compiled=compiled, batch_size=batch_size, workers=workers, engine=engine,
            ray_address=ray_address, actors=actors, force=force, retry_failed=retry_failed,
            verify_inputs=verify_inputs, max_failures=max_failures, dry_run=dry_run, begin=begin,
            report=move,
        )  # fmt: skip
        if not bar.skipped:  # else the files hold more than was read now
            bar.bytes_out = result.file_bytes or 0
        rows, shards = counted(result.rows, "row"), counted(result.shards, "shard")
        bar.remark = f"{output}: {rows} of {shards}"
    if as_json and not dry_run:
        print_json({"output": output, "rows": result.rows, "failed": result.failed})
    if result.failed:
        raise typer.Exit(3)


def _part(text: str | None) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text or "0/1")
    if not match or not int(match[1]) < int(match[2]):
        raise typer.BadParameter(f"{text!r} is not I/N with I from 0 to N-1", param_hint="--shard")
    return int(match[1]), int(match[2])
