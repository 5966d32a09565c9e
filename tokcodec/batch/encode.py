"""``encode_files``: images to token files."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokcodec.batch.jobs import (
    DECODE,
    STANDARD,
    FileJob,
    Name,
    Outcome,
    Outcomes,
    RunOptions,
    file_extension,
    names_of,
    refuse_others,
    write_out,
)
from tokcodec.batch.plan import make_plan
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
    counted,
)
from tokcodec.image import WHITE, is_transparent, size_of
from tokcodec.inputs.records import Record
from tokcodec.io.files import SUFFIX
from tokcodec.io.find import ABSENT
from tokcodec.io.imagefile import extensions
from tokcodec.io.job import State, is_taken
from tokcodec.io.read import MAX_BYTES
from tokcodec.packets import MOST_PACKETS
from tokcodec.parallel import map_ahead
from tokcodec.tokenfile import TokenFile, check_tokens, is_token_file

if TYPE_CHECKING:
    from tokcodec.codec import Codec

_Result = TokenFile | TokcodecError


def encode_files(
    sources: Name | Sequence[Name],
    output: Name | None = None,
    *,
    weights: str = DEFAULT_WEIGHTS,
    fit: Fit | None = None,
    tokens: int | None = None,
    max_bytes: int | None = None,
    packets: int | None = None,
    packet_bytes: int | None = None,
    parity: bool = False,
    packed: bool = False,
    best: bool = False,
    text: bool = False,
    background: tuple[int, int, int] = WHITE,
    max_image_bytes: int = MAX_BYTES,
    options: RunOptions = RunOptions(),  # noqa: B008 (frozen)
) -> Outcomes:
    """Encode images to token files, ``a.jpg`` to ``a.jpg.tok``.

    Images whose token file is up to date are skipped. A job whose output exists otherwise fails
    unless ``overwrite`` is set, and so does a bad image; the other images are still encoded. A
    token file does not record the background and ``max_bytes``: if the image has transparent parts,
    or ``max_bytes``, ``packets`` or ``best`` is given, the image is encoded again to compare.
    Packets are written to ``a.jpg.1.tok`` and so on, or with ``text`` to one line each; further
    packets of an earlier run are deleted with ``overwrite``. The work is done as the outcomes are
    taken; the outcome of a skipped image may come before those of earlier images:

        for outcome in encode_files("photos", "tokens"):
            print(outcome.job.name, outcome.status, outcome.error or "")

    Args:
        sources: files, folders, globs, tars, Parquet files, URLs; or ``-``, standard input.
        output: a file, a folder, or ``-``, standard output; next to the images if None.
        weights: the checkpoint, see ``Codec.load``.
        fit, tokens, packets, parity, packed, best, background: see ``Codec.compress``.
        max_bytes: use as many tokens as fit into files of this many bytes; with ``text``, of this
            many characters.
        packet_bytes: the same for packets.
        text: write messages, which survive in chats and mail, instead of bytes.
        max_image_bytes: larger image files fail.
        options: overwriting, dry run, device, threads, and which files are taken.

    Raises:
        ArgumentError: see ``plan.make_plan``.
        CheckpointError: the checkpoint cannot be found, or does not support the fit or the number
            of tokens.
    """
    names = names_of(sources)
    output = None if output is None else os.fspath(output)
    refuse_others(names, {SUFFIX}, DECODE)
    if file_extension(output) in extensions():
        raise ArgumentError(f"{output} is the name of an image; give a name that ends in {SUFFIX}")
    if packets and not text:
        if STANDARD in (*names, output) or file_extension(output):
            raise ArgumentError(
                "packets are several files: give a folder as the output, or write text"
            )
        output = output and os.path.join(output, "")  # noqa: PTH118 (which drops the slash)
    header = find(weights)
    fit = fit or header.config.default_fit
    check_token_count(header, tokens)
    check_fit(header, fit)
    how: dict[str, Any] = {
        "fit": fit,
        "tokens": tokens,
        "max_bytes": max_bytes,
        "packets": packets,
        "packet_bytes": packet_bytes,
        "parity": parity,
        "text": text,
        "background": background,
        "packed": packed,
        "best": best,
    }

    @cache
    def codec() -> "Codec":
        return options.load(header, plan.count)

    settings = _Settings(header, lambda image: codec().compress(image, **how), **how)
    plan = make_plan(
        names,
        output,
        lambda name: name + (settings.packet_suffix(1) or SUFFIX),
        settings.judge,
        max_image_bytes=max_image_bytes,
        selection=options.selection,
        spread=lambda jobs: map(settings.keep_packets, jobs),
    )

    def work(jobs: Iterator[FileJob]) -> Iterator[Outcome]:
        pairs = ((image, image) for image in map(_Image, jobs))
        workers = options.workers
        results = codec().compress_stream(pairs, workers=workers, **how)
        return map_ahead(settings.write, results, workers, 4 * workers, at_once=True)

    return options.run(plan, work)


class _Image:
    """The image of a job, which counts its bytes."""

    def __init__(self, job: FileJob) -> None:
        self.job, self.name = job, job.name
        self.bytes = 0

    def read(self) -> bytes:
        data = self.job.source.read()
        self.bytes = len(data)
        return data


def _is_packet(path: Path) -> bool:
    try:
        return path.exists() and TokenFile.load(path).packets is not None
    except TokenFileError:
        return False


@dataclass(frozen=True)
class _Settings:
    """Writes token files, and compares existing ones with what this run would write.

    ``encode`` returns the token file of an image; the other fields are arguments of
    ``Codec.compress``.
    """

    header: Header
    encode: Callable[[Record], TokenFile]
    fit: Fit
    tokens: int | None
    max_bytes: int | None
    packets: int | None
    packet_bytes: int | None
    parity: bool
    text: bool
    background: tuple[int, int, int]
    packed: bool
    best: bool

    def packet_suffix(self, number: int) -> str:
        """The suffix of the file of a packet; empty if files are not split."""
        return f".{number}{SUFFIX}" if self.packets and not self.text else ""

    def _packet_files(self, target: Path) -> Iterator[Path]:
        """The paths of all packets that an image may have; the first is ``target``."""
        stem = target.name.removesuffix(self.packet_suffix(1))
        for number in range(1, MOST_PACKETS + 2):
            yield target.with_name(stem + self.packet_suffix(number))

    def keep_packets(self, job: FileJob) -> FileJob:
        """Refuse a job that would replace files of packets although the first does not exist."""
        if not (self.packet_suffix(1) and job.target) or is_taken(job.target):
            return job
        there = next(filter(is_taken, self._packet_files(job.target)), None)
        return (
            replace(job, state="foreign", why=f"does not exist, but {there} does") if there else job
        )

    def _save(self, file: TokenFile, target: Path) -> int:
        if not self.packet_suffix(1):
            return file.save(target, self.text)
        paths, parts = [*self._packet_files(target)], file.parts()
        for path in filter(_is_packet, paths[len(parts) :]):
            path.unlink()  # of an earlier run that had more packets
        # The first packet is written last: if it exists, all do.
        pairs = list(zip(parts, paths, strict=False))
        return sum(part.save(path) for part, path in reversed(pairs))

    def _load(self, target: Path) -> TokenFile:
        if not self.packet_suffix(1):
            return TokenFile.load(target)
        there = [TokenFile.load(path) for path in self._packet_files(target) if path.exists()]
        return TokenFile.join(there)[0]

    def write(self, pair: tuple[_Image, _Result]) -> Outcome:
        image, result = pair
        if isinstance(result, TokcodecError):
            return Outcome(image.job, result.named(image.name))
        try:
            if image.job.target:
                size = self._save(result, image.job.target)
            else:
                data = result.to_text().encode() + b"\n" if self.text else result.to_bytes()
                size = write_out(data)
        except OutputError as error:
            return Outcome(image.job, error)
        shape = (result.width, result.height)
        return Outcome(image.job, None, image.bytes, size, shape, result, self.header.name)

    def judge(self, record: Record, target: Path) -> tuple[State, str | None]:
        """The state of an existing token file of an image, and the reason."""
        try:
            there = self._load(target)
        except TokenFileError as error:
            return "foreign", f"exists, but cannot be read: {error.reason}"
        size = (there.width, there.height)
        if record.local and size_of(record.local) not in (None, size):
            return "foreign", f"exists, with another image ({there.width}x{there.height})"
        try:
            why = self._why_stale(there, target)
        except (CheckpointError, ImageError, TokenFileError) as error:
            return "foreign", f"exists, but cannot be read: {error.reason}"
        if why:
            return "stale", why
        if record.stamp.mtime == ABSENT:
            return "foreign", "already exists"
        if record.since is not None and target.stat().st_mtime_ns < record.since:
            return "stale", "exists, and is older than the image"
        if self._compares() or (record.local and is_transparent(record.local)):
            try:
                if self.encode(record) != there:
                    return "stale", "exists, and these options give another file"
            except ImageError as error:
                return "stale", f"exists, and cannot be compared: {error.reason}"
        return "current", None

    def _compares(self) -> bool:
        """Whether a token file does not record all options that it was made with."""
        return self.best or self.max_bytes is not None or self.packets is not None

    def _why_stale(self, there: TokenFile, target: Path) -> str | None:
        if not self.header.model_id.startswith(there.model_id.hex()):
            return "exists, with tokens of another model"
        if there.fit != self.fit:
            return f"exists, with the fit {there.fit}"
        if there.packets or self.packets:
            if there.packets and self.packets:
                return None
            return "exists, as packets" if there.packets else "exists, not as packets"
        tokens = there.tokens_with(self.header)
        check_tokens(tokens, self.header.config.quantizer.codebook_size)
        expected = self._token_count((there.width, there.height))
        if not self._compares() and there.num_tokens != expected:
            return f"exists, with {counted(there.num_tokens, 'token')}"
        if there.entropy_coded and self.packed:
            return "exists, entropy-coded"
        if not (there.entropy_coded or self.packed) and self._gets_shorter(there, tokens):
            return "exists, packed"
        with target.open("rb") as opened:
            if is_token_file(opened.read(1)) == self.text:
                return "exists, not as text" if self.text else "exists, as text"
        return None

    def _token_count(self, size: Size) -> int:
        """The number of tokens of an image of this size."""
        placement, shape = self.header.config.place(self.fit, size, self.tokens)
        return placement.num_tiles * math.prod(shape)

    def _gets_shorter(self, there: TokenFile, tokens: Any) -> bool:
        """Whether entropy coding makes a packed file shorter."""
        if not self.header.prior_id:
            return False
        prior = read_prior(self.header)
        size, tokens = (there.width, there.height), tokens.reshape(there.shape)
        return TokenFile.of(self.header, tokens, *size, there.fit, prior).entropy_coded
