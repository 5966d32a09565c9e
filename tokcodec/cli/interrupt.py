"""Ctrl-C and SIGTERM: the command stops where it is, cleans up, and says what is done."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal came; ``standing`` says what is done and how to continue.

    It is no ``KeyboardInterrupt``, of which typer would leave nothing but a status.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number
        self.standing = "every file that was written is whole"

    def __str__(self) -> str:
        return f"interrupted: {self.standing}"


class Interrupts:
    """Makes the first signal raise ``Interrupted``, and a second one end the process at once.

    Signals are handled as before when the block ends. In a thread other than the main one, where
    Python handles none, nothing is changed.

    Attributes:
        came: what was raised.
    """

    def __init__(self) -> None:
        self.came: Interrupted | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                before = signal.getsignal(number)
                if before != signal.SIG_IGN:  # as nohup and & of shells ask for
                    self._before[number] = before
                    signal.signal(number, self._raise)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _raise(self, number: int, _frame: FrameType | None) -> None:
        for one in self._before:
            signal.signal(one, signal.SIG_DFL)
        self.came = Interrupted(number)
        raise self.came
