"""From the sources on the command line to what is read and where its result goes."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from tokcodec.sources import Record

STANDARD = "-"


@dataclass(frozen=True)
class Job:
    """The name of one input, and its output; None stands for standard output.

    ``problem`` says why there is nothing to be done, but to report it.
    """

    name: str
    target: Path | None
    problem: str | None = None

    def __str__(self) -> str:
        return self.name

    def is_there(self) -> bool:
        """Whether the output exists; not where no file can have its name."""
        return self.target is not None and os.path.exists(self.target)  # noqa: PTH110 (which raises)


def pictures(sources: Sequence[str]) -> "tuple[int | None, Iterator[Record]]":
    """The pictures of the sources, and how many there are if that is known before reading.

    Raises:
        typer.BadParameter: standard input is named.
        DatasetError: as ``sources.list_inputs``.
    """
    from tokcodec.sources import count, list_inputs

    if STANDARD in sources:
        raise typer.BadParameter("standard input is not read here", param_hint="SRC")
    batches = list_inputs(sources)
    return count(batches), chain.from_iterable(batch.records() for batch in batches)


def plan(
    sources: Sequence[str],
    output: str | None,
    rename: Callable[[str], str],
    kinds: Set[str] | None = None,
) -> "tuple[int | None, Iterator[tuple[Job, Record]]]":
    """A job for every source, and for everything in those that hold several; also their number,
    if that is known before tars are read.

    Without ``output`` a result stands beside its source. With it, one single file goes to that
    name, or into that folder if there is one or the name ends in a slash; all else goes into that
    folder, a source's own tree below it. ``kinds`` as of ``sources.expand``.

    Raises:
        typer.BadParameter: no files, two of them would have the same output, or what is in an
            archive or on a URL has no folder to go to.
        DatasetError: as ``sources.expand`` and ``sources.gather``.
    """
    from tokcodec.remote import is_remote
    from tokcodec.sources import (
        ABSENT,
        Batch,
        Files,
        Record,
        Stamp,
        count,
        expand,
        gather,
        names_one_file,
    )

    lone = len(sources) == 1 and (sources[0] == STANDARD or names_one_file(sources[0], kinds))
    if STANDARD in sources and not lone:
        raise typer.BadParameter("standard input is read alone", param_hint="SRC")
    if output == STANDARD and not lone:
        raise typer.BadParameter("standard output takes the result of one file", param_hint="-o")
    out = Path(output) if output and output != STANDARD else None
    into_folder = out is not None and (not lone or str(output).endswith(os.sep) or out.is_dir())
    if sources == [STANDARD]:
        if into_folder:
            raise typer.BadParameter("name a file for standard input", param_hint="-o")
        stamp = Stamp("", 0, ABSENT, "", "standard input")
        record = Record(STANDARD, None, sys.stdin.buffer.read, stamp)
        return 1, iter([(Job(record.name, out), record)])

    batches = gather((stamp for source in sources for stamp in expand(source, kinds)), kinds=kinds)
    if not batches:
        raise typer.BadParameter(f"no fitting files in {', '.join(sources)}", param_hint="SRC")
    for batch in batches if not into_folder else []:
        for stamp in batch.stamps:
            if is_remote(stamp.path) or not isinstance(batch, Files):
                raise typer.BadParameter(f"name a folder for what {stamp} gives", param_hint="-o")
    claimed: dict[Path | None, str] = {}

    def to_job(record: Record, batch: Batch) -> Job:
        if into_folder and (leaves(record.below) or leaves(record.member or record.below)):
            return Job(record.name, None, f"its name leaves the folder {out}; not written")
        target = None
        if output != STANDARD:
            path = Path(record.below if into_folder else record.name)
            beside = path.with_name(rename(path.name))
            target = out / beside if out and into_folder else out or beside
        if target in claimed:
            both = f"{claimed[target]} and {record.name} would both become {target}"
            if isinstance(batch, Files):
                raise typer.BadParameter(f"{both}; take them one at a time", param_hint="SRC")
            return Job(record.name, None, f"not written: {both}")
        claimed[target] = record.name
        return Job(record.name, target)

    def pairs(batch: Batch) -> Iterator[tuple[Job, Record]]:
        return ((to_job(record, batch), record) for record in batch.records())

    # Files at once, so that what is wrong with them is said before anything is done.
    files = [pair for batch in batches if isinstance(batch, Files) for pair in pairs(batch)]
    rest = (pair for batch in batches if not isinstance(batch, Files) for pair in pairs(batch))
    return count(batches), chain(files, rest)


def leaves(name: str) -> bool:
    """Whether a name from within an archive or a dataset is no path of a file below a folder."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or not path.name or "\0" in name
