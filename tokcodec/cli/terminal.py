"""What people and programs see: messages, progress, JSON lines, and the status at the end.

Text of files passes ``errors.escaped`` on its way to a terminal; JSON says it exactly.
"""

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import typer

from tokcodec.cli.interrupt import Interrupted
from tokcodec.cli.jobs import Job
from tokcodec.dataset import require_pyarrow as require_pyarrow
from tokcodec.errors import OutputError, escaped, one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress

    from tokcodec.inputs.records import Record

quiet = False  # see ``verbosity``

NAMED = 10  # failures that are named as they come
_FIRST, _EVERY = 10.0, 30.0  # seconds to a line about work that no terminal shows


@contextlib.contextmanager
def verbosity(only_errors: bool) -> Iterator[None]:
    """Only errors are said in the block, as --quiet asks for."""
    global quiet
    before, quiet = quiet, only_errors
    try:
        yield
    finally:
        quiet = before


def say(message: str) -> None:
    """One line on standard error, under the program's name; above a bar, where there is one."""
    print(f"tokcodec: {one_line(message)}", file=sys.stderr, flush=True)


def note(message: str) -> None:
    """As ``say``, what ``--quiet`` leaves out."""
    if not quiet:
        say(message)


def show(line: str) -> None:
    """One line of a result on standard output, however long."""
    print(escaped(line))


def cell(text: str) -> str:
    """Text of a file for a table of rich's, to which square brackets are markup."""
    from rich.markup import escape

    return escape(escaped(text))


def why_unknown(model_id: str) -> str:
    """What to do about the model of a ``model_id`` that is not at hand."""
    return f"{model_id} is neither bundled nor cached; name its checkpoint with --weights"


def write_out(data: bytes) -> None:
    """A result on standard output.

    Raises:
        OutputError: it cannot be written there.
    """
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise OutputError(f"standard output: cannot write: {error.strerror}") from error


def print_json(value: Any) -> None:
    print(json.dumps(value), flush=True)


class Bar:
    """Long work as it gets on, and the line that it leaves when it ends.

    On a terminal it is a bar, elsewhere a line every so often. Failures are named as they come,
    the first few. An interrupt, or an error that ends it, comes with what stands.

    Attributes:
        total: how many there are, None where that is not known; where it stays 0, nothing is said.
        done, skipped, failed: what became of them; skipped are those that were done before.
        bytes_in, bytes_out: read and written; in the last line, where there are any.
        remark: further text behind the bar and in the last line.
        again: how the work goes on after an interrupt.
    """

    def __init__(
        self, done: str, total: int | None, unit: str = "images", where_failed: str = ""
    ) -> None:
        """
        Args:
            done: what becomes of one, in a participle: ``encoded``.
            total: see above.
            unit: what they are.
            where_failed: what names all that failed.
        """
        self.verb, self.total, self.unit, self.where_failed = done, total, unit, where_failed
        self.done = self.skipped = self.failed = 0
        self.bytes_in = self.bytes_out = 0
        self.remark = ""
        self.again = "the same command goes on"
        self._named = 0
        self._begun = time.monotonic()
        self._next = self._begun + _FIRST
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        self._next = self._begun + _FIRST
        if not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self._progress = _bar(self.verb, self.total)
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress:
            if not error:
                self._progress.update(self._progress.task_ids[0], total=self._moved)
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
        """So many more are done."""
        self.done += count
        self._show()

    def skip(self, count: int = 1) -> None:
        """So many were done before."""
        self.skipped += count
        self._show()

    def fail(self, reason: str = "", count: int = 1) -> None:
        """So many failed; ``reason``, which is of one, begins with its name."""
        self.failed += count
        if reason and self._named < NAMED:
            self._named += 1
            say(reason)
        self._show()

    @property
    def _moved(self) -> int:
        return self.done + self.skipped + self.failed

    def _show(self) -> None:
        if self._progress:
            task, text = self._progress.task_ids[0], self._pace()
            self._progress.update(task, total=self.total, completed=self._moved, pace=text)
        elif (now := time.monotonic()) >= self._next:
            self._next = now + _EVERY
            of = f" of {self.total:,}" if self.total is not None else ""
            note(f"{self._moved:,}{of} {self.unit}, {self._pace()}")

    def _pace(self) -> str:
        """How fast, for how much longer, and the remark."""
        rate = self._rate()
        parts = [f"{_short(rate)} {self.unit}/s"] if rate else []
        if rate and self.total is not None:
            parts.append(f"{_clock(max(0, self.total - self._moved) / rate)} left")
        return ", ".join([*parts, *([self.remark] if self.remark else [])])

    def _rate(self) -> float:
        """Of what is done here: what was skipped took no time to speak of."""
        return (self.done + self.failed) / max(time.monotonic() - self._begun, 1e-3)

    def _summary(self) -> str:
        text = f"{self.done:,} {self.verb}"
        if self.bytes_in and self.bytes_out:
            ratio = self.bytes_in / self.bytes_out
            shown = f", {_short(ratio)} : 1" if ratio >= 1 else ""
            text += f" ({self.bytes_in:,} bytes to {self.bytes_out:,}{shown})"
        parts = [text]
        if self.done:
            seconds = time.monotonic() - self._begun
            parts[0] += f" in {_clock(seconds) if seconds >= 60 else f'{seconds:.1f} s'}"
            parts.append(f"{_short(self._rate())} {self.unit}/s")
        if self.skipped:
            parts.append(f"{self.skipped:,} skipped as done")
        if self.remark:
            parts.append(self.remark)
        if self.failed:
            parts.append(f"{self.failed:,} failed")
            if self._named < self.failed:
                above = f"{self._named} named above" if self._named else ""
                told = [part for part in (above, self.where_failed) if part]
                parts[-1] += f" ({'; '.join(told)})" if told else ""
        return ", ".join(parts)


class Tally:
    """Counts the ends of jobs, shows them as they come, and closes with the exit status.

    Several jobs, or a number that is not known (None), have a ``Bar``. With ``as_json`` every job
    is a line of JSON on standard output: ``source, output, status`` (``ok``, ``skipped``,
    ``failed``), ``error``, ``file_bytes``.
    """

    def __init__(self, verb: str, jobs: int | None, as_json: bool) -> None:
        self.as_json = as_json
        named = "" if as_json else "--json names all"
        self._bar = None if jobs == 1 else Bar(f"{verb}d", jobs, where_failed=named)
        self._failed = False
        self._read: dict[str, int] = {}  # bytes of what is under way, by name

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.__exit__(kind, error, traceback)

    def weighed(self, records: "Iterable[Record]") -> "Iterator[Record]":
        """The same records, of which the tally sees how many bytes each is when it is read."""

        def read(name: str, read: "Callable[[], bytes]") -> bytes:
            data = read()
            self.weigh(name, len(data))
            return data

        for record in records:
            yield dataclasses.replace(record, read=partial(read, record.name, record.read))

    def weigh(self, name: str, size: int) -> None:
        """The input of the job of this name has so many bytes."""
        self._read[name] = size

    def done(
        self, job: Job, size: int, what: str, facts: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """``facts`` are for the line of JSON."""
        read = self._read.pop(job.name, 0)
        if self._bar:
            self._bar.bytes_in += read
            self._bar.bytes_out += size
            self._bar.move()
        elif job.target and not self.as_json:
            note(f"{job} -> {job.target}: {what}")
        self._tell(job, "ok", None, size, facts)

    def skipped(self, job: Job) -> None:
        if self._bar:
            self._bar.skip()
        else:
            note(f"skipped: {job.target} is whole and up to date (-f makes it again)")
        self._tell(job, "skipped", None, None)

    def failed(self, job: Job, error: str) -> None:
        self._failed = True
        self._read.pop(job.name, 0)
        if self._bar:
            self._bar.fail(error)
        else:
            say(error)
        self._tell(job, "failed", error, None)

    def close(self) -> None:
        """Ends the command where some failed.

        Raises:
            typer.Exit: status 3 if some of several jobs failed, 1 if the only one did.
        """
        if self._failed:
            raise typer.Exit(3 if self._bar else 1)

    def _tell(
        self,
        job: Job,
        status: str,
        error: str | None,
        size: int | None,
        facts: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        if self.as_json:
            print_json(
                {
                    "source": str(job),
                    "output": str(job.target) if job.target else None,
                    "status": status,
                    "error": error,
                    "file_bytes": size,
                    **facts,
                }
            )


def _bar(verb: str, total: int | None) -> "Progress":
    """A bar that is gone when it ends."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}", markup=False),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # else results would go where the bar is
    )
    bar.add_task(verb, total=total, pace="")
    return bar


def _short(value: float) -> str:
    return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))
