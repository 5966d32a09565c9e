"""SIGINT (Ctrl-C) and SIGTERM."""

import signal
import threading
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SignalHandler:
    """Handles SIGINT and SIGTERM in a block, with the method ``handle`` of a subclass.

    Ignored signals stay ignored, as ``nohup`` and the ``&`` of a shell ask for. In a thread other
    than the main one, where Python handles no signals, nothing changes.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def handle(self, number: int) -> None:
        raise NotImplementedError

    def pass_on(self, number: int) -> None:
        """Ends the handling, and gives a signal to what handled it before the block."""
        self._restore()
        signal.raise_signal(number)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):  # None: not a handler of Python
                    self._before[number] = before
                    signal.signal(number, lambda number, _: self.handle(number))
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
