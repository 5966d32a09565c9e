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
    file_extension,
    is_standard,
    names_of,
    refuse_others,
    write_out,
)
from tokcodec.batch.plan import Targets, escapes_folder, judged, make_plan
from tokcodec.batch.received import Received, Several, images_of
from tokcodec.batch.sheet import Sheet
from tokcodec.checkpoint import Header, check_token_count, find, find_by_model_id
from tokcodec.config.geometry import Size
from tokcodec.dataset.exported import open_tokens
from tokcodec.dataset.folder import is_dataset
from tokcodec.dataset.formats import is_export
from tokcodec.dataset.reader import open_dataset, token_files
from tokcodec.decoding import OutputSize, output_size
from tokcodec.errors import (
    ArgumentError,
    DatasetError,
    Hint,
    ImageError,
    OutputError,
    TokcodecError,
    TokenFileError,
)
from tokcodec.image import save, size_of
from tokcodec.inputs.records import Record
from tokcodec.io.files import SUFFIX, refuse_remote, same_file
from tokcodec.io.find import Stamp
from tokcodec.io.imagefile import extensions
from tokcodec.io.job import Job, State, single_job
from tokcodec.io.remote import is_remote
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
    size: OutputSize = None,
    tokens: int | None = None,
    image_format: Literal["png", "jpg", "webp"] | None = None,
    png_level: int = 1,
    keys: Sequence[str] = (),
    rows: Sequence[int] = (),
    grid: int | None = None,
    damaged: bool = False,
    options: RunOptions = RunOptions(),  # noqa: B008 (frozen)
) -> Outcomes:
    """Decode token files to images, ``a.jpg.tok`` to ``a.jpg.png``.

    Images that are newer than their token files and have the right size are skipped. A job whose
    output exists otherwise fails unless ``overwrite`` is set, and so does a bad token file; the
    other token files are still decoded. Packets of one image become one image, whose name has no
    number; the images of several messages in one text are numbered. The work is done as the
    outcomes are taken.

    Args:
        sources: files, folders, globs, tars, URLs; or ``-``, standard input; or one token dataset,
            or one file of tokens as ``export`` writes it or a generative model samples it:
            ``.npy`` ([n, N] or [n, rows, columns]), ``.npz``, ``.safetensors``, ``.jsonl``,
            ``.bin``, or ``.tar`` in WebDataset layout.
        output: a file, a folder, or ``-``, standard output; next to the token files if None.
        weights: the checkpoint; the bundled or cached one that fits each file if None.
        size, tokens: see ``Codec.decompress``.
        image_format: the format of images in folders and on standard output; PNG if None.
        png_level: how hard PNG files are compressed, 1 fast to 9 small.
        keys, rows: only the rows of a token dataset or a file of tokens with these keys, or with
            these numbers from 0; all rows if both are empty.
        grid: write a contact sheet to ``output``, with this many images in a row.
        damaged: decode files that are cut or altered as far as possible.
        options: overwriting, dry run, device, threads, and which files are taken.

    Raises:
        ArgumentError: see ``plan.make_plan``; or no file is named for the contact sheet.
        CheckpointError: the checkpoint cannot be found.
        DatasetError: the dataset or the file of tokens cannot be read, or it does not name its
            model and ``weights`` is None.
        OutputError: the file of the contact sheet exists.
    """
    names = names_of(sources)
    output = None if output is None else os.fspath(output)
    several = [name for name in names if name != STANDARD and not name.endswith(SUFFIX)]
    tables = [name for name in several if is_export(name) or is_dataset(name)]
    if tables and len(names) > 1:
        raise ArgumentError(
            f"{tables[0]}: a token dataset or a file of tokens must be the only source"
        )
    if (keys or rows) and not tables:
        raise ArgumentError("rows can be chosen only from a token dataset or a file of tokens")
    sheet = _sheet_of(output, names[0], options) if grid else None
    refuse_others(names, extensions(), ENCODE)
    extension = f".{image_format or 'png'}"
    named = file_extension(output)
    if image_format and named in extensions() and named.replace("jpeg", "jpg") != extension:
        raise ArgumentError(
            f"{output} is not the name of a {image_format} image; the format is that of the name"
        )
    given = find(weights) if weights else None
    files = _Files(given, cache(find_by_model_id), size, tokens, extension, png_level)
    one = Path(output) if output and named in extensions() else None
    several_images: Several = "numbered"
    if one or is_standard(names, output):
        several_images = "together" if sheet else "refused"
    if tables:
        plan = _plan_rows(names[0], keys, rows, output, extension, files, sheet)
    else:
        plan = make_plan(
            names,
            output,
            lambda name: name.removesuffix(SUFFIX) + extension,
            files.judge if not sheet else lambda *_: ("new", None),
            kinds={SUFFIX},
            selection=options.selection,
            together=sheet or one,
            spread=lambda jobs: images_of(jobs, several_images, damaged),
        )
    together = Sheet(grid) if grid else None

    codecs: dict[str, Codec] = {}

    def work(jobs: Iterator[FileJob]) -> Iterator[Outcome]:
        while chunk := list(islice(jobs, _CHUNK)):
            # There may be tokens of several models, each of which is loaded once.
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
                decoded = codecs[header.checkpoint_id].decompress_stream(
                    ((opened, opened[1]) for opened in group),
                    size=size,
                    tokens=tokens,
                    workers=options.workers,
                )
                write = partial(files.write, header, together)
                workers = 1 if grid else options.workers  # a contact sheet is filled in order
                yield from map_ahead(write, decoded, workers, 2 * workers, at_once=True)
        if together and sheet:
            save(together.compose(), sheet, extension, png_level)

    return options.run(plan, work)


def _sheet_of(output: str | None, source: str, options: RunOptions) -> Path:
    """The file of a contact sheet; raises ArgumentError or OutputError if it cannot be written."""
    refuse_remote(output)
    if output is None or file_extension(output) not in extensions():
        why = "give an image file as the output for the contact sheet, such as sheet.png"
        raise ArgumentError(why, name=output)
    job = single_job(source, Path(output))
    if not options.dry_run:
        job.check(options.overwrite)
    return Path(output)


@dataclass(frozen=True)
class _Files:
    """Turns one token file into one image.

    ``given`` is the checkpoint that the user named; else ``fitting`` finds the one of a model id.
    """

    given: Header | None
    fitting: Callable[[bytes], Header | None]
    size: OutputSize
    tokens: int | None
    extension: str
    png_level: int

    def open(self, record: Record) -> tuple[TokenFile, Header]:
        """Read a token file and find the checkpoint that decodes it.

        Raises:
            TokenFileError: the file cannot be read, or there is no such checkpoint.
            CheckpointError: the checkpoint does not support this number of tokens.
        """
        try:
            found = record.found if isinstance(record, Received) else record.read()
        except OSError as error:
            raise TokenFileError(f"cannot read: {error.strerror or error}") from error
        if isinstance(found, TokenFileError):
            raise found
        token_file = TokenFile.from_bytes(found) if isinstance(found, bytes) else found
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
        """The state of an existing image of a token file, and the reason."""
        try:
            token_file, header = self.open(record)
        except TokcodecError:
            return "new", None  # the run reads it again and reports the error
        found = size_of(target)
        if found is None:
            return "foreign", "exists, and is not an image"
        if found != self._output(token_file, header):
            return "stale", f"exists, with {found[0]}x{found[1]} pixels"
        if record.since is None:
            return "foreign", "already exists"
        if target.stat().st_mtime_ns < record.since:
            return "stale", "exists, and is older than its token file"
        return "current", None

    def _output(self, token_file: TokenFile, header: Header) -> Size | None:
        size, grid = (token_file.width, token_file.height), (token_file.rows, token_file.columns)
        try:
            placement, _ = header.config.place_grid(token_file.fit, size, *grid)
        except ImageError:
            return None
        return output_size(token_file, self.size, placement)

    def write(
        self,
        header: Header,
        sheet: Sheet | None,
        pair: tuple[_Opened, Image.Image | TokcodecError],
    ) -> Outcome:
        """Write the image of a token file, to the contact sheet if there is one."""
        (job, token_file), result = pair
        if isinstance(result, TokcodecError):
            return Outcome(job, result.named(job.name))
        size = missing = 0
        if sheet is not None:
            sheet.add(result)  # a sheet that becomes too large ends the run
        else:
            try:
                size = self._save(result, job.target)
            except (OutputError, ImageError) as error:
                return Outcome(job, error)
        if token_file.packets or token_file.damaged:
            missing = int((token_file.tokens_with(header, incomplete=True) < 0).sum())
        return Outcome(
            job, None, token_file.file_bytes, size, result.size, token_file, header.name, missing
        )

    def _save(self, image: Image.Image, target: Path | None) -> int:
        """Write an image to its file or to standard output; return the number of bytes."""
        if target:
            return save(image, target, self.extension, self.png_level)
        buffer = io.BytesIO()
        save(image, buffer, self.extension, self.png_level)
        return write_out(buffer.getvalue())


def _plan_rows(
    name: str,
    keys: Sequence[str],
    numbers: Sequence[int],
    output: str | None,
    extension: str,
    files: _Files,
    sheet: Path | None,
) -> Plan:
    """A job for each chosen row of a token dataset or a file of tokens.

    Images go into the folder ``output``, or all into ``sheet``.
    """
    rows: Iterator[tuple[str, TokenFile | DatasetError]]
    if is_export(name):
        exported = open_tokens(name, files.given)
        count, rows = exported.count, exported.token_files(keys, numbers)
        written_at = None if is_remote(name) else Path(name).stat().st_mtime_ns
    else:
        dataset = open_dataset(name)
        count, rows = len(dataset), token_files(dataset, keys, numbers)
        written_at = dataset.written_at
    mtime = "" if written_at is None else str(written_at)
    if output is None or output == STANDARD:
        raise ArgumentError("give a folder as the output for the images of its rows", name=name)
    refuse_remote(output)
    folder = Path(output)
    if same_file(name, folder):
        raise OutputError("is the input itself", name=output, hint=Hint.OTHER_OUTPUT)
    if not sheet and folder.exists() and not folder.is_dir():
        raise OutputError(
            "is a file; give a folder as the output for the images of the rows", name=output
        )
    if keys or numbers:
        count = len(keys) + len(numbers)
    if count == 0:
        raise DatasetError("holds no rows", name=name)

    def record(key: str, row: TokenFile | TokcodecError) -> Record:
        def read() -> bytes:
            if isinstance(row, TokcodecError):
                raise row
            return row.to_bytes()

        return Record(key, None, read, Stamp(key, 0, mtime, "", key))

    def jobs() -> Iterator[FileJob]:
        targets = Targets()
        again = "a second row of this key; choose it by its row number"
        try:
            for key, row in rows:
                target = sheet or folder / (key + extension)
                job = Job(record(key, row), target)
                if isinstance(row, TokcodecError):
                    yield replace(job, target=None)  # the run reads it and reports the error
                elif sheet:
                    yield job
                elif escapes_folder(key):
                    why = "its key leaves the folder of the images"
                    yield replace(job, target=None, state="foreign", why=why)
                else:
                    yield judged(targets.claim(job, again), files.judge)
        except TokcodecError as error:  # the rows before it are decoded
            yield Job(record(name, error), None, "foreign", error.reason)

    return Plan(count, jobs())
