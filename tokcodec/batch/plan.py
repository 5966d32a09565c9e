"""Makes jobs of sources: what to read, where the result goes, and whether it exists already."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath

from tokcodec.batch.jobs import STANDARD, FileJob, Plan
from tokcodec.errors import ArgumentError, DatasetError
from tokcodec.inputs.listing import Batch, Selection, count, expand, gather, names_one_file
from tokcodec.inputs.records import Files, Record
from tokcodec.io.files import is_stream, refuse_file_name, refuse_remote, same_file
from tokcodec.io.find import ABSENT, Stamp
from tokcodec.io.job import Job, State, is_taken
from tokcodec.io.read import MAX_BYTES, read_at_most

Judge = Callable[[Record, Path], tuple[State, str | None]]


def make_plan(
    sources: Sequence[str],
    output: str | None,
    rename: Callable[[str], str],
    judge: Judge,
    *,
    kinds: Set[str] | None = None,
    max_image_bytes: int = MAX_BYTES,
    selection: Selection | None = None,
    together: Path | None = None,
    spread: Callable[[Iterator[FileJob]], Iterator[FileJob]] = iter,
) -> Plan:
    """Make a job for every source, and for everything in sources that hold several.

    Without ``output``, results are written next to their sources. With it, the result of a single
    file goes to that name, or into that folder if it exists or the name ends in a slash; all other
    results go into that folder, with the same tree as below their source.

    Args:
        sources: files, folders, globs, tars, Parquet files, URLs; or ``-``, standard input.
        output: a file, a folder, or ``-``, standard output.
        rename: gives the name of the result for the name of an input.
        judge: gives the state of an existing file.
        kinds: see ``listing.gather``.
        max_image_bytes: ``max_bytes`` of ``listing.gather``.
        selection: see ``listing.expand``.
        together: one file for all results, in place of ``output``.
        spread: gives the jobs of everything that the sources of these jobs hold.

    Raises:
        ArgumentError: two files would have the same output, an output is an input, or no folder is
            named for the results of an archive or a URL.
        DatasetError: there are no files; or as ``listing.expand`` and ``listing.gather``.
    """
    lone = len(sources) == 1 and (sources[0] == STANDARD or names_one_file(sources[0], kinds))
    if STANDARD in sources and not lone:
        raise ArgumentError("standard input cannot be read with other sources")
    if output == STANDARD and not lone:
        raise ArgumentError(
            "standard output takes the result of only one file; give a folder as the output"
        )
    refuse_remote(output)
    out = Path(output) if output and output != STANDARD else None
    folder = _folder_of(out, lone, str(output))
    if list(sources) == [STANDARD]:
        if folder:
            raise ArgumentError(
                f"{output}: is a folder; give a file as the output for standard input"
            )
        read = partial(read_at_most, sys.stdin.buffer, max_image_bytes)
        record = Record(STANDARD, None, read, Stamp("", 0, ABSENT, "", "standard input"))
        job = Job(record, together or out)
        return Plan(1, (judged(own, judge) for own in spread(iter([job]))))

    selection = selection or Selection()
    stamps = (stamp for source in sources for stamp in expand(source, kinds, selection))
    batches = gather(stamps, kinds=kinds, max_bytes=max_image_bytes)
    if not batches:
        wanted = "images" if kinds is None else "token files"
        raise DatasetError(f"no {wanted} in {', '.join(sources)}")
    if together:
        for stamp in (stamp for batch in batches for stamp in batch.stamps):
            _refuse_input(together, stamp)
        records = chain.from_iterable(batch.records() for batch in batches)
        jobs: Iterator[FileJob] = (Job(record, together) for record in records)
    else:
        jobs = _own_targets(batches, output, folder, rename)
    return Plan(
        count(batches),
        (judged(job, judge) for job in spread(jobs)),
        selection.told(),
        sum(batch.source_bytes for batch in batches),
    )


def _own_targets(
    batches: Sequence[Batch], output: str | None, folder: Path | None, rename: Callable[[str], str]
) -> Iterator[FileJob]:
    """Jobs that each have a target of their own; see ``make_plan``."""
    for batch in batches:
        for stamp in () if folder else batch.stamps:
            if stamp.is_remote or not isinstance(batch, Files):  # no folder to write to
                raise ArgumentError(f"the results of {stamp} need a folder as the output")
    targets = Targets()

    def to_job(record: Record, is_file: bool) -> FileJob:
        target = None
        if folder or not output:
            if folder and any(map(escapes_folder, (record.below, record.member or "file"))):
                return Job(record, None, "foreign", f"its name leaves the folder {folder}")
            path = Path(record.below if folder else record.name)
            target = (folder or Path()) / path.with_name(rename(path.name))
        elif output != STANDARD:
            target = Path(output)
        job = targets.claim(Job(record, target))
        if job.state == "foreign" and is_file:
            raise ArgumentError(str(job.why))
        if job.target:
            _refuse_input(job.target, record.stamp)
        return job

    def to_jobs(batch: Batch) -> Iterator[FileJob]:
        return (to_job(record, isinstance(batch, Files)) for record in batch.records())

    # Files are checked at once, so that errors are reported before any work is done.
    files = [job for batch in batches if isinstance(batch, Files) for job in to_jobs(batch)]
    rest = (job for batch in batches if not isinstance(batch, Files) for job in to_jobs(batch))
    return chain(files, rest)


class Targets:
    """The outputs of a run, each of which takes the result of one job."""

    def __init__(self) -> None:
        self._names: dict[Path | None, str] = {}  # of the jobs, by their targets

    def __contains__(self, target: Path) -> bool:
        return target in self._names

    def claim(self, job: FileJob, why: str | None = None) -> FileJob:
        """The job; or, if an earlier one has its target, a job that fails, with this reason."""
        if job.target not in self._names:
            self._names[job.target] = job.name
            return job
        first = self._names[job.target]
        why = why or f"not written: {first} and {job.name} would both become {job.target}"
        return replace(job, target=None, state="foreign", why=why)


def _refuse_input(target: Path, stamp: Stamp) -> None:
    """Raise ArgumentError if the target is the input itself."""
    if same_file(target, stamp.path) and not is_stream(target):
        raise ArgumentError(f"{target} is the input itself")


def judged(job: FileJob, judge: Judge) -> FileJob:
    """The job with the state that ``judge`` finds, if its target exists."""
    if job.state == "foreign" or not job.target or not is_taken(job.target):
        return job
    state, why = judge(job.source, job.target)
    return replace(job, state=state, why=why)


def _folder_of(out: Path | None, lone: bool, name: str) -> Path | None:
    """The output if it is the folder of the results, else None."""
    if out is None or (lone and not name.endswith(os.sep) and not out.is_dir()):
        return None
    if out.exists() and not out.is_dir():
        raise ArgumentError(f"{out} is a file; several results need a folder as the output")
    if not lone:
        refuse_file_name(out)
    return out


def escapes_folder(name: str) -> bool:
    """Whether a name from an archive or a dataset does not name a file below a folder."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or not path.name or "\0" in name
