"""The shards of a task on Ray Data: a pool of actors with a model each, on any number of machines.

Ray schedules, retries and holds back; the shard step, the files and the resuming are those of one
machine. Inputs and output must lie where every machine can reach them under the same paths.

Ray ends the process that loses its cluster, in C++, and writes what it likes to its streams; so it
has a process of its own, the driver, and this one says in a line what became of it.
"""

import contextlib
import functools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from PIL import Image

from tokcodec.codec import Codec
from tokcodec.errors import DatasetError
from tokcodec.io.remote import location
from tokcodec.tokenize.plan import Shard
from tokcodec.tokenize.run import Engine
from tokcodec.tokenize.step import ShardStep
from tokcodec.tokenize.task import Progress, Task

# Seconds without a machine that can go on: Ray takes one minute to give a machine up, and a cloud
# some more to replace it.
_PATIENCE = 300.0
_CONNECT = 60.0  # seconds for Ray to start, or be found
_BEAT = 2.0  # seconds between two signs of life

_ALIVE, _DONE = "alive", "done"
_COUNTS = ("rows", "failed", "images", "bytes_in")  # of ``Progress``, behind the shard


class _Worker:
    """An actor: loads the model once, then does the shards that it is handed. ``max_pixels`` is
    Pillow's limit in the process of the command, None with ``--allow-large``."""

    def __init__(self, task: Task, workers: int, max_pixels: int | None) -> None:
        Image.MAX_IMAGE_PIXELS = max_pixels
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
        return {"number": shard.number, **{name: getattr(done, name) for name in _COUNTS}}


def cluster_device(address: str | None) -> str:
    """``cuda`` where a cluster has GPUs, else ``cpu``; ``address`` as of ``on_ray``. Stays
    connected, so that an engine need not start Ray again.

    Raises:
        DatasetError: Ray is not installed, or the cluster cannot be reached.
    """
    return "cuda" if _driver(address).gpus else "cpu"


def on_ray(task: Task, address: str | None, actors: int, workers: int) -> Engine:
    """The engine of a Ray cluster.

    Args:
        task: what the actors are to do.
        address: of the cluster; None starts Ray on this machine, or joins what RAY_ADDRESS names.
        actors: how many; each takes a GPU where ``task.settings.device`` is ``cuda``.
        workers: threads that read images, and cores, of each actor.

    Raises:
        DatasetError: Ray is not installed, or the cluster cannot be reached or loses too much.
    """

    def engine(
        todo: Sequence[tuple[Shard, Path]], _report: Callable[[Progress], None]
    ) -> Iterator[Progress]:
        if not todo:
            return
        driver = _driver(address)
        try:
            rows = [{"number": s.number, "path": str(path.absolute())} for s, path in todo]
            driver.send((task, rows, actors, workers, Image.MAX_IMAGE_PIXELS))
            while (result := driver.receive()) != _DONE:
                shard = task.plan.shards[result["number"]]
                yield Progress(shard, *(result[name] for name in _COUNTS))
        finally:
            _driver.cache_clear()
            driver.stop()

    return engine


class _Driver:
    """The process that is connected to Ray, seen from this one.

    Raises:
        DatasetError: as ``receive``.
    """

    def __init__(self, address: str | None) -> None:
        self._connection, its = Pipe()
        with its:
            code = f"from tokcodec.tokenize import ray; ray._drive({its.fileno()})"
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        try:
            self.send(address)
            self.gpus: float = self.receive(_CONNECT)
        except BaseException:
            self.stop()
            raise

    def send(self, message: Any) -> None:
        with contextlib.suppress(ConnectionError):  # ``receive`` says so
            self._connection.send(message)

    def receive(self, patience: float = _PATIENCE) -> Any:
        """Its next message that is more than a sign of life; waits so many seconds for any.

        Raises:
            DatasetError: it has failed, ended, or been silent for too long.
        """
        message: Any = _ALIVE
        while message == _ALIVE:
            if not self._connection.poll(patience):
                raise DatasetError(
                    f"Ray: for {patience:.0f} s the cluster has not answered, or had no machine "
                    "for an actor; see to it, and run again to go on"
                )
            try:
                message = self._connection.recv()
            except (EOFError, ConnectionError) as error:
                raise DatasetError(
                    "Ray: the connection to the cluster is lost; run again to go on"
                ) from error
        if isinstance(message, DatasetError):
            raise message
        return message

    def stop(self) -> None:
        """Ends it, and with it a Ray that it started; at once, if it does not in a while."""
        self._connection.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


_driver = functools.cache(_Driver)


def _drive(descriptor: int) -> None:
    """What the driver does: says how many GPUs there are, takes the work, gives what is done."""
    connection = Connection(descriptor)
    try:
        with _ray(connection.recv()) as ray:
            connection.send(ray.cluster_resources().get("GPU", 0))
            task, rows, actors, workers, max_pixels = connection.recv()
            needs = {"CPU": workers, "GPU": int(task.settings.device == "cuda")}
            _check(ray.nodes(), needs)
            lock = threading.Lock()

            def send(message: Any) -> None:
                with lock:
                    connection.send(message)

            threading.Thread(target=_beat, args=(ray, needs, send), daemon=True).start()
            ray.data.DataContext.get_current().enable_progress_bars = False
            results = (
                ray.data.from_items(rows, override_num_blocks=len(rows))
                .map(
                    _Worker,
                    fn_constructor_args=(task, workers, max_pixels),
                    compute=ray.data.ActorPoolStrategy(size=min(actors, len(rows))),
                    num_cpus=needs["CPU"],
                    num_gpus=needs["GPU"],
                )
                .iter_rows()
            )
            for result in results:
                send(result)
            send(_DONE)
    except EOFError:
        pass  # no work for it, or nobody who wants it
    except DatasetError as error:
        with contextlib.suppress(ConnectionError):
            connection.send(error)


def _beat(ray: Any, needs: dict[str, int], send: Callable[[Any], None]) -> None:
    """Signs of life, as long as the cluster answers and has a machine for an actor."""
    here = ray.get_runtime_context().get_node_id()
    while True:
        time.sleep(_BEAT)
        with contextlib.suppress(Exception):  # of Ray, or ``_check``: then there is no sign
            nodes = ray.nodes()
            if any(node["NodeID"] == here and not node["Alive"] for node in nodes):
                os._exit(1)  # cut off and given up, which Ray does not tell its driver
            _check(nodes, needs)
            try:
                send(_ALIVE)
            except OSError:  # whoever began this is gone
                os.kill(os.getpid(), signal.SIGTERM)


def _check(nodes: Sequence[dict[str, Any]], needs: dict[str, int]) -> None:
    """Refuses what an actor needs where Ray would wait for it for ever."""
    for node in nodes:
        has = node["Resources"] if node["Alive"] else {}
        if all(has.get(name, 0) >= count for name, count in needs.items()):
            return
    wanted = ", ".join(f"{name} {count}" for name, count in needs.items())
    raise DatasetError(
        f"Ray: no machine has what an actor needs ({wanted}); take fewer workers, or another device"
    )


@contextlib.contextmanager
def _ray(address: str | None) -> Iterator[Any]:
    """Ray, connected; what it raises becomes a ``DatasetError``."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise DatasetError("Ray is not installed: install tokcodec's extra ray") from error
    try:
        ray.init(address, logging_level=logging.ERROR)
        yield ray
    except (DatasetError, EOFError):
        raise
    except Exception as error:  # of any kind: Ray wraps what actors raise, and has many of its own
        reason = (str(error).strip() or repr(error)).splitlines()[-1]
        raise DatasetError(f"Ray: {reason}; run again to go on") from error
