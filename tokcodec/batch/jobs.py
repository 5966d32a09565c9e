"""Makes jobs of sources: what to read, where the result goes, and whether it exists already."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from tokcodec.checkpoint import Header
from tokcodec.config.geometry import Size
from tokcodec.errors import ArgumentError, DatasetError, Hint, OutputError, TokcodecError
from tokcodec.inputs.listing import (
    Batch,
    Selection,
    count,
    expand,
    gather,
    list_inputs,
    names_one_file,
)
from tokcodec.inputs.records import Files, Record
from tokcodec.io.files import SUFFIX, is_stream, refuse_file_name, refuse_remote, same_file
from tokcodec.io.find import ABSENT, Stamp, is_one_file
from tokcodec.io.job import Job, State, is_taken
from tokcodec.io.read import MAX_BYTES, read_at_most
from tokcodec.tokenfile import TokenFile

if TYPE_CHECKING:
    from tokcodec.codec import Codec

Name = str | os.PathLike[str]
CORES = os.cpu_count() or 1
STANDARD = "-"  # standard input, or standard output
FileJob = Job[Record]
Judge = Callable[[Record, Path], tuple[State, str | None]]


@dataclass(frozen=True)
class Plan:
    """The jobs of a run.

    Attributes:
        count: the number of jobs if it is known before tars are read.
        jobs: the jobs, each with its state.
        skipped: one line about files that were skipped in folders, if there are any.
        source_bytes: the size of all sources.
    """

    count: int | None
    jobs: Iterator[FileJob]
    skipped: str | None = None
    source_bytes: int = 0


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job.

    Attributes:
        job: the job.
        error: why it failed; None if it was done or skipped.
        source_bytes, file_bytes: bytes that were read and written, if the job was done.
        image_size: width and height of the image, if the job was done.
        token_file: the token file that was encoded or decoded.
        checkpoint: the name of the checkpoint that was used.
        missing: tokens that were filled in because packets were lost or the file is damaged.
    """

    job: FileJob
    error: TokcodecError | None = None
    source_bytes: int = 0
    file_bytes: int | None = None
    image_size: Size | None = None
    token_file: TokenFile | None = None
    checkpoint: str | None = None
    missing: int = 0

    @property
    def status(self) -> Literal["ok", "skipped", "failed"]:
        if self.error:
            return "failed"
        return "skipped" if self.file_bytes is None else "ok"


@dataclass
class Outcomes(Iterator[Outcome]):
    """An iterator over the outcomes of jobs; taking the next one does the work.

    ``count``, ``skipped`` and ``source_bytes`` are those of the ``Plan``.
    """

    results: Iterator[Outcome]
    count: int | None
    skipped: str | None
    source_bytes: int

    def __next__(self) -> Outcome:
        return next(self.results)


@dataclass(frozen=True)
class RunOptions:
    """How ``encode_files`` and ``decode_files`` run.

    Attributes:
        overwrite: replace files that exist.
        dry_run: only report the jobs.
        device, dtype, batch_size: see ``Codec.load``.
        workers: threads.
        selection: the files of folders to take; all if None.
    """

    overwrite: bool = False
    dry_run: bool = False
    device: str = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_size: int | None = None
    workers: int = CORES
    selection: Selection | None = None

    def load(self, header: Header, images: int | None) -> "Codec":
        """The codec of a checkpoint, for this many images."""
        from tokcodec.codec import Codec
        from tokcodec.model.runtime import choose_runtime

        runtime = choose_runtime(header.config, self.device, self.dtype, images)
        return Codec.load(
            header, self.device, runtime=runtime, batch_size=self.batch_size, dtype=self.dtype
        )

    def run(self, plan: Plan, work: Callable[[Iterator[FileJob]], Iterator[Outcome]]) -> Outcomes:
        """Run all jobs.

        ``work`` does those that are not skipped or refused. It is not called if there are none,
        so that no model is loaded for nothing.
        """

        def outcomes() -> Iterator[Outcome]:
            if self.dry_run:
                for job in plan.jobs:
                    yield Outcome(job, None if self.overwrite else job.error)
                return
            passed: deque[Outcome] = deque()  # while ``work`` reads ahead

            def to_do() -> Iterator[FileJob]:
                for job in plan.jobs:
                    if job.is_to_do(self.overwrite):
                        yield job
                    else:
                        passed.append(Outcome(job, job.error))

            for job in plan.jobs:
                if job.is_to_do(self.overwrite):
                    for outcome in work(chain([job], to_do())):
                        while passed:
                            yield passed.popleft()
                        yield outcome
                    yield from passed
                else:
                    yield Outcome(job, job.error)

        return Outcomes(outcomes(), plan.count, plan.skipped, plan.source_bytes)


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


def images(
    sources: Sequence[str], max_bytes: int = MAX_BYTES, selection: Selection | None = None
) -> tuple[int | None, Iterator[Record]]:
    """The images of the sources, and their number if it is known before tars are read.

    Args:
        sources: see ``listing.list_inputs``.
        max_bytes: see ``listing.gather``.
        selection: see ``listing.expand``.

    Raises:
        ArgumentError: standard input is named, or only token files.
        DatasetError: as ``listing.list_inputs``.
    """
    if STANDARD in sources:
        raise ArgumentError("standard input cannot be read here; give a file")
    refuse_others(sources, {SUFFIX}, DECODE)
    batches = list_inputs(sources, max_bytes=max_bytes, selection=selection)
    return count(batches), chain.from_iterable(batch.records() for batch in batches)


def is_standard(sources: Sequence[str], output: str | None) -> bool:
    """Whether the result goes to standard output."""
    return output == STANDARD or (list(sources) == [STANDARD] and output is None)


DECODE = "is a token file; decode it instead"
ENCODE = "is an image; encode it instead"


def refuse_others(sources: Sequence[str], extensions: Set[str], remedy: str) -> None:
    """Refuse files that are inputs of another command, or were meant as the output.

    Raises:
        ArgumentError: all sources have one of these lower-case extensions, or one of several
            sources has and does not exist.
    """
    found = [
        source
        for source in sources
        if is_one_file(source) and Path(source).suffix.lower() in extensions
    ]
    absent = [source for source in found if not Path(source).exists()]
    if absent and len(sources) > 1:
        raise ArgumentError(f"{absent[0]} does not exist", hint=Hint.NAME_OUTPUT)
    # If a shell's * names them among others, only they fail.
    if found and not absent and len(found) == len(sources):
        raise ArgumentError(f"{found[0]} {remedy}")


def file_extension(output: str | None) -> str:
    """The lower-case extension of an output; empty for a folder or a stream."""
    if not output or output == STANDARD or output.endswith(os.sep):
        return ""
    path = Path(output)  # also for a URL, whose store is not asked
    return "" if path.is_dir() or is_stream(path) else path.suffix.lower()


def escapes_folder(name: str) -> bool:
    """Whether a name from an archive or a dataset does not name a file below a folder."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or not path.name or "\0" in name


def names_of(sources: Name | Sequence[Name]) -> list[str]:
    """One source, or several, as strings."""
    if isinstance(sources, str | os.PathLike):
        return [os.fspath(sources)]
    return [os.fspath(source) for source in sources]


def write_out(data: bytes) -> int:
    """Write a result to standard output; return the number of bytes. Raises OutputError."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise OutputError(f"cannot write: {error.strerror}", name="standard output") from error
    return len(data)
