"""From the sources on the command line to what is read and where its result goes."""

import io
import os
import sys
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import typer

from tokcodec.files import find_files

STANDARD = "-"


class StandardInput(io.BytesIO):
    """All of standard input, under a name for messages."""

    name = "standard input"

    def __init__(self) -> None:
        super().__init__(sys.stdin.buffer.read())


@dataclass(frozen=True)
class Job:
    """One input and its output; None stands for standard input and standard output."""

    source: Path | None
    target: Path | None

    def __str__(self) -> str:
        return str(self.source or StandardInput.name)


def pictures(sources: Sequence[str], extensions: Callable[[], Set[str]]) -> list[Path]:
    """The files among ``sources`` and in the folders among them, each once.

    Raises:
        typer.BadParameter: there are none, or standard input is named.
    """
    if STANDARD in sources:
        raise typer.BadParameter("standard input is not read here", param_hint="SRC")
    found: dict[Path, None] = {}
    for path in map(Path, sources):
        for file in find_files(path, extensions()) if path.is_dir() else [path]:
            found[file] = None
    if not found:
        raise typer.BadParameter(f"no fitting files in {', '.join(sources)}", param_hint="SRC")
    return list(found)


def plan(
    sources: Sequence[str],
    output: str | None,
    extensions: Callable[[], Set[str]],
    rename: Callable[[str], str],
) -> list[Job]:
    """A job for every source, and for every fitting file in a source that is a folder.

    Without ``output`` a result stands beside its source. With it, one single file goes to that
    name, or into that folder if there is one or the name ends in a slash; several files and
    folders go into that folder, a folder's own tree below it.

    Raises:
        typer.BadParameter: no files, or two of them would have the same output.
    """
    lone = len(sources) == 1 and not Path(sources[0]).is_dir()
    if STANDARD in sources and not lone:
        raise typer.BadParameter("standard input is read alone", param_hint="SRC")
    if output == STANDARD and not lone:
        raise typer.BadParameter("standard output takes the result of one file", param_hint="-o")
    out = Path(output) if output and output != STANDARD else None
    into_folder = out is not None and (not lone or str(output).endswith(os.sep) or out.is_dir())
    if sources == [STANDARD] and into_folder:
        raise typer.BadParameter("name a file for standard input", param_hint="-o")

    def target(file: Path, base: Path) -> Path | None:
        if output == STANDARD:
            return None
        if out is None:
            return file.with_name(rename(file.name))
        below = file.relative_to(base)
        return out / below.with_name(rename(below.name)) if into_folder else out

    jobs = []
    for source in sources:
        path = Path(source)
        if source == STANDARD:
            jobs.append(Job(None, out))
        elif path.is_dir():
            found = find_files(path, extensions())
            jobs.extend(Job(file, target(file, path)) for file in found)
        else:
            jobs.append(Job(path, target(path, path.parent)))
    if not jobs:
        raise typer.BadParameter(f"no fitting files in {', '.join(sources)}", param_hint="SRC")
    claimed: dict[Path | None, Job] = {}
    for job in jobs:
        other = claimed.setdefault(job.target, job)
        if other is not job:
            raise typer.BadParameter(
                f"{other} and {job} would both become {job.target}; take them one at a time",
                param_hint="SRC",
            )
    return jobs
