"""Find a checkpoint by what the user names: tokcodec's own, or a published one to convert."""

import contextlib
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from tokcodec.checkpoint.format import SUFFIX, Header, read_header, write
from tokcodec.checkpoint.store import bundled, cache_folder
from tokcodec.errors import ArgumentError, CheckpointError, Hint, OutputError
from tokcodec.io.job import single_job
from tokcodec.io.tensorfile import open_tensors

if TYPE_CHECKING:
    from tokcodec.families import Source

_CONVERSION = 1  # increase it when the result of a conversion changes


def find(weights: str) -> Header:
    """Find a checkpoint: the name of a bundled one, a file, a folder, or a hub id.

    A published checkpoint is converted, and kept in the cache by the digest of its files.

    Raises:
        CheckpointError: there is no such checkpoint, a folder holds several, or it cannot be
            converted.
        OutputError: the cache cannot be written.
    """
    if own := find_own(weights):
        return own
    source = _locate(weights, suggest_bundled=True)
    if own := find_own(str(source.weights)):  # one of ours, on the hub
        return own
    folder = cache_folder() / f"{_CONVERSION}-{source.digest}"
    for path in folder.glob("*" + SUFFIX):
        with contextlib.suppress(CheckpointError):  # a damaged one is converted again
            return read_header(path)
    try:
        return write_converted(source, folder / (source.name + SUFFIX))
    except OutputError as error:
        raise OutputError(
            "cannot write the converted checkpoint: set TOKCODEC_CACHE to a folder that can be "
            "written, or use tokcodec convert",
            name=folder,
        ) from error


def _locate(source: str, suggest_bundled: bool = False) -> "Source":
    """Locate a published checkpoint.

    If only the name of a published model is given, the error says where that is; any other error
    can list the bundled checkpoints.
    """
    from tokcodec.families import known, locate  # imported late because it is slow

    try:
        return locate(source)
    except CheckpointError as error:
        if source not in known():
            if not suggest_bundled:
                raise
            names = ", ".join(header.name for header in bundled())
            raise CheckpointError(f"{error.reason} (bundled: {names})", name=error.name) from error
        where = known()[source][1].published
        on_hub = " " not in where
        use = f"give {where} instead" if on_hub else f"download it ({where}), and give the file"
        raise CheckpointError(f"is the name of a published model; {use}", name=source) from error


def convert(
    source: str,
    output: Path | None = None,
    *,
    family: str | None = None,
    image_size: int | None = None,
    overwrite: bool = False,
) -> Header:
    """Convert a published checkpoint to tokcodec's format.

    Args:
        source: a folder with a weights file and its config, a weights file, or a model on the hub.
        output: a file or a folder; NAME.safetensors in the current folder if None.
        family: name of the published model, if its files do not identify it.
        image_size: side of the square that a convolutional model sees; the published one if None.
        overwrite: replace an existing file.

    Raises:
        ArgumentError: no published model is called ``family``.
        CheckpointError: the source cannot be read, is of no known family, or needs no conversion.
        OutputError: the output exists, or cannot be written.
    """
    from tokcodec.families import known

    if family and family not in known():
        close = " or ".join(get_close_matches(family, known()))
        why = f"{family!r} is not a published model" + (f"; did you mean {close}?" if close else "")
        raise ArgumentError(why, hint=None if close else Hint.LIST_MODELS)
    if find_own(source):
        raise CheckpointError("is already a checkpoint of tokcodec", name=source)
    found = _locate(source)
    target = output or Path(found.name + SUFFIX)
    if target.is_dir():
        target = target / (found.name + SUFFIX)
    single_job(found.weights, target).check(overwrite)
    return write_converted(found, target, family, image_size)


def write_converted(
    source: "Source", path: Path, model: str | None = None, image_size: int | None = None
) -> Header:
    """Convert a published checkpoint and write it to ``path``; see ``convert``."""
    from tokcodec.families import convert

    config, tensors = convert(source, model, image_size)
    provenance = {"converted_from": source.origin, "source_sha256": source.digest}
    return write(path, config, tensors, provenance)


def find_own(weights: str) -> Header | None:
    """Find a checkpoint in tokcodec's format: bundled, a file, or the only one in a folder.

    Raises:
        CheckpointError: it cannot be read, or a folder holds several.
    """
    for header in bundled():
        if header.name == weights:
            return header
    path = Path(weights)
    try:
        found = sorted(path.glob("*" + SUFFIX)) if path.is_dir() else [path]
        own = [file for file in found if _is_own(file)]
    except OSError:  # a name that is too long, a folder that cannot be read
        return None
    if len(own) > 1:
        names = ", ".join(file.name for file in own)
        raise CheckpointError(f"holds several checkpoints, {names}: name one of them", name=weights)
    return read_header(own[0]) if own else None


def _is_own(path: Path) -> bool:
    try:
        with open_tensors(path) as file:
            return "tokcodec.format" in (file.metadata() or {})
    except CheckpointError:
        return False
