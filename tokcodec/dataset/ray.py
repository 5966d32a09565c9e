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
from tokcodec.remote import location


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
        shard, path = self.step.task.plan.shards[row["number"]], location(row["path"])
        # A shard that is done may come again, when the actor dies before Ray has its answer.
        (done,) = self.step([(shard, path)])
        return {"number": shard.number, "rows": done.rows, "failed": done.failed}


def cluster_device(address: str | None) -> str:
    """``cuda`` where a cluster has GPUs, else ``cpu``; ``address`` as of ``on_ray``. Stays
    connected, so that an engine need not start Ray again.

    Raises:
        DatasetError: Ray is not installed, or the cluster cannot be reached.
    """
    with _ray(address) as ray:
        return "cuda" if ray.cluster_resources().get("GPU", 0) else "cpu"


def on_ray(task: Task, address: str | None, actors: int, workers: int) -> Engine:
    """The engine of a Ray cluster.

    Args:
        task: what the actors are to do.
        address: of the cluster; None starts Ray on this machine, or joins what RAY_ADDRESS names.
        actors: how many; each takes a GPU where ``task.settings.device`` is ``cuda``.
        workers: threads that read pictures, and cores, of each actor.

    Raises:
        DatasetError: Ray is not installed, or the cluster cannot be reached or loses too much.
    """

    def engine(
        todo: Sequence[tuple[Shard, Path]], _report: Callable[[Progress], None]
    ) -> Iterator[Progress]:
        if not todo:
            return
        with _ray(address) as ray:
            needs = {"CPU": workers, "GPU": int(task.settings.device == "cuda")}
            _check(ray.nodes(), needs)
            ray.data.DataContext.get_current().enable_progress_bars = False
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            rows = [{"number": s.number, "path": str(path.absolute())} for s, path in todo]
            results = (
                ray.data.from_items(rows, override_num_blocks=len(rows))
                .map(
                    _Worker,
                    fn_constructor_args=(task, workers),
                    compute=ray.data.ActorPoolStrategy(size=min(actors, len(rows))),
                    num_cpus=needs["CPU"],
                    num_gpus=needs["GPU"],
                )
                .iter_rows()
            )
            try:
                for result in results:
                    shard = task.plan.shards[result["number"]]
                    yield Progress(shard, result["rows"], result["failed"])
            finally:
                with contextlib.suppress(Exception):
                    ray.shutdown()

    return engine


def _check(nodes: Sequence[dict[str, Any]], needs: dict[str, int]) -> None:
    """Refuses what an actor needs where Ray would wait for it for ever."""
    for node in nodes:
        has = node["Resources"] if node["Alive"] else {}
        if all(has.get(name, 0) >= count for name, count in needs.items()):
            return
    wanted = ", ".join(f"{name} {count}" for name, count in needs.items())
    raise DatasetError(
        f"Ray: no machine has what an actor needs ({wanted}); take fewer --workers, or another "
        "--device"
    )


@contextlib.contextmanager
def _ray(address: str | None) -> Iterator[Any]:
    """Ray, connected; what it raises becomes a ``DatasetError``."""
    try:
        import ray
        import ray.data
        from ray.exceptions import RayError
    except ImportError as error:
        raise DatasetError("--engine ray needs Ray: install tokcodec's extra ray") from error
    try:
        ray.init(address, ignore_reinit_error=True, logging_level=logging.ERROR)
        yield ray
    except (RayError, ConnectionError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise DatasetError(f"Ray: {reason}; run again to go on") from error
