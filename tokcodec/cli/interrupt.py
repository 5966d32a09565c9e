"""Ctrl-C and SIGTERM: the command stops where it is, tidies up, and says what stands."""

import signal
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal came; whoever knows says with ``standing`` what is done and how to go on.

    It is no ``KeyboardInterrupt``, of which typer would leave nothing but a status.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number
        self.standing = "what was written is whole"

    def __str__(self) -> str:
        return f"interrupted: {self.standing}"


class Interrupts:
    """Has signals raise ``Interrupted`` until one came: a second one ends the process at once.

    ``came`` is what was raised: what is on its way through imports of compiled modules may end up
    as an error of another kind.
    """

    def __init__(self) -> None:
        self.came: Interrupted | None = None
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup and & of shells ask for
                signal.signal(number, self._raise)

    def end(self) -> None:
        """From here on, signals end the process at once."""
        for number in _SIGNALS:
            if signal.getsignal(number) == self._raise:
                signal.signal(number, signal.SIG_DFL)

    def _raise(self, number: int, _frame: FrameType | None) -> None:
        self.end()
        self.came = Interrupted(number)
        raise self.came
