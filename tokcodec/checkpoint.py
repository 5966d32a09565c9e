"""Checkpoints: one safetensors file with the config, the identities and the weights. No torch.

Metadata of the file:

========================  ============================================================
``tokcodec.format``       version of this layout, ``1``
``tokcodec.config``       canonical JSON of ``ModelConfig``
``tokcodec.code_id``      64 hex digits, see ``code_id``
``tokcodec.checkpoint_id``  64 hex digits, see ``checkpoint_id``
``tokcodec.prior_id``     64 hex digits, see ``prior_id``; only where there is a prior
``tokcodec.provenance``   JSON: data, recipe, steps, seed, command, measures; changes no id
========================  ============================================================

Tensors are float32 or float16 under the names of ``tokcodec.model.tokenizer.Tokenizer``:
``encoder.*``, ``quantizer.codebook`` and ``decoder.*``; and the integers of a prior, ``prior.*``
(see ``tokcodec.prior``).
"""

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tokcodec.config import ModelConfig
from tokcodec.errors import CheckpointError, ConfigError
from tokcodec.files import write_atomically
from tokcodec.prior import PREFIX, Prior

FORMAT = "1"
SUFFIX = ".safetensors"

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Header:
    """What a checkpoint says of itself. Ids are 64 hex digits; without a prior it has no
    ``prior_id``."""

    path: Path
    config: ModelConfig
    code_id: str
    checkpoint_id: str
    prior_id: str | None
    provenance: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def is_cached(self) -> bool:
        """Whether it lies in the cache, where its name alone does not find it."""
        return cache_folder() in self.path.parents


def code_id(config: ModelConfig, tensors: Tensors) -> str:
    """SHA-256, in hex, of all that decides what a code means: equal ids, equal meaning.

    It covers the encode side of the config and every encoder and codebook tensor. A better
    decoder for the same codes leaves it as it is.
    """
    names = [name for name in tensors if name.startswith(("encoder.", "quantizer."))]
    return _digest("tokcodec code", config.encode_side_json(), names, tensors)


def checkpoint_id(config: ModelConfig, tensors: Tensors) -> str:
    """SHA-256, in hex, of the whole config and every tensor."""
    return _digest("tokcodec checkpoint", config.to_json(), tensors, tensors)


def prior_id(tensors: Tensors) -> str | None:
    """SHA-256, in hex, of the tables of the prior; None if there are none."""
    names = [name for name in tensors if name.startswith(PREFIX)]
    return _digest("tokcodec prior", "", names, tensors) if names else None


def _digest(kind: str, config: str, names: Iterable[str], tensors: Tensors) -> str:
    # Every part goes in behind its length, so no two inputs give the same stream.
    digest = hashlib.sha256()

    def add(part: bytes | memoryview) -> None:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)

    add(kind.encode())
    add(config.encode())
    for name in sorted(names):
        tensor = np.ascontiguousarray(tensors[name])
        tensor = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
        add(name.encode())
        add(tensor.dtype.name.encode())
        add(json.dumps(tensor.shape).encode())
        add(tensor.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def write(
    path: Path, config: ModelConfig, tensors: Tensors, provenance: Mapping[str, Any]
) -> Header:
    """Writes a checkpoint, whole or not at all.

    Raises:
        OutputError: the file system refused.
    """
    header = Header(
        path,
        config,
        code_id(config, tensors),
        checkpoint_id(config, tensors),
        prior_id(tensors),
        dict(provenance),
    )
    metadata = {
        "tokcodec.format": FORMAT,
        "tokcodec.config": config.to_json(),
        "tokcodec.code_id": header.code_id,
        "tokcodec.checkpoint_id": header.checkpoint_id,
        "tokcodec.provenance": json.dumps(header.provenance, sort_keys=True),
    }
    if header.prior_id:
        metadata["tokcodec.prior_id"] = header.prior_id
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    data = save(contiguous, metadata)
    write_atomically(path, lambda file: file.write(data))
    return header


def read_header(path: Path) -> Header:
    """The header alone, in about a millisecond. Its ids are claims until ``read`` checks them.

    Raises:
        CheckpointError: no checkpoint of tokcodec, or one that needs a newer version.
    """
    try:
        with safe_open(path, framework="np") as file:
            return _header(path, file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot read as a checkpoint: {error}") from error


def read(path: Path) -> tuple[Header, dict[str, NDArray[Any]]]:
    """Header and tensors, with both ids verified against the bytes.

    Raises:
        CheckpointError: as ``read_header``; also a tensor of the model that is neither float32
            nor float16, or ids that are not those of the contents.
    """
    try:
        with safe_open(path, framework="np") as file:
            header = _header(path, file.metadata() or {})
            tensors = _tensors(path, file, file.keys())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot read as a checkpoint: {error}") from error
    for kind, claimed, actual in (
        ("code_id", header.code_id, code_id(header.config, tensors)),
        ("checkpoint_id", header.checkpoint_id, checkpoint_id(header.config, tensors)),
        ("prior_id", header.prior_id, prior_id(tensors)),
    ):
        _verify(path, kind, claimed, actual)
    return header, tensors


def _tensors(path: Path, file: Any, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """These tensors of an open file; one of another type than ours is refused unread."""
    tensors = {}
    for name in names:
        known = {"U8": "uint8", "U16": "uint16"}
        if not name.startswith(PREFIX):
            known = {"F32": "float32", "F16": "float16"}
        if file.get_slice(name).get_dtype() not in known:
            raise CheckpointError(
                f"{path}: tensor {name} is neither {' nor '.join(known.values())}"
            )
        tensors[name] = file.get_tensor(name)
    return tensors


def _verify(path: Path, kind: str, claimed: str | None, actual: str | None) -> None:
    if claimed != actual:
        claim, content = ((digits or "none")[:8] for digits in (claimed, actual))
        raise CheckpointError(
            f"{path}: damaged or altered: it claims {kind} {claim}, its contents have {content}; "
            "delete it, and fetch or convert it again"
        )


def read_prior(header: Header) -> Prior:
    """The prior of a checkpoint, verified; kept in memory for the next call.

    Raises:
        CheckpointError: it has none, or it is damaged.
    """
    if header.prior_id is None:
        raise CheckpointError(
            f"{header.path}: has no prior to entropy-code with; make one with tokcodec train-prior"
        )
    if header.config.layout != "patch":
        raise CheckpointError(f"{header.path}: only the patch layout has a prior")
    prior = _read_prior(header.path, header.prior_id, header.config.grid(header.config.encoder))
    if len(prior.group) != header.config.quantizer.codebook_size:
        raise CheckpointError(f"{header.path}: its prior is of {len(prior.group)} codes")
    return prior


@lru_cache(maxsize=8)
def _read_prior(path: Path, claimed: str, side: int) -> Prior:
    try:
        with safe_open(path, framework="np") as file:
            names = [name for name in file.keys() if name.startswith(PREFIX)]  # noqa: SIM118
            tensors = _tensors(path, file, names)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot read as a checkpoint: {error}") from error
    _verify(path, "prior_id", claimed, prior_id(tensors))
    try:
        return Prior.from_tensors(tensors, side)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _header(path: Path, metadata: Mapping[str, str]) -> Header:
    version = metadata.get("tokcodec.format")
    if version is None:
        raise CheckpointError(f"{path}: not a tokcodec checkpoint (no tokcodec.format in it)")
    if version != FORMAT:
        raise CheckpointError(f"{path}: checkpoint format {version} needs a newer tokcodec")
    try:
        provenance = json.loads(metadata.get("tokcodec.provenance", "{}"))
        if not isinstance(provenance, dict):
            raise ValueError
        return Header(
            path,
            ModelConfig.from_json(metadata["tokcodec.config"]),
            metadata["tokcodec.code_id"],
            metadata["tokcodec.checkpoint_id"],
            metadata.get("tokcodec.prior_id"),
            provenance,
        )
    except KeyError as error:
        raise CheckpointError(f"{path}: the checkpoint lacks {error.args[0]}") from error
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: tokcodec.provenance is no JSON object") from error


@cache
def bundled() -> tuple[Header, ...]:
    """Headers of the checkpoints that come with tokcodec, fewest codes first.

    They lie in the package when it is installed, and beside it in a source checkout.
    """
    package = Path(__file__).parent
    folder = next(
        (f for f in (package / "weights", package.parent / "weights") if f.is_dir()), None
    )
    headers = [read_header(path) for path in folder.glob("*" + SUFFIX)] if folder else []
    return tuple(sorted(headers, key=lambda header: (header.config.num_codes, header.name)))


def is_own(weights: str) -> bool:
    """Whether ``weights`` names a checkpoint of tokcodec's: bundled, a file, or in a folder."""
    if any(header.name == weights for header in bundled()):
        return True
    path = Path(weights)
    try:
        return any(map(_is_own_file, path.glob("*" + SUFFIX) if path.is_dir() else [path]))
    except OSError:  # a name too long, a folder not to be read
        return False


def _is_own_file(path: Path) -> bool:
    try:
        with safe_open(path, framework="np") as file:
            return "tokcodec.format" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def find(weights: str) -> Header:
    """The checkpoint of tokcodec's that ``weights`` names: a bundled name, a file, or a folder
    with one in it.

    Raises:
        CheckpointError: there is none, or a folder holds several.
    """
    for header in bundled():
        if header.name == weights:
            return header
    path = Path(weights)
    if path.is_dir():
        found = sorted(path.glob("*" + SUFFIX))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise CheckpointError(
                f"{weights}: a weights folder must hold one {SUFFIX} file, found {names}; name it"
            )
        path = found[0]
    elif not path.is_file():
        names = ", ".join(header.name for header in bundled())
        raise CheckpointError(f"{weights}: no such file or bundled checkpoint (bundled: {names})")
    return read_header(path)


def find_by_code_id(prefix: bytes, given: Header | None = None) -> Header | None:
    """The checkpoint whose ``code_id`` begins with these 4 bytes: the ``given`` one, or else a
    bundled or cached one, if any."""
    return next(_with_code_id(prefix, given), None)


def find_with_prior(prefix: bytes, given: Header | None = None) -> Header:
    """The checkpoint with a prior whose ``code_id`` begins with these 4 bytes: the ``given`` one,
    or else a bundled or cached one.

    Raises:
        CheckpointError: there is none.
    """
    lack = "which is neither bundled nor cached"
    for header in _with_code_id(prefix, given):
        if header.prior_id:
            return header
        lack = f"and {header.path} has none"
    raise CheckpointError(
        f"entropy-coded with a prior of model {prefix.hex()}, {lack}; "
        "name, by --weights, the checkpoint that it was encoded with"
    )


def _with_code_id(prefix: bytes, given: Header | None) -> Iterator[Header]:
    known = itertools.chain([given] if given else [], bundled(), cached())
    return (header for header in known if header.code_id.startswith(prefix.hex()))


def cache_folder() -> Path:
    """Where converted checkpoints are kept: ``TOKCODEC_CACHE``, or ``tokcodec`` in the user's
    cache (``XDG_CACHE_HOME``, ``~/.cache``)."""
    own = os.environ.get("TOKCODEC_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(shared) / "tokcodec"


def cached() -> Iterator[Header]:
    """Headers of the checkpoints in the cache; what cannot be read is passed over."""
    for path in sorted(cache_folder().glob("*/*" + SUFFIX)):
        with contextlib.suppress(CheckpointError):
            yield read_header(path)


def check_tokens(header: Header, tokens: int | None) -> int:
    """The number of codes a square if ``tokens`` of them are asked for; None asks for all.

    Raises:
        CheckpointError: there are fewer, or the checkpoint decodes only all of them.
    """
    count = header.config.num_codes
    if tokens is None or tokens == count:
        return count
    if not 1 <= tokens <= count:
        raise CheckpointError(f"{header.name}: has {count} codes a square, not {tokens}")
    if not header.config.prefix_codes:
        raise CheckpointError(
            f"{header.name}: decodes only all its {count} codes together; it was not trained for "
            f"{tokens} of them (One-D-Piece checkpoints are)"
        )
    return tokens
