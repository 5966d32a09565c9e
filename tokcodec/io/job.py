"""``Job``: one output of a command, and whether an existing file is kept, replaced or refused."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

from tokcodec.errors import Hint, OutputError
from tokcodec.io.files import is_stream, same_file

State = Literal["new", "current", "stale", "foreign"]
Source = TypeVar("Source", covariant=True)


@dataclass(frozen=True)
class Job(Generic[Source]):
    """One input and its output, which a command writes, skips or refuses.

    Attributes:
        source: the input; its ``str`` is its name.
        target: the file to write; None for standard output, or if nothing may be written.
        state: ``new``: to be written. ``current``: the file is what this run would write.
            ``stale``: it is a result of this input, but older or made with other options.
            ``foreign``: it is something else, or the job may not write at all.
        why: the reason for the state, if it needs one.
    """

    source: Source
    target: Path | None
    state: State = "new"
    why: str | None = None

    @property
    def name(self) -> str:
        """The name of the input."""
        return str(self.source)

    @property
    def error(self) -> OutputError | None:
        """Why the job fails if overwriting is not allowed."""
        if self.state in ("new", "current"):
            return None
        if self.target is None:
            return OutputError(str(self.why), name=self.name)
        return OutputError(str(self.why), name=self.target, hint=Hint.OVERWRITE)

    def is_to_do(self, overwrite: bool) -> bool:
        return self.state == "new" or (overwrite and self.target is not None)

    def check(self, overwrite: bool) -> None:
        """Raise OutputError if the job may not write its file."""
        if self.error and not self.is_to_do(overwrite):
            raise self.error


def is_taken(target: Path) -> bool:
    """Whether writing would replace a file; False if no file can have that name."""
    return os.path.exists(target) and not is_stream(target)  # noqa: PTH110 (which raises)


def single_job(source: str | Path, target: Path) -> Job[str | Path]:
    """The job of a command with a single output, for which any existing file is ``foreign``."""
    if not is_taken(target):
        return Job(source, target)
    if same_file(source, target):
        return Job(source, None, "foreign", "is the input itself; name another output")
    return Job(source, target, "foreign", "already exists")
