"""Makes a token dataset shard by shard; finished shards stay, whatever happens.

A run that is started again keeps the shards of the same plan and settings, refuses others, makes
the rest, and ends with the same bytes as a run that was never stopped.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from tokcodec.dataset.folder import DatasetFolder
from tokcodec.errors import DatasetError, OutputError, counted
from tokcodec.inputs.records import Files
from tokcodec.io.job import Job
from tokcodec.tokenize.output import Output
from tokcodec.tokenize.plan import Plan, Shard
from tokcodec.tokenize.task import Checks, Progress, RunJob, Task

# Makes the shards of each dataset, and yields the progress of each when it is finished:
# ``make_shards`` in this process, or in several elsewhere.
Engine = Callable[[Sequence[Sequence[Shard]], Callable[[Progress], None]], Iterable[Progress]]

_NO_SHARD = Shard(-1, Files((), ()), "")  # for files that are not in the plan


def list_jobs(task: Task, output: Output, share: tuple[int, int], checks: Checks) -> list[RunJob]:
    """The jobs of a run, one for each of its shards; a single one if the one file is finished.

    For the arguments see ``run``.

    Raises:
        DatasetError: a folder cannot be listed, or a file is damaged.
    """
    if output.is_finished():
        found = task.job(output.folder, output.path.name, task.plan, checks)
        if found.state != "new":
            return [found]
    folder = output.shards
    there = set(folder.shards())
    return [
        task.job(folder, shard.name, shard, checks)
        if shard.name in there
        else Job(shard, folder / shard.name)
        for shard in task.plan.share(*share)
    ]


def run(
    datasets: Sequence[tuple[Task, Output]],
    engine: Engine,
    share: tuple[int, int],
    checks: Checks,
    *,
    force: bool,
    max_failures: int | None,
    report: Callable[[Progress], None],
) -> tuple[int, int]:
    """Make the missing shards of datasets; return the rows and the failed rows of this part.

    Args:
        datasets: the tasks, which have the same plan, and their outputs.
        engine: makes the shards.
        share: the part, see ``shard`` of ``tokenize``.
        checks: how strictly finished shards are checked.
        force, max_failures, report: see ``tokenize``; of several datasets with the same shard, the
            progress of one is reported.

    Raises:
        DatasetError: there are too many failures.
        OutputError: the output is of another run or of other inputs, another run is writing there,
            or the file system or the store refused.
    """
    totals = _Totals(max_failures, report, [str(output) for _, output in datasets])
    shards = datasets[0][0].plan.share(*share)
    alone = share[1] == 1
    with ExitStack() as stack:
        all_jobs: list[list[RunJob]] = []  # of each dataset
        for task, output in datasets:
            if output.one_file and output.path.is_dir():
                why = "is a folder; name a file, or a folder without .parquet"
                raise DatasetError(why, name=output)
            stack.enter_context(output.shards.lock(*share))
            if force:
                _remove(output, None if alone else shards)
            jobs = list_jobs(task, output, share, checks)
            for job in (*jobs, *_others(task, output.shards, jobs)):
                job.check(overwrite=False)
            all_jobs.append(jobs)
        missing = [_missing(jobs) for jobs in all_jobs]
        numbers = {shard.number for own in missing for shard in own}
        for number, ((task, _), jobs) in enumerate(zip(datasets, all_jobs, strict=True)):
            for job in jobs:
                if job.state != "new":
                    kept = task.count(job)
                    is_whole = kept.shard.number not in numbers
                    totals.finish(replace(kept, dataset=number), is_reported=is_whole)
        for done in engine(missing, totals.watch):
            totals.finish(done)
        for (task, output), jobs in zip(datasets, all_jobs, strict=True):
            if not any(isinstance(job.source, Plan) for job in jobs):
                _check_all_there(output.shards, shards)
                if output.one_file:
                    task.join(output.shards, output.folder, output.path.name)
            if output.one_file:
                output.remove_shards()  # a run may have been killed after it joined them
    return totals.rows, totals.failed


def _missing(jobs: Iterable[RunJob]) -> list[Shard]:
    return [job.source for job in jobs if isinstance(job.source, Shard) and job.state == "new"]


class _Totals:
    """Counts the rows of a run, and stops it above ``max_failures`` of a dataset."""

    def __init__(
        self,
        max_failures: int | None,
        report: Callable[[Progress], None],
        outputs: Sequence[str],
    ) -> None:
        self.max_failures, self.report, self.outputs = max_failures, report, outputs
        self.rows = self.failed = 0
        self._failed = [0] * len(outputs)
        self._before: dict[int, Progress] = {}  # by the numbers of shards

    def watch(self, now: Progress) -> None:
        """Count a shard that is being made."""
        self._report(now)  # first, so that the image that failed is named
        self._check(now.dataset, self._failed[now.dataset] + now.failed)

    def finish(self, done: Progress, is_reported: bool = True) -> None:
        """Count a shard that is finished."""
        self.rows += done.rows
        self.failed += done.failed
        self._failed[done.dataset] += done.failed
        if is_reported:
            self._report(done)
        self._check(done.dataset, self._failed[done.dataset])

    def _report(self, now: Progress) -> None:
        number = now.shard.number
        before = self._before.setdefault(number, Progress(now.shard, now.dataset))
        if before.dataset == now.dataset:
            self._before[number] = now
            self.report(now.since(before))

    def _check(self, dataset: int, failed: int) -> None:
        if self.max_failures is not None and failed > self.max_failures:
            raise DatasetError(
                f"stopped: {counted(failed, 'image')} failed, and {self.max_failures:,} may fail",
                name=self.outputs[dataset],
            )


def _others(task: Task, folder: DatasetFolder, jobs: Sequence[RunJob]) -> list[RunJob]:
    """Jobs of existing shards of other parts, which must have the same plan and settings."""
    by_name = {shard.name: shard for shard in task.plan.shards}
    own = {job.target for job in jobs}
    return [
        task.job(folder, name, by_name.get(name, _NO_SHARD), Checks())
        for name in folder.shards()
        if folder / name not in own
    ]


def _remove(output: Output, shards: Sequence[Shard] | None) -> None:
    """Remove these shards, or all, and the one file; raises DatasetError for files that are not
    token datasets."""
    folder = output.shards
    names = {shard.name for shard in shards} if shards is not None else None
    found = [(folder, name) for name in folder.shards() if names is None or name in names]
    if output.is_finished():
        found.append((output.folder, output.path.name))
    for place, name in found:
        place.metadata(name)
        place.remove(name)


def _check_all_there(folder: DatasetFolder, shards: Sequence[Shard]) -> None:
    """Raise OutputError if a shard that was made or kept has vanished."""
    there = set(folder.shards())
    for shard in shards:
        if shard.name not in there:
            raise OutputError(
                "has vanished; the same command makes it again", name=folder / shard.name
            )
