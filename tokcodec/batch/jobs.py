"""Jobs, their outcomes and the options of a run, for ``encode_files`` and ``decode_files``."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tokcodec.checkpoint import Header
from tokcodec.config.geometry import Size
from tokcodec.errors import ArgumentError, Hint, OutputError, TokcodecError
from tokcodec.inputs.listing import Selection, count, list_inputs
from tokcodec.inputs.records import Record
from tokcodec.io.files import SUFFIX, is_stream
from tokcodec.io.find import is_one_file
from tokcodec.io.job import Job
from tokcodec.io.read import MAX_BYTES
from tokcodec.tokenfile import TokenFile

if TYPE_CHECKING:
    from tokcodec.codec import Codec

Name = str | os.PathLike[str]
CORES = os.cpu_count() or 1
STANDARD = "-"  # standard input, or standard output
FileJob = Job[Record]


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
