"""``--weights`` of every kind: tokcodec's own checkpoints, and published ones converted once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokcodec import checkpoint
from tokcodec.config import ModelConfig
from tokcodec.convert.families import MODELS, recognise
from tokcodec.convert.published import Arrays
from tokcodec.convert.source import Source, locate
from tokcodec.errors import CheckpointError, ConfigError

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
        return checkpoint.read_header(path)
    return write(source, folder / (source.name + checkpoint.SUFFIX))


def write(source: Source, path: Path, model: str | None = None) -> checkpoint.Header:
    """Converts a published checkpoint to one of tokcodec's, ``path``.

    Args:
        source: its files.
        path: the file to write, whole or not at all.
        model: name of the published model (``titok-s128``) if there is no config beside it.

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
        if model:
            family, config = MODELS[model]
        else:
            config = source.read_config()
            family = recognise(config, tensors)
            if config is None:
                raise CheckpointError("there is no config.json beside it; convert it with --family")
        return family(config, tensors)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{source.weights}: {error}") from error
