"""Ctrl-C and SIGTERM: the command stops where it is, cleans up, and says what is done."""

import signal

from tokcodec.interrupts import SignalHandler


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


class Interrupts(SignalHandler):
    """Makes the first signal raise ``Interrupted``, and a second one end the process at once.

    Attributes:
        came: what was raised.
    """

    came: Interrupted | None = None

    def handle(self, number: int) -> None:
        for one in self._before:
            signal.signal(one, signal.SIG_DFL)
        self.came = Interrupted(number)
        raise self.came
