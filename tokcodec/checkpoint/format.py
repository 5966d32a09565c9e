"""The file of a checkpoint: safetensors with this metadata:

==========================  ============================================================
``tokcodec.format``         version of this layout, ``1``
``tokcodec.config``         canonical JSON of ``ModelConfig``
``tokcodec.model_id``       64 hex digits, see ``model_id``
``tokcodec.checkpoint_id``  64 hex digits, see ``checkpoint_id``
``tokcodec.prior_id``       64 hex digits, see ``prior_id``; only if there is a prior
``tokcodec.provenance``     JSON: data, recipe, steps, seed, command, measures; changes no id
==========================  ============================================================

Tensors are float32 or float16 under the names of ``tokcodec.model.tokenizer.Tokenizer``:
``encoder.*``, ``quantizer.*`` and ``decoder.*``; and the integers of a prior, ``prior.*``
(see ``tokcodec.coding.prior``).
"""

import json
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from tokcodec.checkpoint.identities import Tensors, checkpoint_id, model_id, prior_id
from tokcodec.coding.prior import PREFIX, Prior
from tokcodec.config import ModelConfig
from tokcodec.config.geometry import FITS, MAX_TILE_TOKENS, Fit
from tokcodec.errors import CheckpointError, ConfigError, Hint, counted
from tokcodec.io.files import write_atomically
from tokcodec.io.json import parse_json
from tokcodec.io.tensorfile import open_tensors

FORMAT = "1"
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Header:
    """The metadata of a checkpoint. Ids are 64 hex digits; ``prior_id`` is None without a prior."""

    path: Path
    config: ModelConfig
    model_id: str
    checkpoint_id: str
    prior_id: str | None
    provenance: dict[str, Any]

    @property
    def name(self) -> str:
        """The stem of the file name; if it is ``model``, the names of folder and file."""
        stem = self.path.stem
        return f"{self.path.absolute().parent.name}-{stem}" if stem == "model" else stem

    def decodes(self, prefix: bytes) -> bool:
        """Whether the ``model_id`` begins with these bytes, so that this checkpoint decodes tokens
        of it."""
        return self.model_id.startswith(prefix.hex())


def write(
    path: Path, config: ModelConfig, tensors: Tensors, provenance: Mapping[str, Any]
) -> Header:
    """Write a checkpoint, whole or not at all.

    Args:
        path: the file.
        config, tensors: the model, and its prior.
        provenance: where it comes from.

    Raises:
        OutputError: the file cannot be written.
    """
    header = Header(
        path,
        config,
        model_id(config, tensors),
        checkpoint_id(config, tensors),
        prior_id(tensors),
        dict(provenance),
    )
    metadata = {
        "tokcodec.format": FORMAT,
        "tokcodec.config": config.to_json(),
        "tokcodec.model_id": header.model_id,
        "tokcodec.checkpoint_id": header.checkpoint_id,
        "tokcodec.provenance": json.dumps(header.provenance, sort_keys=True),
    }
    if header.prior_id:
        metadata["tokcodec.prior_id"] = header.prior_id
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    data = save(contiguous, metadata)
    write_atomically(path, lambda file: file.write(data), durable=True)
    return header


def read_header(path: Path) -> Header:
    """Read only the header, in about a millisecond. Its ids are not verified.

    Raises:
        CheckpointError: it is not a checkpoint of tokcodec, or needs a newer version.
    """
    with open_tensors(path) as file:
        return _header(path, file.metadata() or {})


def read(path: Path) -> tuple[Header, dict[str, NDArray[Any]]]:
    """Read header and tensors, and verify the ids.

    Raises:
        CheckpointError: as ``read_header``; or a tensor has an unexpected type, or the ids are not
            those of the contents.
    """
    with open_tensors(path) as file:
        header = _header(path, file.metadata() or {})
        tensors = _tensors(path, file, file.keys())
    for kind, claimed, actual in (
        ("model_id", header.model_id, model_id(header.config, tensors)),
        ("checkpoint_id", header.checkpoint_id, checkpoint_id(header.config, tensors)),
        ("prior_id", header.prior_id, prior_id(tensors)),
    ):
        _verify(path, kind, claimed, actual)
    return header, tensors


def _tensors(path: Path, file: Any, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Read tensors of an open file, of the types that checkpoints have."""
    tensors = {}
    for name in names:
        known = {"F32": "float32", "F16": "float16"}
        if name.startswith(PREFIX):
            known = {"I8": "int8", "U8": "uint8", "I16": "int16", "U16": "uint16"}
        if file.get_slice(name).get_dtype() not in known:
            raise CheckpointError(
                f"tensor {name} is neither {' nor '.join(known.values())}", name=path
            )
        tensors[name] = file.get_tensor(name)
    return tensors


def _verify(path: Path, kind: str, claimed: str | None, actual: str | None) -> None:
    if claimed != actual:
        claim, content = ((digits or "none")[:8] for digits in (claimed, actual))
        raise CheckpointError(
            f"damaged or altered: it claims {kind} {claim}, its contents have {content}; "
            "delete it, and fetch or convert it again",
            name=path,
        )


def read_prior(header: Header) -> Prior:
    """Read and verify the prior of a checkpoint, and keep it for the next call.

    Raises:
        CheckpointError: it has no prior, or the prior is damaged.
    """
    if header.prior_id is None:
        raise CheckpointError(
            "has no prior to entropy-code with; make one with tokcodec train-prior",
            name=header.path,
        )
    if not header.config.has_grid:
        raise CheckpointError("only tokens in rows and columns have a prior", name=header.path)
    prior = _read_prior(header.path, header.prior_id)
    if len(prior.group) != header.config.quantizer.codebook_size:
        raise CheckpointError(
            f"its prior is of {counted(len(prior.group), 'token')}", name=header.path
        )
    return prior


@lru_cache(maxsize=8)
def _read_prior(path: Path, claimed: str) -> Prior:
    with open_tensors(path) as file:
        names = [name for name in file.keys() if name.startswith(PREFIX)]  # noqa: SIM118
        tensors = _tensors(path, file, names)
    _verify(path, "prior_id", claimed, prior_id(tensors))
    try:
        return Prior.from_tensors(tensors)
    except CheckpointError as error:
        raise error.named(path) from error


def _header(path: Path, metadata: Mapping[str, str]) -> Header:
    version = metadata.get("tokcodec.format")
    if version is None:
        raise CheckpointError("not a tokcodec checkpoint (no tokcodec.format in it)", name=path)
    if version != FORMAT:
        raise CheckpointError(f"checkpoint format {version} needs a newer tokcodec", name=path)
    try:
        model, whole = metadata["tokcodec.model_id"], metadata["tokcodec.checkpoint_id"]
        prior = metadata.get("tokcodec.prior_id")
        ids = [digits for digits in (model, whole, prior) if digits is not None]
        if not all(re.fullmatch("[0-9a-f]{64}", digits) for digits in ids):
            raise ValueError("one of its ids is not 64 hex digits")
        return Header(
            path,
            ModelConfig.from_json(metadata["tokcodec.config"]),
            model,
            whole,
            prior,
            _provenance(metadata),
        )
    except KeyError as error:
        raise CheckpointError(f"the checkpoint lacks {error.args[0]}", name=path) from error
    except (ConfigError, ValueError) as error:
        raise CheckpointError(f"{error}; fetch or convert it again", name=path) from error


def _provenance(metadata: Mapping[str, str]) -> dict[str, Any]:
    wrong = "tokcodec.provenance is not a JSON object"
    try:
        value = parse_json(metadata.get("tokcodec.provenance", "{}"))
    except ValueError as error:
        raise ValueError(f"{wrong}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(wrong)
    return value


def check_token_count(header: Header, tokens: int | None) -> int:
    """The number of tokens per tile if the user asks for ``tokens``; None is the default.

    Raises:
        CheckpointError: the checkpoint has fewer tokens, or decodes only all of them.
        TypeError: ``tokens`` is not an integer.
    """
    count = header.config.num_tokens
    if tokens is None or operator.index(tokens) == count:
        return count
    if header.config.multiple:
        if not 1 <= tokens <= MAX_TILE_TOKENS:
            raise CheckpointError(
                f"takes from 1 to {MAX_TILE_TOKENS:,} tokens, not {tokens:,}", name=header.name
            )
        return tokens
    if not 1 <= tokens <= count:
        raise CheckpointError(
            f"has {counted(count, 'token')} per tile, not {tokens:,}", name=header.name
        )
    *fewer, _ = counts = header.config.token_counts
    if not fewer:
        raise CheckpointError(
            f"decodes only all its {count:,} tokens together; it was not trained for the first "
            f"{tokens:,} (One-D-Piece checkpoints are)",
            name=header.name,
        )
    if tokens not in counts:
        known = ", ".join(f"{number:,}" for number in fewer)
        raise CheckpointError(
            f"decodes its first {known} or all {count:,} tokens, not {tokens:,}", name=header.name
        )
    return tokens


def check_fit(header: Header, fit: Fit) -> None:
    """
    Raises:
        ValueError: there is no such fit.
        CheckpointError: the checkpoint does not have this fit.
    """
    if fit not in FITS:
        raise ValueError(f"fit must be one of {', '.join(FITS)}, not {fit!r}")
    if fit in ("aspect", "native") and not header.config.multiple:
        side = header.config.preprocessing.image_size
        raise CheckpointError(
            f"takes only squares of {side} pixels, and has no fit {fit}",
            name=header.name,
            hint=Hint.OTHER_FIT,
        )
