"""What a command prints: messages, progress, JSON and a last line.

Text that comes from files passes ``errors.escaped`` before it reaches a terminal. JSON keeps it.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tokcodec.cli.interrupt import Interrupted
from tokcodec.dataset import require_pyarrow as require_pyarrow
from tokcodec.errors import escaped, one_line

if TYPE_CHECKING:
    from rich.progress import Progress

quiet = False  # see ``verbosity``

NAMED = 10  # failures that are printed as they occur
_FIRST, _EVERY = 10.0, 30.0  # seconds to a line about work that no terminal shows


@contextlib.contextmanager
def verbosity(only_errors: bool) -> Iterator[None]:
    """Prints only errors in the block, if ``only_errors`` is set (--quiet)."""
    global quiet
    before, quiet = quiet, only_errors
    try:
        yield
    finally:
        quiet = before


def say(message: str) -> None:
    """Prints one line on standard error, with the program's name before it."""
    print(f"tokcodec: {one_line(message)}", file=sys.stderr, flush=True)


def note(message: str) -> None:
    """Prints one line as ``say`` does, but not with ``--quiet``."""
    if not quiet:
        say(message)


def show(line: str) -> None:
    """Prints one line of a result on standard output, uncut."""
    print(escaped(line))


def cell(text: str) -> str:
    """Escapes text from a file for a table of rich, which reads square brackets as markup."""
    from rich.markup import escape

    return escape(escaped(text))


def why_unknown(model_id: str) -> str:
    """What to do about the model of a ``model_id`` that was not found."""
    return f"{model_id} is neither bundled nor cached; name its checkpoint with --weights"


def print_json(value: Any) -> None:
    print(json.dumps(value), flush=True)


class Bar:
    """Shows the progress of long work, and prints one line when it ends.

    On a terminal it is a bar, elsewhere a line every half minute. The first failures are printed as
    they occur. If an interrupt or an error ends the work, the last line says how much is done.

    Attributes:
        total: the number of items; None if it is unknown. If it is 0, nothing is printed.
        done, skipped, failed: the number of items so far; an earlier run did the skipped ones.
        bytes_in, bytes_out: bytes read and written, for the last line.
        remark: text after the bar and at the end of the last line.
        again: how to continue after an interrupt.
    """

    def __init__(
        self, done: str, total: int | None, unit: str = "images", where_failed: str = ""
    ) -> None:
        """
        Args:
            done: a participle that says what happens to each item: ``encoded``.
            total: see above.
            unit: the plural of the items.
            where_failed: where all failures are listed.
        """
        self.verb, self.total, self.unit, self.where_failed = done, total, unit, where_failed
        self.done = self.skipped = self.failed = 0
        self.bytes_in = self.bytes_out = 0
        self.remark = ""
        self.again = "the same command continues"
        self._begun = time.monotonic()
        self._next = self._begun + _FIRST
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        self._next = self._begun + _FIRST
        if not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self._progress = _progress(self.verb, self.total, self.unit)
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress:
            self._progress.update(self._progress.task_ids[0], completed=self._moved, refresh=True)
            self._progress.stop()
        if not error:
            if self.total != 0:
                note(self._summary())
            return
        of = f" of {self.total:,}" if self.total else ""
        standing = f"{self.done + self.skipped:,}{of} {self.verb}; {self.again}"
        if isinstance(error, Interrupted):
            error.standing = standing
        elif self._moved:
            note(f"stopped: {standing}")

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

    @property
    def _rate(self) -> float:
        """Items per second, without those that were skipped."""
        return (self.done + self.failed) / max(time.monotonic() - self._begun, 1e-3)

    def _show(self) -> None:
        if self._progress:
            task = self._progress.task_ids[0]
            self._progress.update(task, total=self.total, completed=self._moved, remark=self.remark)
        elif (now := time.monotonic()) >= self._next:
            self._next = now + _EVERY
            of = f" of {self.total:,}" if self.total is not None else ""
            parts = [f"{self._moved:,}{of} {self.unit}", f"{_short(self._rate)} {self.unit}/s"]
            if self.total is not None and self._rate:
                left = (self.total - self._moved) / self._rate
                parts.append(f"{timedelta(seconds=int(max(0, left)))} left")
            note(", ".join([*parts, *([self.remark] if self.remark else [])]))

    def _summary(self) -> str:
        parts = [f"{self.done:,} {self.verb}"]
        if self.bytes_in and self.bytes_out:
            parts[0] += f" ({self.bytes_in:,} bytes to {self.bytes_out:,})"
        if self.done:
            seconds = time.monotonic() - self._begun
            long = seconds >= 60
            parts[0] += f" in {timedelta(seconds=int(seconds)) if long else f'{seconds:.1f} s'}"
            parts.append(f"{_short(self._rate)} {self.unit}/s")
        if self.skipped:
            parts.append(f"{self.skipped:,} skipped as up to date")
        if self.remark:
            parts.append(self.remark)
        if self.failed:
            more = self.where_failed if self.failed > NAMED else ""
            parts.append(f"{self.failed:,} failed" + (f" ({more})" if more else ""))
        return ", ".join(parts)


def _progress(verb: str, total: int | None, unit: str) -> "Progress":
    """A progress bar that is erased at its end."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{_short(task.finished_speed or task.speed or 0)} {unit}/s")

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(20),
        MofNCompleteColumn(),
        Speed(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}", markup=False),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # else results would go where the bar is
    )
    bar.add_task(verb, total=total, remark="")
    return bar


def _short(value: float) -> str:
    return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"
