"""Ctrl-C and SIGTERM: the command stops, cleans up, and reports what is done."""

import signal

from tokcodec.interrupts import SignalHandler


class Interrupted(BaseException):
    """Raised by a signal; ``summary`` says what is done and how to continue.

    Typer would turn a ``KeyboardInterrupt`` into an exit status without a message.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number
        self.summary = "every file that was written is complete"

    def __str__(self) -> str:
        return f"interrupted: {self.summary}"


class Interrupts(SignalHandler):
    """Makes the first signal raise ``Interrupted``, and a second one end the process at once.

    Attributes:
        came: the exception that was raised.
    """

    came: Interrupted | None = None

    def handle(self, number: int) -> None:
        for one in self._before:
            signal.signal(one, signal.SIG_DFL)
        self.came = Interrupted(number)
        raise self.came
