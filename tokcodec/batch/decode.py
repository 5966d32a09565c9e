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
    ENCODE,
    STANDARD,
    FileJob,
    Name,
    Outcome,
    Outcomes,
    Plan,
    RunOptions,
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
from tokcodec.inputs.records import Record, Stamp
from tokcodec.io.files import SUFFIX
from tokcodec.io.job import Job, State
from tokcodec.parallel import map_ahead
from tokcodec.tokenfile import TokenFile

if TYPE_CHECKING:
    from tokcodec.codec import Codec

_Opened = tuple[FileJob, TokenFile]
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
    keys: Sequence[str] = (),
    rows: Sequence[int] = (),
    options: RunOptions = RunOptions(),  # noqa: B008 (frozen)
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
        keys, rows: the rows of a token dataset with these keys, or of these numbers from 0; all
            rows if both are empty.
        options: overwriting, dry run, device, threads, and which files are taken.

    Raises:
        ArgumentError: as ``jobs.make_plan``.
        CheckpointError: the checkpoint cannot be found.
    """
    names = names_of(sources)
    output = None if output is None else os.fspath(output)
    several = (name for name in names if name != STANDARD and not name.endswith(SUFFIX))
    datasets = [name for name in several if is_dataset(name)]
    if datasets and len(names) > 1:
        raise ArgumentError(f"{datasets[0]}: give one token dataset alone")
    if (keys or rows) and not datasets:
        raise ArgumentError("rows are chosen of one token dataset")
    refuse_others(names, extensions(), ENCODE)
    extension = f".{image_format or 'png'}"
    named = file_extension(output)
    if image_format and named in extensions() and named.replace("jpeg", "jpg") != extension:
        raise ArgumentError(f"{output} is not the name of a {image_format} image")
    given = find(weights) if weights else None
    files = _Files(given, cache(find_by_model_id), size, tokens, extension, png_level)
    if datasets:
        plan = _plan_rows(names[0], output, extension, keys, rows, files)
    else:
        plan = make_plan(
            names,
            output,
            lambda name: name.removesuffix(SUFFIX) + extension,
            files.judge,
            kinds={SUFFIX},
            selection=options.selection,
        )

    codecs: dict[str, Codec] = {}

    def work(jobs: Iterator[FileJob]) -> Iterator[Outcome]:
        while chunk := list(islice(jobs, _CHUNK)):
            # They may be tokens of several models; each model is loaded once.
            groups: dict[str, tuple[Header, list[_Opened]]] = {}
            for job in chunk:
                try:
                    token_file, header = files.open(job.source)
                except TokcodecError as error:
                    yield Outcome(job, error.named(job.name))
                    continue
                group = groups.setdefault(header.checkpoint_id, (header, []))[1]
                group.append((job, token_file))
            for header, group in groups.values():
                if header.checkpoint_id not in codecs:
                    codecs[header.checkpoint_id] = options.load(header, plan.count)
                images = codecs[header.checkpoint_id].decompress_stream(
                    ((opened, opened[1]) for opened in group),
                    size=size,
                    tokens=tokens,
                    workers=options.workers,
                )
                write, workers = partial(files.write, header), options.workers
                yield from map_ahead(write, images, workers, 2 * workers, at_once=True)

    return options.run(plan, work)


@dataclass(frozen=True)
class _Files:
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
        pair: tuple[_Opened, Image.Image | TokcodecError],
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
    name: str,
    output: str | None,
    extension: str,
    keys: Sequence[str],
    rows: Sequence[int],
    files: _Files,
) -> Plan:
    """A job for each row of a token dataset; images go into the folder ``output``."""
    from tokcodec.dataset import require_pyarrow

    require_pyarrow()
    from tokcodec.dataset.reader import open_dataset, token_files

    if output is None or output == STANDARD:
        raise ArgumentError("name a folder for the images of a dataset")
    folder = Path(output)
    dataset = open_dataset(name)
    mtime = "" if dataset.written_at is None else str(dataset.written_at)

    def record(key: str, row: TokenFile | TokcodecError) -> Record:
        def read() -> bytes:
            if isinstance(row, TokcodecError):
                raise row
            return row.to_bytes()

        return Record(key, None, read, Stamp(key, 0, mtime, "", key))

    def jobs() -> Iterator[FileJob]:
        claimed: set[Path] = set()
        try:
            for key, row in token_files(dataset, keys, rows):
                target = folder / (key + extension)
                job = Job(record(key, row), target)
                if escapes_folder(key):
                    why = "its key leaves the folder of the images"
                    yield replace(job, target=None, state="foreign", why=why)
                elif isinstance(row, TokcodecError):
                    yield replace(job, target=None)  # reading it says what is wrong
                elif target in claimed:
                    why = "a second row of this key; choose it by its row number"
                    yield replace(job, target=None, state="foreign", why=why)
                else:
                    claimed.add(target)
                    yield judged(job, files.judge)
        except TokcodecError as error:  # told behind the rows before it, which are decoded
            yield Job(record(name, error), None, "foreign", error.reason)

    return Plan(len(keys) + len(rows) or len(dataset), jobs())
