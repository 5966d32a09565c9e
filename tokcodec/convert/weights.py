"""``--weights`` of every kind: tokcodec's own checkpoints, and published ones converted once."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokcodec import checkpoint
from tokcodec.config import ModelConfig
from tokcodec.convert import simple_1d
from tokcodec.convert.families import MODELS, recognise
from tokcodec.convert.published import Arrays
from tokcodec.convert.source import Source, locate
from tokcodec.errors import CheckpointError, ConfigError, OutputError

_VERSION = 1  # raised when a family's conversion changes what it gives


def find(weights: str) -> checkpoint.Header:
    """The checkpoint that ``weights`` names: a bundled name, a file, a folder, or a hub id.

    A published checkpoint is converted and kept in the cache, under the digest of its files.

    Raises:
        CheckpointError: there is none, or none that can be converted.
        OutputError: the cache cannot be written.
    """
    if checkpoint.is_own(weights):
        return checkpoint.find(weights)
    source = locate(weights)
    if checkpoint.is_own(str(source.weights)):  # one of ours, on the hub
        return checkpoint.find(str(source.weights))
    folder = checkpoint.cache_folder() / f"{_VERSION}-{source.digest}"
    for path in folder.glob("*" + checkpoint.SUFFIX):
        with contextlib.suppress(CheckpointError):  # damaged: converted again
            return checkpoint.read_header(path)
    try:
        return write(source, folder / (source.name + checkpoint.SUFFIX))
    except OutputError as error:
        raise OutputError(
            f"{folder}: cannot keep the converted checkpoint there: name a folder that can be "
            "written in TOKCODEC_CACHE, or use tokcodec convert"
        ) from error


def write(source: Source, path: Path, model: str | None = None) -> checkpoint.Header:
    """Converts a published checkpoint to one of tokcodec's, ``path``.

    Args:
        source: its files.
        path: the file to write, whole or not at all.
        model: name of the published model (``titok-s128``), in place of a config beside it.

    Raises:
        CheckpointError: it is of no known family, incomplete, or not finite.
        OutputError: the file system refused.
    """
    config, tensors = convert(source, model)
    provenance = {"converted_from": source.origin, "source_sha256": source.digest}
    return checkpoint.write(path, config, tensors, provenance)


def convert(source: Source, model: str | None = None) -> tuple[ModelConfig, Arrays]:
    """The config and the tensors of a published checkpoint as tokcodec's.

    Raises:
        CheckpointError: it is of no known family, incomplete, or not finite.
    """
    config: Mapping[str, Any] | None
    tensors = source.read_tensors()
    try:
        config = MODELS[model][1] if model else source.read_config()
        family = recognise(config, tensors)
        if model and MODELS[model][0] is not family:
            # One-D-Piece and TiTok have the same tensors; only the name tells them apart.
            if simple_1d.convert in (family, MODELS[model][0]):
                raise CheckpointError(f"its tensors are not those of a {model}")
            family = MODELS[model][0]
        if config is None:
            raise CheckpointError(
                "there is no config.json beside it; convert it first: "
                f"tokcodec convert {source.weights} --family, one of {', '.join(MODELS)}"
            )
        return family(config, tensors)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{source.weights}: {error}") from error
