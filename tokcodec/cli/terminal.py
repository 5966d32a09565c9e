"""What people and programs see: messages, progress, JSON lines, and the status at the end.

Text of files passes ``errors.escaped`` on its way to a terminal; JSON says it exactly.
"""

import json
import sys
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import typer

from tokcodec.cli.jobs import Job
from tokcodec.dataset import require_pyarrow as require_pyarrow
from tokcodec.errors import escaped, one_line

if TYPE_CHECKING:
    from rich.progress import Progress


def say(message: str) -> None:
    """One line on standard error, under the program's name."""
    print(f"tokcodec: {one_line(message)}", file=sys.stderr, flush=True)


def show(line: str) -> None:
    """One line of a result on standard output, however long."""
    print(escaped(line))


def cell(text: str) -> str:
    """Text of a file for a table of rich's, to which square brackets are markup."""
    from rich.markup import escape

    return escape(escaped(text))


def print_json(value: Any) -> None:
    print(json.dumps(value), flush=True)


class Tally:
    """Counts the ends of jobs, shows them as they come, and closes with the exit status.

    Several jobs, or a number that is not known (None), have a progress bar on a terminal. With
    ``as_json`` every job is a line of JSON on standard output: ``source, output, status`` (``ok``,
    ``skipped``, ``failed``), ``error``, ``file_bytes``.
    """

    def __init__(self, verb: str, jobs: int | None, as_json: bool) -> None:
        self.verb, self.jobs, self.as_json = verb, jobs, as_json
        self.counts = {"ok": 0, "skipped": 0, "failed": 0}
        self.bytes = 0
        self.progress = None if jobs == 1 or not sys.stderr.isatty() else _bar(verb, jobs)

    def __enter__(self) -> Self:
        if self.progress:
            self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.progress:
            self.progress.stop()

    def done(
        self, job: Job, size: int, what: str, facts: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """``facts`` are for the line of JSON."""
        self._count(job, "ok", None, size, facts)
        if self.jobs == 1 and not self.as_json and job.target:
            say(f"{job} -> {job.target}: {what}")

    def skipped(self, job: Job) -> None:
        self._count(job, "skipped", None, None)

    def failed(self, job: Job, error: str) -> None:
        self._count(job, "failed", error, None)
        if self.progress:
            # Above the bar, and as plain text: a file's name is no markup.
            line = f"tokcodec: {one_line(error)}"
            self.progress.console.print(line, markup=False, highlight=False)
        else:
            say(error)

    def close(self) -> None:
        """The summary of several jobs.

        Raises:
            typer.Exit: status 3 if some of several jobs failed, 1 if the only one did.
        """
        failed = self.counts["failed"]
        if self.jobs != 1:
            parts = [f"{self.counts['ok']} {self.verb}d ({self.bytes:,} bytes)"]
            if self.counts["skipped"]:
                parts.append(f"{self.counts['skipped']} skipped as done")
            if failed:
                parts.append(f"{failed} failed")
            say(", ".join(parts))
        elif self.counts["skipped"]:
            say("skipped: its token file is whole and up to date (-f encodes again)")
        if failed:
            raise typer.Exit(1 if self.jobs == 1 else 3)

    def _count(
        self,
        job: Job,
        status: str,
        error: str | None,
        size: int | None,
        facts: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.counts[status] += 1
        self.bytes += size or 0
        if self.progress:
            self.progress.advance(self.progress.task_ids[0])
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


def _bar(verb: str, jobs: int | None) -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    bar.add_task(verb, total=jobs)
    return bar
