"""``decode_files``: token files, and rows of a token dataset, to images."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image

from tokcodec.batch.jobs import (
    CORES,
    ENCODE,
    STANDARD,
    Job,
    Name,
    Outcome,
    Outcomes,
    Plan,
    State,
    escapes_folder,
    file_extension,
    judged,
    make_plan,
    names_of,
    refuse_others,
    write_out,
)
from tokcodec.checkpoint import Header, check_token_count, find, find_by_model_id
from tokcodec.config.geometry import Size
from tokcodec.dataset.folder import is_dataset
from tokcodec.errors import (
    ArgumentError,
    Hint,
    ImageError,
    OutputError,
    TokcodecError,
    TokenFileError,
)
from tokcodec.image import extensions, save, size_of
from tokcodec.inputs.listing import Selection
from tokcodec.inputs.records import Record, Stamp
from tokcodec.io.files import SUFFIX
from tokcodec.io.remote import is_remote, location
from tokcodec.parallel import map_ahead
from tokcodec.tokenfile import TokenFile

if TYPE_CHECKING:
    from tokcodec.codec import Codec

_CHUNK = 1024  # token files read before the first of them is decoded


def decode_files(
    sources: Name | Sequence[Name],
    output: Name | None = None,
    *,
    weights: str | None = None,
    size: Size | int | None = None,
    tokens: int | None = None,
    image_format: Literal["png", "jpg", "webp"] | None = None,
    png_level: int = 1,
    rows: Sequence[str] = (),
    overwrite: bool = False,
    dry_run: bool = False,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16"] = "float32",
    batch_size: int | None = None,
    workers: int = CORES,
    selection: Selection | None = None,
) -> Outcomes:
    """Decode token files to images, ``a.jpg.tok`` to ``a.jpg.png``.

    Images that are newer than their token files and have the right size are skipped. Other files
    that exist fail unless ``overwrite`` is set, and so does a bad token file; the others are
    decoded all the same. The work is done as the outcomes are taken.

    Args:
        sources: files, folders, globs, tars, URLs; or ``-``, standard input; or one token dataset.
        output: a file, a folder, or ``-``, standard output; beside the token files if None.
        weights: the checkpoint; the bundled or cached one that fits each file if None.
        size, tokens: see ``Codec.decompress``.
        image_format: of images in folders and on standard output; PNG if None.
        png_level: how hard PNG files are compressed, 1 fast to 9 small.
        rows: keys or numbers of the rows of a token dataset; all if empty.
        overwrite: replace files that exist.
        dry_run: give the jobs, and do nothing.
        device, dtype, batch_size: see ``Codec.load``.
        workers: threads.
        selection: which files of folders are taken.

    Raises:
        ArgumentError: as ``jobs.make_plan``.
        CheckpointError: the checkpoint cannot be found.
    """
    names = names_of(sources)
    output = None if output is None else os.fspath(output)
    datasets = [name for name in names if _is_dataset(name, alone=len(names) == 1)]
    if datasets and len(names) > 1:
        raise ArgumentError(f"{datasets[0]}: give one token dataset alone")
    if rows and not datasets:
        raise ArgumentError("rows are chosen of one token dataset")
    refuse_others(names, extensions(), ENCODE)
    extension = f".{image_format or 'png'}"
    named = file_extension(output)
    if image_format and named in extensions() and named.replace("jpeg", "jpg") != extension:
        raise ArgumentError(f"{output} is not the name of a {image_format} image")
    given = find(weights) if weights else None
    work = _Work(given, cache(find_by_model_id), size, tokens, extension, png_level)
    if datasets:
        plan = _plan_rows(location(names[0]), output, extension, rows, work)
    else:
        plan = make_plan(
            names,
            output,
            lambda name: name.removesuffix(SUFFIX) + extension,
            work.judge,
            kinds={SUFFIX},
            selection=selection,
        )

    codecs: dict[str, Codec] = {}

    def codec_of(header: Header) -> "Codec":
        from tokcodec.codec import Codec
        from tokcodec.model.runtime import choose_runtime

        if header.checkpoint_id not in codecs:
            runtime = choose_runtime(header.config, device, dtype, plan.count)
            codecs[header.checkpoint_id] = Codec.load(
                header, device, runtime=runtime, batch_size=batch_size, dtype=dtype
            )
        return codecs[header.checkpoint_id]

    def results() -> Iterator[Outcome]:
        if dry_run:
            yield from (Outcome(job, None if overwrite else job.error) for job in plan.jobs)
            return
        while jobs := list(islice(plan.jobs, _CHUNK)):
            # They may be tokens of several models; each model is loaded once.
            groups: dict[str, tuple[Header, list[tuple[Job, TokenFile]]]] = {}
            for job in jobs:
                if not job.is_to_do(overwrite):
                    yield Outcome(job, job.error)
                    continue
                try:
                    token_file, header = work.open(job.record)
                except TokcodecError as error:
                    yield Outcome(job, error.named(job.name))
                    continue
                group = groups.setdefault(header.checkpoint_id, (header, []))[1]
                group.append((job, token_file))
            for header, group in groups.values():
                images = codec_of(header).decompress_stream(
                    ((pair, pair[1]) for pair in group), size=size, tokens=tokens, workers=workers
                )
                write = partial(work.write, header)
                yield from map_ahead(write, images, workers, 2 * workers, at_once=True)

    return Outcomes(results(), plan.count, plan.selection.told())


def _is_dataset(name: str, alone: bool) -> bool:
    if name == STANDARD or (is_remote(name) and not alone):
        return False
    return is_dataset(location(name))


@dataclass(frozen=True)
class _Work:
    """How one token file becomes one image; ``given`` is the checkpoint that was named,
    ``fitting`` finds the one of a model id."""

    given: Header | None
    fitting: Callable[[bytes], Header | None]
    size: Size | int | None
    tokens: int | None
    extension: str
    png_level: int

    def open(self, record: Record) -> tuple[TokenFile, Header]:
        """A token file, and the checkpoint that decodes it.

        Raises:
            TokenFileError: the file cannot be read, or there is no such checkpoint.
            CheckpointError: the checkpoint does not support this number of tokens.
        """
        try:
            token_file = TokenFile.from_bytes(record.read())
        except OSError as error:
            raise TokenFileError(f"cannot read: {error.strerror or error}") from error
        header = self.given or self.fitting(token_file.model_id)
        if header is None:
            model = token_file.model_id.hex()
            raise TokenFileError(
                f"its tokens are of model {model}, which is neither bundled nor cached",
                hint=Hint.NAME_WEIGHTS,
            )
        check_token_count(header, self.tokens)
        return token_file, header

    def judge(self, record: Record, target: Path) -> tuple[State, str | None]:
        """The state of the file ``target``, which should be the image of a token file, and why."""
        try:
            token_file, header = self.open(record)
        except TokcodecError:
            return "new", None  # whoever reads it again says what is wrong
        found = size_of(target)
        if found is None:
            return "foreign", "is there, and is not an image"
        if found != self._output(token_file, header):
            return "stale", f"is there, with {found[0]}x{found[1]} pixels"
        if record.since is None:
            return "foreign", "is there already"
        if target.stat().st_mtime_ns < record.since:
            return "stale", "is there, older than its token file"
        return "current", None

    def _output(self, token_file: TokenFile, header: Header) -> Size | None:
        from tokcodec.codec import output_size

        size = (token_file.width, token_file.height)
        try:
            placement, _ = header.config.place(token_file.fit, size)
        except ImageError:
            return None
        return output_size(token_file, self.size) or placement.output

    def write(
        self,
        header: Header,
        pair: tuple[tuple[Job, TokenFile], Image.Image | TokcodecError],
    ) -> Outcome:
        (job, token_file), result = pair
        if isinstance(result, TokcodecError):
            return Outcome(job, result.named(job.name))
        try:
            if job.target:
                size = save(result, job.target, self.extension, self.png_level)
            else:
                buffer = io.BytesIO()
                save(result, buffer, self.extension, self.png_level)
                size = write_out(buffer.getvalue())
        except (OutputError, ImageError) as error:
            return Outcome(job, error)
        read, pixels = token_file.file_bytes, result.width * result.height
        return Outcome(job, None, read, size, pixels, token_file, header.name)


def _plan_rows(
    path: Path, output: str | None, extension: str, rows: Sequence[str], work: _Work
) -> Plan:
    """A job for each row of a token dataset; images go into the folder ``output``."""
    from tokcodec.dataset import require_pyarrow

    require_pyarrow()
    from tokcodec.dataset.reader import open_dataset, token_files

    if output is None or output == STANDARD:
        raise ArgumentError("name a folder for the images of a dataset")
    folder = Path(output)
    dataset = open_dataset(path)
    mtime = "" if dataset.written_at is None else str(dataset.written_at)

    def record(name: str, row: TokenFile | TokcodecError) -> Record:
        def read() -> bytes:
            if isinstance(row, TokcodecError):
                raise row
            return row.to_bytes()

        return Record(name, None, read, Stamp(name, 0, mtime, "", name))

    def jobs() -> Iterator[Job]:
        claimed: set[Path] = set()
        try:
            for name, row in token_files(dataset, rows):
                target = folder / (name + extension)
                job = Job(record(name, row), target)
                if escapes_folder(name):
                    why = "its key leaves the folder of the images"
                    yield replace(job, target=None, state="foreign", why=why)
                elif isinstance(row, TokcodecError):
                    yield replace(job, target=None)  # reading it says what is wrong
                elif target in claimed:
                    why = "a second row of this key; choose it by its number"
                    yield replace(job, target=None, state="foreign", why=why)
                else:
                    claimed.add(target)
                    yield judged(job, work.judge)
        except TokcodecError as error:  # told behind the rows before it, which are decoded
            yield Job(record(str(path), error), None, "foreign", error.reason)

    return Plan(len(rows) or len(dataset), jobs())
