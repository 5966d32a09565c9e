"""Images to a token dataset, shard by shard: what is finished stays, whatever happens.

A shard appears whole. A run that is started again keeps the shards of the same plan and settings,
refuses others, makes the rest, and ends with the same bytes as a run that was never stopped.
"""

from collections.abc import Callable, Iterable, Sequence

from tokcodec.dataset.folder import DatasetFolder
from tokcodec.errors import DatasetError, OutputError
from tokcodec.inputs.records import Files
from tokcodec.io.job import Job
from tokcodec.tokenize.output import Output
from tokcodec.tokenize.plan import Shard
from tokcodec.tokenize.task import Progress, RunJob, Task

# Makes the files of shards, and gives the final progress of each as it is finished: a ``ShardStep``
# in this process, or several elsewhere.
Engine = Callable[[Sequence[Shard], Callable[[Progress], None]], Iterable[Progress]]


_NO_SHARD = Shard(-1, Files((), (), (), ()), "")  # of files that the plan does not have


def list_jobs(
    task: Task,
    output: Output,
    share: tuple[int, int] = (0, 1),
    *,
    verify_inputs: bool = False,
    retry_failed: bool = False,
) -> list[RunJob]:
    """The jobs of a run, one for each of its shards; a single one where the one file is finished.

    Arguments as of ``run``.

    Raises:
        DatasetError: a folder cannot be listed, or a file is damaged.
    """

    def job(folder: DatasetFolder, name: str, shard: Shard | None) -> RunJob:
        return task.job(folder, name, shard, verify_inputs=verify_inputs, retry_failed=retry_failed)

    if output.is_finished():
        found = job(output.folder, output.path.name, None)
        if found.state != "new":
            return [found]
    folder = output.shards
    there = set(folder.shards())
    return [
        job(folder, shard.name, shard) if shard.name in there else Job(shard, folder / shard.name)
        for shard in task.plan.share(*share)
    ]


def run(
    task: Task,
    engine: Engine,
    output: Output,
    share: tuple[int, int] = (0, 1),
    *,
    verify_inputs: bool = False,
    retry_failed: bool = False,
    force: bool = False,
    max_failures: int | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> tuple[int, int]:
    """Makes what is missing of a dataset; returns the rows and the failed rows of this part.

    Args:
        task: what to do.
        engine: does it.
        output: where the files go.
        share: index i and count n: the i-th of n machines, from 0, does every n-th shard.
        verify_inputs: also compare the bytes of finished shards' inputs with those of then.
        retry_failed: make shards again that have failed rows.
        force: begin again.
        max_failures: stop above this many failed rows.
        report: called with what was done of a shard since the last call for it.

    Raises:
        DatasetError: there are too many failures.
        OutputError: the output is of another run or of other inputs, another run is writing there,
            or the file system or the store refused.
    """
    if output.one_file and output.path.is_dir():
        raise DatasetError("is a folder; name a file, or a folder without .parquet", name=output)
    totals = _Totals(max_failures, report, str(output))
    folder, shards = output.shards, task.plan.share(*share)
    with folder.lock(*share):
        folder.sweep(alone=share[1] == 1)  # temporary files of a run that was killed
        if force:
            _remove(output, None if share[1] == 1 else shards)
        jobs = list_jobs(
            task, output, share, verify_inputs=verify_inputs, retry_failed=retry_failed
        )
        for job in (*jobs, *_others(task, folder, jobs)):
            job.check(overwrite=False)
        if [job.source for job in jobs] == [task.plan]:
            totals.finish(task.count(output.folder, output.path.name, None))
            output.remove_shards()  # a run may have been killed after it joined them
            return totals.rows, totals.failed
        to_do = {job.target for job in jobs if job.state == "new"}
        for shard in shards:
            if folder / shard.name not in to_do:
                totals.finish(task.count(folder, shard.name, shard))
        for done in engine([s for s in shards if folder / s.name in to_do], totals.watch):
            totals.finish(done)
        folder.sweep(alone=share[1] == 1)  # temporary files of an actor that was killed
        _check_all_there(folder, shards)
        if output.one_file:
            task.join(folder, output.folder, output.path.name)
            output.remove_shards()
    return totals.rows, totals.failed


class _Totals:
    """Counts the rows of a run, and stops it above ``max_failures``."""

    def __init__(
        self, max_failures: int | None, report: Callable[[Progress], None], output: str
    ) -> None:
        self.max_failures, self.report, self.output = max_failures, report, output
        self.rows = self.failed = 0
        self._before: dict[int, Progress] = {}  # by the numbers of shards

    def watch(self, now: Progress) -> None:
        """A shard that is under way."""
        self._check(self.failed + now.failed)
        self._report(now)

    def finish(self, done: Progress) -> None:
        """A shard that is finished."""
        self.rows += done.rows
        self.failed += done.failed
        self._check(self.failed)
        self._report(done)

    def _report(self, now: Progress) -> None:
        before = self._before.get(now.shard.number, Progress(now.shard))
        self._before[now.shard.number] = now
        self.report(now.since(before))

    def _check(self, failed: int) -> None:
        if self.max_failures is not None and failed > self.max_failures:
            raise DatasetError(
                f"stopped at failed image {failed:,} of at most {self.max_failures:,}; the same "
                "command resumes after the last whole shard",
                name=self.output,
            )


def _others(task: Task, folder: DatasetFolder, jobs: Sequence[RunJob]) -> list[RunJob]:
    """Jobs of the other shards that are there: all parts of a dataset have one plan and one way
    to make it."""
    by_name = {shard.name: shard for shard in task.plan.shards}
    own = {job.target for job in jobs}
    return [
        task.job(folder, name, by_name.get(name, _NO_SHARD))
        for name in folder.shards()
        if folder / name not in own
    ]


def _remove(output: Output, shards: Sequence[Shard] | None) -> None:
    """Removes what a run is to replace: these shards, or all, and the one file.

    Raises:
        DatasetError: something there is no token dataset.
    """
    folder = output.shards
    names = {shard.name for shard in shards} if shards is not None else None
    found = [(folder, name) for name in folder.shards() if names is None or name in names]
    if output.is_finished():
        found.append((output.folder, output.path.name))
    for place, name in found:
        place.metadata(name)
        place.remove(name)


def _check_all_there(folder: DatasetFolder, shards: Sequence[Shard]) -> None:
    """
    Raises:
        OutputError: a shard that was made or kept is not there any more.
    """
    there = set(folder.shards())
    for shard in shards:
        if shard.name not in there:
            raise OutputError(
                "has vanished; the same command makes it again", name=folder / shard.name
            )
