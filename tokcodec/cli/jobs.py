"""From the sources on the command line to what is read and where its result goes."""

import glob
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import typer

from tokcodec.io.files import SUFFIX, is_stream, same_file
from tokcodec.io.remote import is_remote
from tokcodec.io.tar import MAX_BYTES

if TYPE_CHECKING:
    from tokcodec.inputs.listing import Selection
    from tokcodec.inputs.records import Record

STANDARD = "-"
DECODE = "is a token file; tokcodec decode makes an image of it"
ENCODE = "is an image; tokcodec encode makes a token file of it"


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
        """Whether a file would be replaced; not where no file can have the output's name."""
        return (
            self.target is not None
            and os.path.exists(self.target)  # noqa: PTH110 (which raises)
            and not is_stream(self.target)
        )


def images(
    sources: Sequence[str], max_bytes: int = MAX_BYTES, selection: "Selection | None" = None
) -> "tuple[int | None, Iterator[Record]]":
    """The images of the sources, and how many there are if that is known before reading.

    ``max_bytes`` as of ``listing.gather``, ``selection`` as of ``listing.expand``.

    Raises:
        typer.BadParameter: standard input is named, or a token file.
        DatasetError: as ``listing.list_inputs``.
    """
    from tokcodec.inputs.listing import Selection, count, list_inputs

    if STANDARD in sources:
        raise typer.BadParameter("standard input is not read here", param_hint="SRC")
    refuse_others(sources, {SUFFIX}, DECODE)
    selection = selection or Selection()
    batches = list_inputs(sources, max_bytes=max_bytes, selection=selection)
    report_skipped(selection)
    return count(batches), chain.from_iterable(batch.records() for batch in batches)


def plan(
    sources: Sequence[str],
    output: str | None,
    rename: Callable[[str], str],
    kinds: Set[str] | None = None,
    max_bytes: int = MAX_BYTES,
    selection: "Selection | None" = None,
    unread: bool = False,
) -> "tuple[int | None, Iterator[tuple[Job, Record]]]":
    """A job for every source, and for everything in those that hold several; also their number,
    if that is known before tars are read.

    Without ``output`` a result stands beside its source. With it, one single file goes to that
    name, or into that folder if there is one or the name ends in a slash; all else goes into that
    folder, a source's own tree below it. ``kinds`` and ``max_bytes`` as of ``listing.gather``,
    ``selection`` as of ``listing.expand``. With ``unread``, a tar or Parquet file is one job, whose
    output is the folder of what it holds.

    Raises:
        typer.BadParameter: no files, two of them would have the same output, an output is the
            input, or what is in an archive or on a URL has no folder to go to.
        DatasetError: as ``listing.expand`` and ``listing.gather``.
    """
    from tokcodec.inputs.listing import Batch, Selection, count, expand, gather, names_one_file
    from tokcodec.inputs.records import ABSENT, Files, Record, Stamp

    lone = len(sources) == 1 and (sources[0] == STANDARD or names_one_file(sources[0], kinds))
    if STANDARD in sources and not lone:
        raise typer.BadParameter("standard input is read alone", param_hint="SRC")
    if output == STANDARD and not lone:
        raise typer.BadParameter("standard output takes the result of one file", param_hint="-o")
    refuse_remote(output)
    out = Path(output) if output and output != STANDARD else None
    into_folder = out is not None and (not lone or str(output).endswith(os.sep) or out.is_dir())
    if into_folder and out and out.exists() and not out.is_dir():
        raise typer.BadParameter(f"{out} is a file; several results need a folder", param_hint="-o")
    if into_folder and out and not lone and not out.is_dir() and out.suffix == SUFFIX:
        raise typer.BadParameter(f"{out} is named like a file; name a folder", param_hint="-o")
    if sources == [STANDARD]:
        if into_folder:
            raise typer.BadParameter("name a file for standard input", param_hint="-o")
        stamp = Stamp("", 0, ABSENT, "", "standard input")
        record = Record(STANDARD, None, sys.stdin.buffer.read, stamp)
        return 1, iter([(Job(record.name, out), record)])

    selection = selection or Selection()
    stamps = (stamp for source in sources for stamp in expand(source, kinds, selection))
    batches = gather(stamps, kinds=kinds, max_bytes=max_bytes)
    report_skipped(selection)
    if not batches:
        wanted = "images" if kinds is None else "token files"
        raise typer.BadParameter(f"no {wanted} in {', '.join(sources)}", param_hint="SRC")
    for batch in batches if not into_folder else []:
        for stamp in batch.stamps:
            if is_remote(stamp.path) or not isinstance(batch, Files):
                raise typer.BadParameter(f"name a folder for what {stamp} gives", param_hint="-o")
    claimed: dict[Path | None, str] = {}

    def to_job(record: Record, batch: Batch) -> Job:
        if into_folder and (
            escapes_folder(record.below) or escapes_folder(record.member or record.below)
        ):
            return Job(record.name, None, f"its name leaves the folder {out}; not written")
        target = None
        if output != STANDARD:
            path = Path(record.below if into_folder else record.name)
            whole = unread and not isinstance(batch, Files)
            beside = path if whole else path.with_name(rename(path.name))
            target = out / beside if out and into_folder else out or beside
        if target in claimed:
            both = f"{claimed[target]} and {record.name} would both become {target}"
            if isinstance(batch, Files):
                raise typer.BadParameter(f"{both}; take them one at a time", param_hint="SRC")
            return Job(record.name, None, f"not written: {both}")
        claimed[target] = record.name
        job = Job(record.name, target)
        if target and job.is_there() and same_file(target, record.stamp.path):
            raise typer.BadParameter(f"{target} is the input itself", param_hint="-o")
        return job

    def pairs(batch: Batch) -> Iterator[tuple[Job, Record]]:
        records = batch.records()
        if unread and not isinstance(batch, Files):
            (stamp,) = batch.stamps
            records = iter([Record(batch.name, None, bytes, stamp)])
        return ((to_job(record, batch), record) for record in records)

    # Files at once, so that what is wrong with them is said before anything is done.
    files = [pair for batch in batches if isinstance(batch, Files) for pair in pairs(batch)]
    rest = (pair for batch in batches if not isinstance(batch, Files) for pair in pairs(batch))
    return count(batches), chain(files, rest)


def report_dry_run(jobs: "Iterable[tuple[Job, Record]]", force: bool, as_json: bool) -> None:
    """A line for each of the jobs that ``plan`` gave ``unread``, and how many there are: what a run
    would do with them."""
    from tokcodec.cli.terminal import print_json, say, show

    counts: Counter[str] = Counter()
    size = 0
    for job, record in jobs:
        status = "new"
        if job.problem:
            status = "failed"
        elif job.is_there() and not (job.target and job.target.is_dir()):
            status = "overwritten" if force else "kept"
        counts[status] += 1
        size += record.stamp.size
        target = str(job.target) if job.target else None
        if as_json:
            facts = {"source": str(job), "output": target, "status": status, "error": job.problem}
            print_json({**facts, "source_bytes": record.stamp.size})
        else:
            show(f"{job} -> {target or 'standard output'}: {job.problem or status}")
    listed = ", ".join(f"{number:,} {status}" for status, number in counts.items())
    remedy = "; what is kept is skipped if it is up to date, -f overwrites it"
    say(
        f"dry run, nothing is read or written: {counts.total():,} inputs of {size:,} bytes, "
        f"{listed}{remedy if counts['kept'] else ''}"
    )


def report_skipped(selection: "Selection") -> None:
    from tokcodec.cli.terminal import note

    if line := selection.told():
        note(line)


def is_standard(sources: Sequence[str], output: str | None) -> bool:
    """Whether the result goes to standard output."""
    return output == STANDARD or (list(sources) == [STANDARD] and output is None)


def refuse_terminal(sources: Sequence[str], output: str | None) -> None:
    """
    Raises:
        typer.BadParameter: bytes would go to standard output, which is a terminal.
    """
    if is_standard(sources, output) and sys.stdout.isatty():
        raise typer.BadParameter(
            "no bytes are written to a terminal: name a file, or pipe them on", param_hint="-o"
        )


def refuse_remote(output: str | Path | None) -> None:
    """
    Raises:
        typer.BadParameter: it is a URL, to which only ``tokenize`` writes.
    """
    if output and re.match(r"\w+:/", str(output)):
        raise typer.BadParameter(f"{output} is a URL; name a path", param_hint="-o")


def refuse_others(sources: Sequence[str], extensions: Set[str], remedy: str) -> None:
    """Refuses files that are no input of a command but that of another, or were meant as output.

    Raises:
        typer.BadParameter: all sources have one of these lower-case extensions, or one that is not
            there.
    """
    found = [
        source
        for source in sources
        if not is_remote(source)
        and Path(source).suffix.lower() in extensions
        and not Path(source).is_dir()
        and not glob.has_magic(source)
    ]
    absent = [source for source in found if not Path(source).exists()]
    if absent and len(sources) > 1:
        raise typer.BadParameter(
            f"{absent[0]} is not there; if it is what to write, name it with -o", param_hint="SRC"
        )
    # Among others, as a shell's * names them, they fail alone.
    if found and not absent and len(found) == len(sources):
        raise typer.BadParameter(f"{found[0]} {remedy}", param_hint="SRC")


def file_extension(output: str | None) -> str:
    """The lower-case extension of an output; empty where it is a folder or a stream."""
    if not output or output == STANDARD or output.endswith(os.sep):
        return ""
    path = Path(output)  # also of a URL, whose store is not asked
    return "" if path.is_dir() or is_stream(path) else path.suffix.lower()


def escapes_folder(name: str) -> bool:
    """Whether a name from within an archive or a dataset is no path of a file below a folder."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or not path.name or "\0" in name
