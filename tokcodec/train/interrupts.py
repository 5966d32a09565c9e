"""Ctrl-C and SIGTERM wait until a step is done and saved."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from tokcodec.train import ranks

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class DelayedInterrupt:
    """Holds back the first signal in a block until ``deliver`` is called.

    A second one is handled at once, unless there are several processes: ``torchrun`` repeats
    signals, and kills its processes after half a minute by itself. Signals that are ignored, or
    that end the process at once, stay as they are; so do all in a thread other than the main one,
    where Python handles none.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._came: int | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._came is not None

    def deliver(self) -> None:
        """Handles the signal that came as it would have been handled without this block."""
        number = self._came
        assert number is not None
        handler = self._before[number]
        self._restore()
        handler(number, None)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._before[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._came is None or ranks.count() > 1:
            self._came = number
            return
        handler = self._before[number]
        self._restore()
        handler(number, frame)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
