"""``tokcodec tokenize``."""

import re
import shlex
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import typer

from tokcodec.batch.jobs import DECODE, STANDARD, refuse_others
from tokcodec.cli import options as shared
from tokcodec.cli import tokenize_options as own
from tokcodec.cli.outcomes import report_jobs
from tokcodec.cli.progress import Bar
from tokcodec.cli.terminal import note, print_json
from tokcodec.config import DEFAULT_WEIGHTS
from tokcodec.errors import counted
from tokcodec.io.files import SUFFIX
from tokcodec.io.read import MAX_BYTES

if TYPE_CHECKING:
    from tokcodec.tokenize.api import Overview
    from tokcodec.tokenize.task import Progress


def tokenize(
    output: own.Output,
    sources: own.Sources = None,
    from_file: own.FromFile = None,
    label: own.Label = None,
    columns: own.Columns = None,
    limit: own.Limit = None,
    include: shared.Include = None,
    exclude: shared.Exclude = None,
    follow: shared.Follow = False,
    allow_large_images: shared.AllowLarge = False,
    max_image_bytes: shared.MaxImageBytes = MAX_BYTES,
    weights: own.Weights = None,
    fit: own.Fit = None,
    tokens: shared.Tokens = None,
    image_size: own.ImageSize = None,
    background: shared.Background = "white",
    views: own.Views = "one",
    crop_range: own.CropRange = None,
    seed: own.Seed = None,
    rows_per_shard: own.RowsPerShard = 10_000,
    force: own.Force = False,
    retry_failed: own.RetryFailed = False,
    verify_inputs: own.VerifyInputs = False,
    max_failures: own.MaxFailures = None,
    shard: own.Shard = None,
    device: shared.Device = "auto",
    dtype: shared.Dtype = "float32",
    compiled: own.Compile = False,
    batch_size: shared.BatchSize = None,
    workers: own.Workers = None,
    engine: own.Engine = "local",
    ray_address: own.RayAddress = None,
    actors: own.Actors = 1,
    dry_run: shared.DryRun = False,
    as_json: shared.Json = False,
) -> None:
    """Tokenize images to a dataset.

    The dataset is Parquet, with a row for each image. A bad image becomes a row with its error.
    After an interruption, the same command resumes after the last whole shard, and its output has
    the same bytes.

    Example: tokcodec tokenize photos -o dataset
    """
    from tokcodec.inputs.listing import read_list
    from tokcodec.tokenize import api

    if allow_large_images:
        shared.allow_large()
    if not sources and not from_file:
        raise typer.BadParameter(
            "no images: name sources, or a list with --from-file", param_hint="SRC"
        )
    refuse_others(sources or [], {SUFFIX}, DECODE)
    chosen = weights or [DEFAULT_WEIGHTS]
    dataset = shlex.quote(output) + ("/NAME" if len(chosen) > 1 else "")
    failures = f"tokcodec inspect {dataset} --failed names all"
    bar = Bar("tokenized", None, again="resumes after the last whole shard", where_failed=failures)
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
                report_jobs(run.jobs, as_json, force, f"{images}, {size}, {shards}")
                return
            if run.faster_dtype:
                note(f"--dtype {run.faster_dtype} is faster here, and changes some tokens")
            if not run.shards:
                note(f"part {shard} has no shards: there are {run.all_shards} in all")
            bar.total, bar.total_bytes = run.images, run.source_bytes
            stack.enter_context(bar)

        names = sys.stdin.buffer if from_file == STANDARD else from_file
        listed = read_list(names) if names else ()
        result = api.tokenize(
            sources or (),
            output,
            listed=listed,
            weights=chosen[0] if len(chosen) == 1 else chosen,
            fit=fit,
            tokens=tokens,
            image_size=image_size,
            views=views,
            crop_range=crop_range,
            seed=seed,
            background=shared.colour_of(background),
            label=label,
            columns=[name for name in (columns or "").split(",") if name],
            limit=limit,
            rows_per_shard=rows_per_shard,
            shard=_part(shard),
            include=include or (),
            exclude=exclude or (),
            follow=follow,
            max_image_bytes=max_image_bytes,
            device=device,
            dtype=dtype,
            compiled=compiled,
            batch_size=batch_size,
            workers=workers,
            engine=engine,
            ray_address=ray_address,
            actors=actors,
            force=force,
            retry_failed=retry_failed,
            verify_inputs=verify_inputs,
            max_failures=max_failures,
            dry_run=dry_run,
            begin=begin,
            report=move,
        )
        if not bar.skipped:  # otherwise the files contain more than was read by this run
            bar.bytes_out = result.file_bytes or 0
        rows, shards = counted(result.rows, "row"), counted(result.shards, "shard")
        bar.remark = f"{output}: {rows} in {shards}"
        if len(chosen) > 1:
            bar.remark += f" of {counted(len(chosen), 'dataset')}"
    if as_json and not dry_run:
        print_json({"output": output, "rows": result.rows, "failed": result.failed})
    if result.failed:
        raise typer.Exit(3)


def _part(text: str | None) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text or "0/1")
    if not match or not int(match[1]) < int(match[2]):
        raise typer.BadParameter(
            f"{text!r} is not I/N, with I from 0 to N-1, such as 0/4", param_hint="--shard"
        )
    return int(match[1]), int(match[2])
