"""Ctrl-C and SIGTERM wait until a step is done and saved."""

from tokcodec.interrupts import SignalHandler
from tokcodec.train import ranks


class DelayedInterrupt(SignalHandler):
    """Holds back the first signal in a block until ``deliver`` is called.

    A second one is handled at once, unless there are several processes: ``torchrun`` repeats
    signals, and kills its processes after half a minute by itself.
    """

    _came: int | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._came is not None

    def deliver(self) -> None:
        """Handles the signal that came as it would have been handled without this block."""
        assert self._came is not None
        self.pass_on(self._came)

    def handle(self, number: int) -> None:
        if self.requested and ranks.count() == 1:
            self.pass_on(number)
        self._came = number
