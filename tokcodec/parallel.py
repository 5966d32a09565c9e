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
    at_once: bool = False,
) -> Iterator[R]:
    """``function`` of each item, in order.

    Args:
        function: done in threads.
        items: taken in the thread that takes results.
        workers: threads.
        ahead: at most so many results wait to be taken.
        begin: what each thread does first.
        at_once: give what is done before taking a further item, for items that are long in coming;
            else only once ``ahead`` wait, so that threads have work while a result is made use of.
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
