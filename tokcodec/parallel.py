"""A bounded, ordered map over threads, to read and write while the model runs."""

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
    at_once: bool = False,
) -> Iterator[R]:
    """Call ``function`` for each item in threads; yield the results in order.

    Args:
        function: called in the threads.
        items: iterated in the thread that takes the results.
        workers: number of threads.
        ahead: the most results that wait to be taken.
        begin: called first in each thread.
        at_once: yield results before taking another item, for items that arrive slowly; otherwise
            only when ``ahead`` results wait, so that the threads have work while one is used.
    """
    with ThreadPoolExecutor(workers, initializer=begin) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                while len(waiting) > ahead or (at_once and waiting and waiting[0].done()):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
