"""``tokcodec tokenize``."""

import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tokcodec.cli.options import (
    CORES,
    MANY,
    STANDARD,
    WEIGHTS,
    AllowLarge,
    Device,
    DryRun,
    Dtype,
    Exclude,
    Follow,
    Include,
    Json,
    MaxImageBytes,
    Tokens,
    allow_large,
    colour_of,
)
from tokcodec.cli.terminal import Bar, note, print_json, require_pyarrow, say
from tokcodec.config import DEFAULT_WEIGHTS
from tokcodec.errors import DatasetError
from tokcodec.io.files import SUFFIX, same_file
from tokcodec.io.remote import is_remote, location
from tokcodec.io.tar import MAX_BYTES

if TYPE_CHECKING:
    from tokcodec.tokenize.plan import Plan
    from tokcodec.tokenize.task import Progress


def tokenize(
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT",
            help="A folder of shards, or one file.parquet; a path, or the URL of a store.",
        ),
    ],
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SRC]...",
            help="Images: " + MANY,
        ),
    ] = None,
    from_file: Annotated[
        str | None,
        typer.Option(metavar="FILE|-", help="Also the images that it lists, a name a line."),
    ] = None,
    dry_run: DryRun = False,
    force: Annotated[bool, typer.Option("-f", "--force", help="Begin again.")] = False,
    weights: Annotated[
        str, typer.Option(**WEIGHTS, help="The checkpoint, as for encode.")
    ] = DEFAULT_WEIGHTS,
    fit: Annotated[
        Literal["stretch", "crop", "pad", "native"] | None,
        typer.Option(help="How an image meets the square; the checkpoint's own if not given."),
    ] = None,
    background: Annotated[
        str, typer.Option(metavar="COLOUR", help="Behind transparent parts: a name or #rrggbb.")
    ] = "white",
    views: Annotated[
        Literal["one", "hflip", "ten-crop"],
        typer.Option(help="Rows an image: one, it and its mirror image, or ten crops."),
    ] = "one",
    tokens: Tokens = None,
    label: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="The label in Parquet inputs; label if not given."),
    ] = None,
    rows_per_shard: Annotated[
        int, typer.Option(min=1, help="Rows of a shard; a tar is always one.")
    ] = 10_000,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images.")] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only part I of N (from 0), for other machines' sake."),
    ] = None,
    max_failures: Annotated[
        int | None, typer.Option(min=0, help="Stop above so many bad images.")
    ] = None,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed",
            help="Do shards with failed rows again, where their files have not changed.",
        ),
    ] = False,
    verify_inputs: Annotated[
        bool, typer.Option("--verify-inputs", help="Compare the bytes of finished shards' inputs.")
    ] = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Let torch compile the encoder first.")
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tiles per batch; another batch size can change a few tokens. Default: 64 on "
            "CUDA, 16 on a CPU, fewer for a large model, 1 with --fit native.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads that read images: the cores; of each of Ray's actors, which takes so "
            "many of the cluster's: 1.",
        ),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="Where shards are done: here, or by Ray's actors."),
    ] = "local",
    ray_address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster; without it, Ray starts here.")
    ] = None,
    actors: Annotated[
        int,
        typer.Option(
            min=1,
            help="Ray's actors, each with a model, and on cuda a GPU; --device auto is cuda where "
            "the cluster has GPUs.",
        ),
    ] = 1,
    include: Include = None,
    exclude: Exclude = None,
    follow: Follow = False,
    allow_large_images: AllowLarge = False,
    max_image_bytes: MaxImageBytes = MAX_BYTES,
    as_json: Json = False,
) -> None:
    """Turn images into a token dataset.

    Rows of Parquet, in shards. A bad image is a row with its error. After a stop, the same
    command goes on from the last whole shard and ends in the same bytes as without the stop.
    """
    from tokcodec.batch.jobs import DECODE, file_extension, refuse_others
    from tokcodec.checkpoint import check_fit, check_token_count, find
    from tokcodec.codec import Codec, default_batch_size
    from tokcodec.model.loading import fastest_dtype, resolve_device

    require_pyarrow()
    from tokcodec.dataset.views import COUNTS
    from tokcodec.inputs.listing import Selection, count
    from tokcodec.tokenize.plan import make_plan
    from tokcodec.tokenize.run import Engine, run
    from tokcodec.tokenize.step import ShardStep
    from tokcodec.tokenize.task import Settings, Task

    if allow_large_images:
        allow_large()
    # A folder's name may have a dot, too: dataset.v2.
    if (
        re.fullmatch(r"\.[a-z]{3,}", extension := file_extension(output))
        and extension != ".parquet"
    ):
        raise typer.BadParameter(
            f"{output} is no dataset: name a folder (NAME{os.sep} whatever its name), or one "
            "file.parquet",
            param_hint="-o",
        )
    out = location(output)
    share = _share(shard, out)
    listed = _listed(from_file)
    sources = sources or []
    if not sources and not listed:
        raise typer.BadParameter("no images: name sources, or --from-file", param_hint="SRC")
    refuse_others(sources, {SUFFIX}, DECODE)
    if any(same_file(out, source) for source in (*sources, *listed)):
        raise typer.BadParameter(f"{output} is the input itself", param_hint="-o")
    header = find(weights)
    check_token_count(header, tokens)
    default = header.config.default_fit
    chosen = fit or ("stretch" if default == "tile" else default)
    check_fit(header, chosen)
    if engine == "ray":  # this process needs no GPU, and does not look for one
        from tokcodec.tokenize.ray import cluster_device, on_ray

        kind = cluster_device(ray_address) if device == "auto" else device
    else:
        kind = resolve_device(device).type
    if batch_size is None and chosen == "native":
        batch_size = 1  # every image may have a shape of its own
    batch_size = batch_size or default_batch_size(header.config, kind)
    selection = Selection(include or (), exclude or (), follow)
    plan = make_plan(
        sources,
        listed,
        rows_per_shard,
        COUNTS[views],
        label,
        limit,
        out,
        max_image_bytes,
        selection,
    )
    if line := selection.told():
        note(line)
    if dry_run:
        _dry_run(plan, share, out, force, as_json)
        return
    codec = (
        None
        if engine == "ray"
        else Codec.load(header, kind, batch_size=batch_size, dtype=dtype, compiled=compiled)
    )
    settings = Settings(
        chosen,
        views,
        colour_of(background),
        tokens,
        kind,
        dtype,
        batch_size,
        compiled,
    )
    task = Task(header, settings, plan)
    if codec:
        if kind == "cpu" and dtype == "float32" and fastest_dtype(codec.device) != dtype:
            note(
                "this processor is faster in bfloat16: --dtype bfloat16 brings that, and changes "
                "some tokens (tokcodec verify shows how many)"
            )
        work: Engine = ShardStep(task, codec, workers or CORES)
    else:
        work = on_ray(task, ray_address, actors, workers or 1)
    shards = plan.share(*share)
    named = f"tokcodec inspect {shlex.quote(str(out))} --failed names all"
    if not shards:
        note(f"part {shard} has no shards: there are {len(plan.shards)} in all")
    with Bar("tokenized", count([shard.batch for shard in shards]), where_failed=named) as bar:
        bar.again = "the same command goes on from the last whole shard"
        rows, failed = run(
            task,
            work,
            out,
            share,
            retry_failed=retry_failed,
            verify_inputs=verify_inputs,
            force=force,
            max_failures=max_failures,
            report=_Mover(bar),
        )
        # Else there is more in the files than was read now, or a store is to be asked.
        if not bar.skipped and not is_remote(out):
            files = [out] if out.suffix == ".parquet" else [out / shard.name for shard in shards]
            bar.bytes_out = sum(file.stat().st_size for file in files)
        bar.remark = f"{out}: {rows:,} rows of {len(shards):,} shards"
    if as_json:
        print_json({"output": str(output), "rows": rows, "failed": failed})
    if failed:
        raise typer.Exit(3)


def _dry_run(
    plan: "Plan", share: tuple[int, int], output: Path, force: bool, as_json: bool
) -> None:
    """What a run would do: its images, its shards, and how many of those are there."""
    from tokcodec.inputs.listing import count
    from tokcodec.io.remote import is_there, listed, reason_of
    from tokcodec.tokenize.plan import shards_folder

    shards = plan.share(*share)
    stamps = {stamp for shard in shards for stamp in shard.batch.stamps}
    try:
        there = {path.name for path in listed(shards_folder(output) or output, "shard-*.parquet")}
        joined = output.suffix == ".parquet" and is_there(output)
    except OSError as error:
        raise DatasetError(f"{output}: cannot reach it: {reason_of(error)}") from error
    facts = {
        "output": str(output),
        "images": count(shard.batch for shard in shards),
        "source_bytes": sum(stamp.size for stamp in stamps),
        "shards": len(shards),
        "there": len(shards) if joined else sum(shard.name in there for shard in shards),
    }
    if as_json:
        print_json(facts)
    images = "unknown" if facts["images"] is None else f"{facts['images']:,}"
    fate = "overwritten" if force else "kept if they are of the same run"
    say(
        f"dry run, nothing is read or written: images {images}, bytes {facts['source_bytes']:,}"
        f", shards {len(shards):,} of {output}"
        + (f", of which {facts['there']:,} are there: {fate}" if facts["there"] else "")
    )


class _Mover:
    """Moves a bar by what is said of shards."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar
        self.before: dict[int, Progress] = {}

    def __call__(self, now: "Progress") -> None:
        before = self.before.get(now.shard.number)
        self.before[now.shard.number] = now
        failed = now.failed - (before.failed if before else 0)
        good = now.images - (before.images if before else 0) - failed
        self.bar.bytes_in += now.bytes_in - (before.bytes_in if before else 0)
        if failed:
            self.bar.fail(": ".join(now.error or ()), failed)
        if good:
            (self.bar.skip if now.kept else self.bar.move)(good)


def _share(text: str | None, output: Path) -> tuple[int, int]:
    if text is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match[1]) < int(match[2]):
        raise typer.BadParameter(f"{text!r} is not I/N with I from 0 to N-1", param_hint="--shard")
    if output.suffix == ".parquet":
        raise typer.BadParameter("parts need a folder for -o", param_hint="--shard")
    return int(match[1]), int(match[2])


def _listed(name: str | None) -> list[str]:
    if name is None:
        return []
    try:
        text = sys.stdin.read() if name == STANDARD else Path(name).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"--from-file {name}: cannot read as text: {error}") from error
    return [line for line in (line.rstrip("\r") for line in text.split("\n")) if line]
