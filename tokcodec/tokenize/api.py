"""``tokenize``: encode images to a token dataset with one call."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from tokcodec.checkpoint import Header, check_fit, check_token_count, find
from tokcodec.config import DEFAULT_WEIGHTS
from tokcodec.config.geometry import Fit
from tokcodec.dataset import require_pyarrow
from tokcodec.dataset.table import GRID_FITS
from tokcodec.dataset.views import Views
from tokcodec.errors import ArgumentError, CheckpointError, DatasetError
from tokcodec.image import WHITE
from tokcodec.inputs.listing import Selection, count
from tokcodec.io.read import MAX_BYTES
from tokcodec.model.loading import fastest_dtype, resolve_device
from tokcodec.model.runtime import Dtype, default_batch_size
from tokcodec.tokenize.output import Output
from tokcodec.tokenize.plan import make_plan
from tokcodec.tokenize.run import Engine, list_jobs, run
from tokcodec.tokenize.step import ShardWriter, make_shards
from tokcodec.tokenize.task import Checks, Progress, RunJob, Settings, Task


@dataclass(frozen=True)
class Overview:
    """What a run is going to do.

    Attributes:
        output: the path of the dataset.
        images: the number of images in this part; None if a tar has to be read first.
        source_bytes: the size of the files that they are in.
        shards, all_shards: the number of shards of this part, and of all parts.
        skipped: has counted the other files in the folders of the sources.
        faster_dtype: a dtype that would be faster on this device, if there is one.
        jobs: in a dry run, the files of this part with their states.
    """

    output: Path
    images: int | None
    source_bytes: int
    shards: int
    all_shards: int
    skipped: Selection
    faster_dtype: Dtype | None = None
    jobs: tuple[RunJob, ...] = ()


@dataclass(frozen=True)
class Result:
    """The result of a run, for this part of all datasets.

    Attributes:
        output: the path of the dataset.
        rows, failed: the number of rows, and of those that failed.
        shards: the number of shards.
        file_bytes: the size of the files; None in a store.
    """

    output: Path
    rows: int
    failed: int
    shards: int
    file_bytes: int | None


def tokenize(
    sources: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    listed: Sequence[str] = (),
    weights: str | Header | Sequence[str | Header] = DEFAULT_WEIGHTS,
    fit: Fit | None = None,
    tokens: int | None = None,
    image_size: int | None = None,
    views: str = "one",
    crop_range: float | None = None,
    seed: int | None = None,
    background: tuple[int, int, int] = WHITE,
    label: str | None = None,
    columns: Sequence[str] = (),
    rows_per_shard: int = 10_000,
    limit: int | None = None,
    shard: tuple[int, int] = (0, 1),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    follow: bool = False,
    max_image_bytes: int = MAX_BYTES,
    device: str = "auto",
    dtype: Dtype = "float32",
    compiled: bool = False,
    batch_size: int | None = None,
    workers: int | None = None,
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    actors: int = 1,
    force: bool = False,
    retry_failed: bool = False,
    verify_inputs: bool = False,
    max_failures: int | None = None,
    dry_run: bool = False,
    begin: Callable[[Overview], None] = lambda _: None,
    report: Callable[[Progress], None] = lambda _: None,
) -> Result:
    """Encode images to a token dataset: Parquet, in shards or one file.

    A bad image becomes a row with its error. After an interruption, the same call resumes after the
    last complete shard, and ends with the same bytes.

    >>> tokenize("photos", "dataset").rows  # doctest: +SKIP
    3

    Args:
        sources: images: files, folders, globs, WebDataset tars and Parquet files; paths or URLs.
        output: a folder of shards, or one ``file.parquet``; a path or a URL.
        listed: further image files, whose keys are these names.
        weights: the checkpoint, see ``Codec.load``. With a list of checkpoints, each image is read
            once, and the output is a folder with one dataset for each, named like the checkpoint;
            the datasets are the same as those of separate runs.
        fit, tokens, background: see ``Codec.compress``. In the fits ``aspect`` and ``native`` every
            row has its own grid. ``tile`` is refused; if it is the checkpoint's default,
            ``stretch`` is used.
        image_size: side of the square that images are fitted to, in pixels, instead of ``tokens``;
            for checkpoints of any size.
        views, crop_range, seed: the views of an image, each of which is a row: ``one``, ``hflip``,
            ``ten-crop`` or ``random:N``; see ``views.Views``. ``ten-crop`` and ``random`` need a
            fit with square tiles.
        label: the column of labels in Parquet sources; ``label`` if None.
        columns: further columns of Parquet sources to keep as text: strings as they are, other
            values as JSON.
        rows_per_shard: rows of a shard; a tar is always one shard.
        limit: tokenize only the first images, this many.
        shard: index I and count N: make every N-th shard from I, if N machines share the work.
        include, exclude, follow: see ``listing.Selection``.
        max_image_bytes: larger images fail.
        device, dtype, compiled: see ``Codec.load``.
        batch_size: tiles of a batch; another one can change a few tokens. If None, 1 if every row
            has its own grid, else ``default_batch_size``.
        workers: threads that read images; the number of cores if None. With Ray, threads and cores
            of each actor; 1 if None.
        engine: ``local``, or ``ray`` for actors on a Ray cluster.
        ray_address: the address of the cluster; None starts Ray on this machine.
        actors: the number of actors; each has the model and, on CUDA, a GPU. With the device
            ``auto``, they run on CUDA if the cluster has GPUs.
        force: begin again instead of resuming.
        retry_failed, verify_inputs: see ``task.Checks``.
        max_failures: stop above this many failed rows.
        dry_run: only call ``begin``; nothing is written.
        begin: called once, before the first image is read.
        report: called with the progress of a shard since the last call for it.

    Raises:
        ArgumentError: there are no such views; both an image size and a number of tokens are
            given; or several checkpoints have the same name, one file as output, or Ray as engine.
        DatasetError: there are no inputs, or there are too many failures.
        OutputError: the output is of another run or of other inputs, another run is writing there,
            or it cannot be written.
        CheckpointError: the checkpoint cannot be read, or does not support this fit, number of
            tokens or image size.
        DeviceError: there is no such device, or it has too little memory.
    """
    require_pyarrow()
    wanted = Views.parse(views, crop_range, seed)
    given = [sources] if isinstance(sources, str | Path) else sources
    names = [str(source) for source in given]
    target = Output(output)
    target.check_inputs([*names, *listed])
    if not names and not listed:
        raise DatasetError("no images to tokenize: name at least one source")
    _check_part(shard, target)

    several = not isinstance(weights, str | Header)
    chosen = [weights] if isinstance(weights, str | Header) else weights
    headers = [find(own) if isinstance(own, str) else own for own in chosen]
    if several:
        _check_several(headers, target, engine)
    kind = _device_kind(device, engine, ray_address)
    common = Settings("stretch", wanted, background, None, kind, dtype, 1, compiled)
    settings = [
        _settings(header, common, fit, tokens, image_size, batch_size) for header in headers
    ]
    selection = Selection(include, exclude, follow)
    plan = make_plan(
        names,
        listed=listed,
        rows_per_shard=rows_per_shard,
        views=wanted.count,
        label=label,
        text_columns=columns,
        limit=limit,
        without=target.paths,
        max_bytes=max_image_bytes,
        selection=selection,
    )
    datasets = [
        (Task(header, own, plan), target / header.name if several else target)
        for header, own in zip(headers, settings, strict=True)
    ]
    shards = plan.share(*shard)
    checks = Checks(verify_inputs, retry_failed)
    overview = Overview(
        output=target.path,
        images=count([own.batch for own in shards]),
        source_bytes=sum(own.batch.source_bytes for own in shards),
        shards=len(shards),
        all_shards=len(plan.shards),
        skipped=selection,
    )
    if dry_run:
        jobs = [job for task, place in datasets for job in list_jobs(task, place, shard, checks)]
        begin(dataclasses.replace(overview, jobs=tuple(jobs)))
        return Result(target.path, 0, 0, len(shards), None)

    work: Engine
    if engine == "ray":
        from tokcodec.tokenize.ray import on_ray

        ((task, place),) = datasets
        work = on_ray(task, place.shards, ray_address, actors, workers or 1)
    else:
        writers = [
            ShardWriter(task, task.settings.load(task.header), place.shards, number)
            for number, (task, place) in enumerate(datasets)
        ]
        work = partial(make_shards, writers, workers or os.cpu_count() or 1)
        fastest = fastest_dtype(resolve_device(kind))
        if kind == "cpu" and dtype == "float32" and fastest != dtype:
            overview = dataclasses.replace(overview, faster_dtype=fastest)
    begin(overview)
    rows, failed = run(
        datasets,
        work,
        shard,
        checks,
        force=force,
        max_failures=max_failures,
        report=report,
    )
    sizes = [place.size(own.name for own in shards) for _, place in datasets]
    total = sum(size for size in sizes if size is not None)
    return Result(
        target.path, rows, failed, len(shards) * len(datasets), None if None in sizes else total
    )


def _settings(
    header: Header,
    common: Settings,
    fit: Fit | None,
    tokens: int | None,
    image_size: int | None,
    batch_size: int | None,
) -> Settings:
    """The ``common`` settings, with what depends on the checkpoint."""
    fit = fit or _default_fit(header, common.views)
    check_fit(header, fit)
    if image_size is not None:
        if tokens is not None:
            raise ArgumentError("an image size and a number of tokens exclude each other")
        tokens = _tokens_of_size(header, image_size)
    check_token_count(header, tokens)
    if batch_size is None:
        batch_size = 1 if fit in GRID_FITS else default_batch_size(header.config, common.device)
    return dataclasses.replace(common, fit=fit, tokens=tokens, batch_size=batch_size)


def _check_several(headers: Sequence[Header], output: Output, engine: str) -> None:
    """Raise ArgumentError if these checkpoints cannot run in one pass, or not to this output."""
    names = [header.name for header in headers]
    for name in names:
        if names.count(name) > 1:
            raise ArgumentError(f"two checkpoints are named {name}; rename the file of one")
        if name in (".", ".."):
            raise ArgumentError(f"a checkpoint is named {name}, which no folder can be; rename it")
    if not names:
        raise ArgumentError("name at least one checkpoint")
    if output.one_file:
        raise ArgumentError("several checkpoints need a folder as output", name=output)
    if engine == "ray":
        raise ArgumentError("several checkpoints run on one machine; with Ray, run one at a time")


def _default_fit(header: Header, views: Views) -> Fit:
    """The checkpoint's default fit, unless rows or views need square tiles."""
    if views.kind == "ten-crop":
        return "crop"
    fit = header.config.default_fit
    return "stretch" if fit == "tile" or views.kind == "random" else fit


def _tokens_of_size(header: Header, side: int) -> int:
    """The tokens of a square with this side in pixels; raises CheckpointError if not supported."""
    config = header.config
    own, multiple = config.preprocessing.image_size, config.multiple
    if side == own:
        return config.num_tokens
    if not multiple:
        raise CheckpointError(f"takes only squares of {own} pixels, not {side}", name=header.name)
    if side < multiple or side % multiple:
        raise CheckpointError(
            f"takes image sizes that are multiples of {multiple} pixels, not {side}",
            name=header.name,
        )
    return (side // multiple) ** 2


def _device_kind(device: str, engine: str, ray_address: str | None) -> str:
    """``cpu`` or ``cuda``. With Ray this process needs no GPU, and does not look for one."""
    if engine == "local":
        return resolve_device(device).type
    if device != "auto":
        return device
    from tokcodec.tokenize.ray import cluster_device

    return cluster_device(ray_address)


def _check_part(part: tuple[int, int], output: Output) -> None:
    index, number = part
    if not 0 <= index < number:
        raise DatasetError(f"part {index}/{number}: the index must be from 0 to {number - 1}")
    if number > 1 and output.one_file:
        raise DatasetError("parts need a folder as output", name=output)
