"""``encode_files``: images to token files."""

import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from tokcodec.batch.jobs import (
    CORES,
    DECODE,
    Job,
    Name,
    Outcome,
    Outcomes,
    State,
    file_extension,
    make_plan,
    names_of,
    refuse_others,
    write_out,
)
from tokcodec.checkpoint import Header, check_fit, check_token_count, find, read_prior
from tokcodec.config import DEFAULT_WEIGHTS
from tokcodec.config.geometry import Fit, Size
from tokcodec.errors import (
    ArgumentError,
    CheckpointError,
    ImageError,
    OutputError,
    TokcodecError,
    TokenFileError,
)
from tokcodec.image import WHITE, extensions, size_of
from tokcodec.inputs.listing import Selection
from tokcodec.inputs.records import ABSENT, Record
from tokcodec.io.files import SUFFIX
from tokcodec.io.read import MAX_BYTES
from tokcodec.io.remote import is_remote
from tokcodec.parallel import map_ahead
from tokcodec.tokenfile import TokenFile, check_tokens, is_token_file

_BESIDE_TOKENS = 20  # bytes of a token file that are not its tokens, at most


def encode_files(
    sources: Name | Sequence[Name],
    output: Name | None = None,
    *,
    weights: str = DEFAULT_WEIGHTS,
    fit: Fit | None = None,
    tokens: int | None = None,
    max_bytes: int | None = None,
    packed: bool = False,
    text: bool = False,
    background: tuple[int, int, int] = WHITE,
    overwrite: bool = False,
    dry_run: bool = False,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16"] = "float32",
    batch_size: int | None = None,
    workers: int = CORES,
    selection: Selection | None = None,
    max_image_bytes: int = MAX_BYTES,
) -> Outcomes:
    """Encode images to token files, ``a.jpg`` to ``a.jpg.tok``.

    Images whose token file is up to date are skipped. Other files that exist fail unless
    ``overwrite`` is set, and so does a bad image; the others are encoded all the same. The work is
    done as the outcomes are taken; that of a skipped image may come before those of images listed
    before it:

        for outcome in encode_files("photos", "tokens"):
            print(outcome.job.name, outcome.status, outcome.error or "")

    Args:
        sources: files, folders, globs, tars, Parquet files, URLs; or ``-``, standard input.
        output: a file, a folder, or ``-``, standard output; beside the images if None.
        weights: the checkpoint, see ``Codec.load``, as for ``device``, ``dtype``, ``batch_size``.
        fit, tokens, packed, background: see ``Codec.compress``.
        max_bytes: use as many tokens as fit into files of this size; with ``text``, characters.
        text: write base64url instead of bytes.
        overwrite: replace files that exist.
        dry_run: give the jobs, and do nothing.
        workers: threads.
        selection: which files of folders are taken.
        max_image_bytes: larger image files fail.

    Raises:
        ArgumentError: as ``jobs.make_plan``.
        CheckpointError: the checkpoint cannot be found, or has no such fit or number of tokens.
    """
    names = names_of(sources)
    output = None if output is None else os.fspath(output)
    refuse_others(names, {SUFFIX}, DECODE)
    if file_extension(output) in extensions():
        raise ArgumentError(f"{output} is the name of an image; token files end in {SUFFIX}")
    header = find(weights)
    check_token_count(header, tokens)
    check_fit(header, fit or header.config.default_fit)
    limit = max_bytes * 3 // 4 if max_bytes and text else max_bytes  # four characters, three bytes
    settings = _Settings(header, fit or header.config.default_fit, tokens, limit, packed, text)
    plan = make_plan(
        names,
        output,
        lambda name: name + SUFFIX,
        settings.judge,
        max_image_bytes=max_image_bytes,
        selection=selection,
    )

    def encoded(images: Iterator[tuple["_Read", "_Read"]]) -> Iterator[tuple["_Read", Any]]:
        from tokcodec.codec import Codec
        from tokcodec.model.runtime import choose_runtime

        runtime = choose_runtime(header.config, device, dtype, plan.count)
        codec = Codec.load(header, device, runtime=runtime, batch_size=batch_size, dtype=dtype)
        return codec.compress_stream(
            images,
            fit=fit,
            tokens=tokens,
            background=background,
            packed=packed,
            workers=workers,
            max_bytes=max_bytes,
            text=text,
        )

    def results() -> Iterator[Outcome]:
        if dry_run:
            yield from (Outcome(job, None if overwrite else job.error) for job in plan.jobs)
            return
        passed: deque[Outcome] = deque()  # jobs that need no encoding
        first: list[_Read] = []
        for job in plan.jobs:  # without the model, while nothing is to be encoded
            if job.is_to_do(overwrite):
                first.append(_Read(job, bool(max_bytes)))
                break
            yield Outcome(job, job.error)
        if not first:
            return

        def to_do() -> Iterator[tuple[_Read, _Read]]:
            for read in chain(first, (_Read(job, bool(max_bytes)) for job in plan.jobs)):
                if read.job.is_to_do(overwrite):
                    yield read, read
                else:
                    passed.append(Outcome(read.job, read.job.error))

        done = map_ahead(settings.write, encoded(to_do()), workers, 4 * workers, at_once=True)
        for outcome in done:
            while passed:
                yield passed.popleft()
            yield outcome
        yield from passed

    return Outcomes(results(), plan.count, plan.selection.told())


class _Read:
    """The image of a job, which counts the bytes that are read of it, and for a search of its best
    file keeps them: a pipe can be read once."""

    def __init__(self, job: Job, keep: bool) -> None:
        self.job, self.keep = job, keep
        self.name = job.name
        self.bytes = 0
        self._kept: bytes | None = None

    def read(self) -> bytes:
        data = self.job.record.read() if self._kept is None else self._kept
        self.bytes = len(data)
        self._kept = data if self.keep else None
        return data


@dataclass(frozen=True)
class _Settings:
    """What decides whether a token file that exists is what this run would write."""

    header: Header
    fit: Fit
    tokens: int | None
    max_bytes: int | None
    packed: bool
    text: bool

    def write(self, pair: tuple[_Read, TokenFile | TokcodecError]) -> Outcome:
        read, result = pair
        if isinstance(result, TokcodecError):
            return Outcome(read.job, result.named(read.name))
        try:
            if read.job.target:
                size = result.save(read.job.target, self.text)
            else:
                data = result.to_text().encode() + b"\n" if self.text else result.to_bytes()
                size = write_out(data)
        except OutputError as error:
            return Outcome(read.job, error)
        pixels = result.width * result.height
        return Outcome(read.job, None, read.bytes, size, pixels, result, self.header.name)

    def judge(self, record: Record, target: Path) -> tuple[State, str | None]:
        """The state of the file ``target``, which should be the image's token file, and why."""
        try:
            there = TokenFile.load(target)
        except TokenFileError as error:
            return "foreign", f"is there, unreadable: {error.reason}"
        path = record.stamp.path
        size = (there.width, there.height)
        if not is_remote(path) and size_of(record if record.member else path) not in (None, size):
            return "foreign", f"is there, of another image ({there.width}x{there.height})"
        try:
            why = self._why_stale(there, target)
        except (CheckpointError, ImageError, TokenFileError) as error:
            return "foreign", f"is there, unreadable: {error.reason}"
        if why:
            return "stale", why
        if record.stamp.mtime == ABSENT:
            return "foreign", "is there already"
        if record.since is not None and target.stat().st_mtime_ns < record.since:
            return "stale", "is there, older than the image"
        return "current", None

    def _why_stale(self, there: TokenFile, target: Path) -> str | None:
        size = (there.width, there.height)
        if not self.header.model_id.startswith(there.model_id.hex()):
            return "is there, of another model"
        if there.fit != self.fit:
            return f"is there, with fit {there.fit}"
        tokens = there.tokens_with(self.header)
        check_tokens(tokens, self.header.config.quantizer.codebook_size)
        if self.max_bytes and there.file_bytes > self.max_bytes:
            return f"is there, with {there.file_bytes} bytes"
        fewer = there.num_tokens < self._token_count(size)
        if fewer or (not self.max_bytes and there.num_tokens != self._token_count(size)):
            return f"is there, with {there.num_tokens} tokens"
        if there.entropy_coded and self.packed:
            return "is there, entropy-coded"
        if not (there.entropy_coded or self.packed) and self._gets_shorter(there, tokens):
            return "is there, packed"
        with target.open("rb") as opened:
            if is_token_file(opened.read(1)) == self.text:
                return "is there, not as text" if self.text else "is there, as text"
        return None

    def _token_count(self, size: Size) -> int:
        """Tokens that a file of an image of ``size`` has; within ``max_bytes``, at least.

        Packed tokens take the most bytes, so that as many surely fit.
        """
        config, most = self.header.config, self.tokens
        if self.max_bytes and config.multiple:
            fitting = 8 * (self.max_bytes - _BESIDE_TOKENS) // config.quantizer.bits
            most = max(1, min(fitting, most or fitting))
        placement, shape = config.place(self.fit, size, most)
        count = most if most and config.prefix_tokens else math.prod(shape)
        return placement.num_tiles * count

    def _gets_shorter(self, there: TokenFile, tokens: Any) -> bool:
        """Whether entropy coding makes a packed file shorter."""
        if not self.header.prior_id:
            return False
        prior = read_prior(self.header)
        size, tokens = (there.width, there.height), tokens.reshape(there.shape)
        return TokenFile.of(self.header, tokens, *size, there.fit, prior).entropy_coded
