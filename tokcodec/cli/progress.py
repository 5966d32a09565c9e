"""The progress of long work, and the line that ends it."""

import math
import os
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from tokcodec.cli import terminal
from tokcodec.cli.interrupt import Interrupted
from tokcodec.cli.terminal import note, say
from tokcodec.errors import counted

if TYPE_CHECKING:
    from rich.progress import Progress

NAMED = 10  # failures that are printed as they occur
_FIRST, _EVERY = 10.0, 30.0  # seconds before a line, if standard error is not a terminal


class Bar:
    """Shows the progress of long work, and prints one line when it ends.

    On a terminal it is a bar, elsewhere a line every half minute. The first failures are printed as
    they occur. If an interrupt or an error ends the work, the last line says how much is done.

    Attributes:
        verb: a participle that says what happens to each item: ``encoded``.
        total: the number of items; None if it is unknown. If it is 0, nothing is printed.
        unit: the singular of the items.
        again: what the same command does after an interrupt.
        where_failed: where all failures are listed.
        total_bytes: the size of all sources, to show progress if ``total`` is unknown.
        done, skipped, failed: the number of items so far; an earlier run did the skipped ones.
        bytes_in, bytes_out: bytes of the items read and written, for the last line.
        bytes_read, bytes_skipped: bytes of the sources read so far, and those of skipped items.
        remark: text after the bar and at the end of the last line.
    """

    def __init__(
        self,
        verb: str,
        total: int | None,
        unit: str = "image",
        again: str = "continues",
        where_failed: str = "",
    ) -> None:
        self.verb, self.total, self.unit = verb, total, unit
        self.again, self.where_failed = again, where_failed
        self.total_bytes: int | None = None
        self.done = self.skipped = self.failed = self.bytes_in = self.bytes_out = 0
        self.bytes_read = self.bytes_skipped = 0
        self.remark = ""
        self._begun = self._next = math.inf
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        self._next = self._begun + _FIRST
        if not terminal.quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.progress import BarColumn, Progress

            self._progress = Progress(
                "{task.description}",
                BarColumn(20),
                "{task.fields[text]}",
                console=Console(stderr=True, markup=False),
                transient=True,  # the line that follows says more
                redirect_stdout=sys.stdout.isatty(),  # otherwise it would redirect results
            )
            self._progress.add_task(self.verb, total=self.total, text="")
            self._progress.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._progress:
            self._show()
            self._progress.stop()
        if not error:
            if self.total != 0:
                note(self._summary())
            return
        of = f" of {self.total:,}" if self.total else ""
        summary = f"{self.done + self.skipped:,}{of} {self.verb}; the same command {self.again}"
        if isinstance(error, Interrupted):
            error.summary = summary
        elif self._moved:
            note(f"stopped: {summary}")

    def move(self, count: int = 1) -> None:
        """Counts items as done."""
        self.done += count
        self._show()

    def skip(self, count: int = 1) -> None:
        """Counts items that an earlier run did."""
        self.skipped += count
        self._show()

    def fail(self, reason: str = "", count: int = 1) -> None:
        """Counts items as failed; ``reason`` is the message about one of them."""
        if reason and self.failed < NAMED:
            say(reason)
        self.failed += count
        self._show()

    @property
    def _moved(self) -> int:
        return self.done + self.skipped + self.failed

    def _show(self) -> None:
        now = time.monotonic()
        if self._progress:
            task = self._progress.task_ids[0]
            total, moved = self.total, self._moved
            if total is None and self.total_bytes:
                total, moved = self.total_bytes, self.bytes_read
            self._progress.update(task, total=total, completed=moved, text=self._text(now))
        elif now >= self._next:
            self._next = now + _EVERY
            note(self._text(now))

    def _text(self, now: float) -> str:
        """``12 of 1,000 images, 3.4 images/s, 0:04:50 left``; if the number of images is unknown,
        ``12 images, 2.3 of 1,000.0 MB, ...``."""
        moved, share = counted(self._moved, self.unit), ""
        timed, rest = self.done + self.failed, 0
        if self.total is not None:
            moved = f"{self._moved:,} of {counted(self.total, self.unit)}"
            rest = self.total - self._moved
        elif self.total_bytes:
            share = f"{self.bytes_read / 1e6:,.1f} of {self.total_bytes / 1e6:,.1f} MB"
            timed, rest = self.bytes_read - self.bytes_skipped, self.total_bytes - self.bytes_read
        left = ""
        if timed and (share or self.total is not None):
            seconds = max(0, rest) * (now - self._begun) / timed
            left = f"{timedelta(seconds=int(seconds))} left"
        return _joined(moved, share, self._speed(now), left, self.remark)

    def _speed(self, now: float) -> str:
        """``12.3 images/s`` or ``2.5 s/image``, without skipped items, which take no time."""
        rate = (self.done + self.failed) / max(now - self._begun, 1e-3)
        if rate >= 1:
            return f"{rate:,.1f} {self.unit}s/s"
        return f"{1 / rate:,.1f} s/{self.unit}" if rate else ""

    def _summary(self) -> str:
        now = time.monotonic()
        seconds = now - self._begun
        spent = timedelta(seconds=int(seconds)) if seconds >= 60 else f"{seconds:.1f} s"
        size = f" ({counted(self.bytes_in, 'byte')} to {self.bytes_out:,})"
        where = f" ({self.where_failed})" if self.failed > NAMED and self.where_failed else ""
        return _joined(
            f"{self.done:,} {self.verb}{size if self.bytes_in and self.bytes_out else ''}"
            + (f" in {spent}" if self.done else ""),
            self._speed(now) if self.done else "",
            f"{self.skipped:,} skipped as up to date" if self.skipped else "",
            self.remark,
            f"{self.failed:,} failed{where}" if self.failed else "",
        )


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
