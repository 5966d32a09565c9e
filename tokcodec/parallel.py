"""A bounded, ordered map over threads: reading and writing go on while the model runs."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(
    function: Callable[[T], R],
    items: Iterable[T],
    workers: int,
    ahead: int,
    begin: Callable[[], None] | None = None,
) -> Iterator[R]:
    """``function`` of each item, in order, with at most ``ahead`` results waiting to be taken;
    each thread first does ``begin``."""
    with ThreadPoolExecutor(workers, initializer=begin) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
