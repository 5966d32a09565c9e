"""SIGINT (Ctrl-C) and SIGTERM."""

import signal
import threading
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SignalHandler:
    """Handles SIGINT and SIGTERM in a ``with`` block; subclasses define ``handle``.

    Ignored signals stay ignored, as ``nohup`` and ``&`` in a shell require. Only the main thread
    handles signals; in others the block has no effect.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def handle(self, number: int) -> None:
        raise NotImplementedError

    def pass_on(self, number: int) -> None:
        """Stop handling signals, and raise one for the handler that was set before the block."""
        self._restore()
        signal.raise_signal(number)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):  # None: not set from Python
                    self._before[number] = before
                    signal.signal(number, lambda number, _: self.handle(number))
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
