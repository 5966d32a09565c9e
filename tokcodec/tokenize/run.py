"""Images to a token dataset, a shard at a time: what is finished stands, whatever happens.

A shard is written whole under a temporary name and renamed. A run that is started again keeps the
shards whose plan and settings are its own, refuses others, does the rest, and ends byte for byte
like a run that was never stopped.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from tokcodec.dataset.table import opened, read_metadata, reading
from tokcodec.errors import DatasetError, OutputError
from tokcodec.inputs.records import Files
from tokcodec.io.files import sweep
from tokcodec.io.remote import is_remote, is_there, listed, remove
from tokcodec.tokenize.lock import locked
from tokcodec.tokenize.plan import Shard, shards_folder
from tokcodec.tokenize.task import Progress, Task

_NO_SHARD = Shard(-1, Files((), (), ()), "")

# Does shards, each into its file, and gives what became of each as it is done: a ``ShardStep`` in
# this process, or many elsewhere.
Engine = Callable[[Sequence[tuple[Shard, Path]], Callable[[Progress], None]], Iterable[Progress]]


def run(
    task: Task,
    engine: Engine,
    output: Path,
    share: tuple[int, int] = (0, 1),
    retry_failed: bool = False,
    verify_inputs: bool = False,
    force: bool = False,
    max_failures: int | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> tuple[int, int]:
    """Does what is left of a task; gives the rows and the failed rows of this part.

    Args:
        task: what is to be done.
        engine: does it.
        output: a folder of shards, or one file if it ends in ``.parquet``; as ``remote.location``
            gives it.
        share: index i and count n: of n machines the i-th, from 0, does every n-th shard.
        retry_failed: do shards again that have failed rows.
        verify_inputs: also compare the bytes of finished shards' inputs with those of then.
        force: begin again.
        max_failures: stop above so many failed rows.
        report: told how the shards get on.

    Raises:
        DatasetError: another run is at it, the output is of another run, or too many failures.
        OutputError: the file system refused.
    """
    folder = shards_folder(output) or output
    whole = folder != output
    if whole and output.is_dir():
        raise DatasetError(f"{output}: is a folder; name a file, or a folder without .parquet")
    shards = task.plan.share(*share)
    totals = {"rows": 0, "failed": 0}

    def check(failed: int) -> None:
        if max_failures is not None and failed > max_failures:
            raise DatasetError(
                f"{output}: stopped at failed image {failed} of at most {max_failures}; "
                "the same command goes on from the last whole shard"
            )

    def count(now: Progress) -> None:
        totals["rows"] += now.rows
        totals["failed"] += now.failed
        check(totals["failed"])
        report(now)

    def watch(now: Progress) -> None:
        check(totals["failed"] + now.failed)
        report(now)

    with locked(folder, output, share):
        _sweep(folder)  # behind a run that was killed
        there = listed(folder, "shard-*.parquet")
        if force:
            own = [folder / shard.name for shard in shards] if share[1] > 1 else there
            for path in [path for path in (*own, *([output] if whole else ())) if is_there(path)]:
                read_metadata(path)  # refuses what is no token dataset
                remove(path)
            there = listed(folder, "shard-*.parquet")
        by_name = {shard.name: shard for shard in task.plan.shards}
        finished = {  # of other parts, too: one dataset has one plan and one way to make it
            path for path in there if task.finished(path, by_name.get(path.name, _NO_SHARD))
        }
        if whole and task.finished(output):
            if verify_inputs:
                task.check_inputs(output)
            kept = _counted(output, task.plan.shards[0])
            if not (kept.failed and retry_failed):
                count(kept)
                _clear(folder)  # of a run that was killed between joining its parts and this
                return totals["rows"], totals["failed"]
        todo = []
        for shard in shards:
            path = folder / shard.name
            if path in finished:
                if verify_inputs:
                    task.check_inputs(path, shard)
                kept = _counted(path, shard)
                if not (kept.failed and retry_failed):
                    count(kept)
                    continue
            todo.append((shard, path))
        for done in engine(todo, watch):
            count(done)
        _sweep(folder)  # behind an actor that was killed
        left = set(listed(folder, "shard-*.parquet"))
        for path in [folder / shard.name for shard in shards]:
            if path not in left:
                raise OutputError(f"{path}: has vanished; the same command makes it again")
        if whole:
            task.merge(output, [folder / shard.name for shard in shards])
            _clear(folder)
    return totals["rows"], totals["failed"]


def _sweep(folder: Path) -> None:
    if not is_remote(folder):
        sweep(folder)


def _clear(folder: Path) -> None:
    for share in listed(folder, "shard-*.parquet"):
        remove(share)


def _counted(path: Path, shard: Shard) -> Progress:
    with reading(path, "delete it, or begin again"):
        table = pq.read_table(opened(path), columns=["status", "view"])
        failed = table.column("status").to_pylist().count("failed")
    images = table.column("view").to_pylist().count(0)
    return Progress(shard, len(table), failed, images, kept=True)
