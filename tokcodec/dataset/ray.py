"""The shards of a task on Ray Data: a pool of actors with a model each, on any number of machines.

Ray schedules, retries and holds back; the shard step, the files and the resuming are those of one
machine. Inputs and output must lie where every machine can reach them under the same paths.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokcodec.codec import Codec
from tokcodec.dataset.plan import Shard
from tokcodec.dataset.run import Engine
from tokcodec.dataset.step import ShardStep
from tokcodec.dataset.task import Progress, Task
from tokcodec.errors import DatasetError


class _Worker:
    """An actor: loads the model once, then does the shards that it is handed."""

    def __init__(self, task: Task, workers: int) -> None:
        settings = task.settings
        codec = Codec.load(
            str(task.header.path.absolute()),
            settings.device,
            settings.batch_size,
            settings.dtype,
            settings.compiled,
        )
        self.step = ShardStep(task, codec, workers)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        shard, path = self.step.task.plan.shards[row["number"]], Path(row["path"])
        # A shard that is done may come again, when the actor dies before Ray has its answer.
        (done,) = self.step([(shard, path)])
        return {"number": shard.number, "rows": done.rows, "failed": done.failed}


def on_ray(task: Task, address: str | None, actors: int, workers: int) -> Engine:
    """The engine of a Ray cluster.

    Args:
        task: what the actors are to do.
        address: of the cluster; None starts Ray on this machine, or joins what RAY_ADDRESS names.
        actors: how many; each takes a GPU where ``task.settings.device`` is ``cuda``.
        workers: threads that read pictures, for each actor.

    Raises:
        DatasetError: Ray is not installed, or the cluster cannot be reached or loses too much.
    """
    try:
        import ray
        import ray.data
        from ray.exceptions import RayError
    except ImportError as error:
        raise DatasetError("--engine ray needs Ray: install tokcodec's extra ray") from error

    def engine(
        todo: Sequence[tuple[Shard, Path]], _report: Callable[[Progress], None]
    ) -> Iterator[Progress]:
        if not todo:
            return
        try:
            ray.init(address, ignore_reinit_error=True, logging_level=logging.ERROR)
            ray.data.DataContext.get_current().enable_progress_bars = False
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            rows = [{"number": s.number, "path": str(path.absolute())} for s, path in todo]
            cuda = task.settings.device == "cuda"
            results = (
                ray.data.from_items(rows, override_num_blocks=len(rows))
                .map(
                    _Worker,  # type: ignore[arg-type]
                    fn_constructor_args=(task, workers),
                    compute=ray.data.ActorPoolStrategy(size=min(actors, len(rows))),
                    num_cpus=1,
                    num_gpus=1 if cuda else 0,
                )
                .iter_rows()
            )
            for result in results:
                shard = task.plan.shards[result["number"]]
                yield Progress(shard, result["rows"], result["failed"])
        except (RayError, ConnectionError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise DatasetError(f"Ray: {reason}; run again to go on") from error
        finally:
            with contextlib.suppress(Exception):
                ray.shutdown()

    return engine
