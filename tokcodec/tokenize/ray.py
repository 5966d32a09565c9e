"""Makes shards with Ray Data: a pool of actors with a model each, on one or more machines.

Ray schedules and retries; all else is as on one machine. Every machine must reach the inputs and
the output under the same paths. If Ray ends the process, for instance because it lost its cluster,
the same command resumes.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from PIL import Image

from tokcodec.dataset.folder import DatasetFolder
from tokcodec.errors import DatasetError
from tokcodec.tokenize.plan import Shard
from tokcodec.tokenize.run import Engine
from tokcodec.tokenize.step import ShardWriter, make_shards
from tokcodec.tokenize.task import Progress, Task

_COUNTS = ("rows", "failed", "images", "bytes_in", "bytes_read")  # of ``Progress``


class _Worker:
    """An actor, which loads the model once and then writes one shard per call. ``max_pixels`` is
    Pillow's limit in the process of the command."""

    def __init__(self, task: Task, folder: str, workers: int, max_pixels: int | None) -> None:
        Image.MAX_IMAGE_PIXELS = max_pixels
        codec = task.settings.load(str(task.header.path.absolute()))
        self.task, self.workers = task, workers
        self.writer = ShardWriter(task, codec, DatasetFolder(folder))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        shard = self.task.plan.shards[row["number"]]
        # Ray repeats a call whose actor dies before its answer arrives: the file is written again.
        (done,) = make_shards([self.writer], self.workers, [[shard]])
        return {"number": shard.number, **{name: getattr(done, name) for name in _COUNTS}}


def cluster_device(address: str | None) -> str:
    """``cuda`` if a cluster has GPUs, else ``cpu``; for ``address`` see ``on_ray``.

    Raises:
        DatasetError: Ray is not installed, or the cluster cannot be reached.
    """
    with _ray(address) as ray:
        return "cuda" if ray.cluster_resources().get("GPU") else "cpu"


def on_ray(
    task: Task, folder: DatasetFolder, address: str | None, actors: int, workers: int
) -> Engine:
    """The engine of a Ray cluster.

    Args:
        task, folder: the task, and the folder of its shards.
        address: the address of the cluster; None starts Ray on this machine, or joins the cluster
            that the environment variable RAY_ADDRESS names.
        actors, workers: see ``tokenize``.

    Raises:
        DatasetError: Ray is not installed, the cluster cannot be reached, or an actor fails.
    """

    def engine(
        todo: Sequence[Sequence[Shard]], _report: Callable[[Progress], None]
    ) -> Iterator[Progress]:
        (shards,) = todo  # of the one dataset
        if not shards:
            return
        rows = [{"number": shard.number} for shard in shards]
        where = str(folder.path.absolute())  # as actors can use it
        needs = {"CPU": workers, "GPU": int(task.settings.device == "cuda")}
        with _ray(address) as ray:
            _check(ray.nodes(), needs)
            results = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
                _Worker,
                fn_constructor_args=(task, where, workers, Image.MAX_IMAGE_PIXELS),
                compute=ray.data.ActorPoolStrategy(size=min(actors, len(rows))),
                num_cpus=needs["CPU"],
                num_gpus=needs["GPU"],
            )
            for result in results.iter_rows():
                shard = task.plan.shards[result["number"]]
                yield Progress(shard, **{name: result[name] for name in _COUNTS})

    return engine


def _check(nodes: Sequence[dict[str, Any]], needs: dict[str, int]) -> None:
    """Refuse an actor that fits on no machine: Ray would wait for ever."""
    for node in nodes:
        has = node["Resources"] if node["Alive"] else {}
        if all(has.get(name, 0) >= count for name, count in needs.items()):
            return
    wanted = ", ".join(f"{name} {count}" for name, count in needs.items())
    raise DatasetError(
        f"Ray: no machine has what an actor needs ({wanted}); use fewer workers, or another device"
    )


@contextlib.contextmanager
def _ray(address: str | None) -> Iterator[Any]:
    """Connect to Ray; the first use connects for the rest of the process. Errors of Ray are raised
    as ``DatasetError``."""
    # Ray tries 20 times to reach a cluster, 40 seconds each; with a wrong address that is too long.
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise DatasetError("Ray is not installed: install tokcodec's extra ray") from error
    try:
        # Standard output is for results; Ray prints errors of the cluster there.
        with contextlib.redirect_stdout(sys.stderr):
            if not ray.is_initialized():
                _connect(ray, address)
            yield ray
    except DatasetError:
        raise
    except Exception as error:  # Ray wraps what actors raise, and has many types of its own
        reason = (str(error).strip() or repr(error)).splitlines()[-1]
        raise DatasetError(f"Ray: {reason}; run the same command again to resume") from error


def _connect(ray: Any, address: str | None) -> None:
    """Connect without Ray's progress reports and without its SIGTERM handler."""
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
