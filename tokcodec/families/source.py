"""Find and open published checkpoints: a folder, a file, or a model on the hub."""

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tokcodec.errors import CheckpointError, Hint, quoted
from tokcodec.families.reading import Array, Stored
from tokcodec.families.torch_file import open_torch
from tokcodec.io.json import DEPTH, parse_json
from tokcodec.io.read import read_text
from tokcodec.io.remote import reason_of
from tokcodec.io.tensorfile import open_tensors

_CONFIGS = ("config.json", "config.yaml")
# The keys under which training programs store the weights, best first. Infinity's files also have
# averages under ``ema``, which its authors do not use.
_STATES = ("vae", "ema", "model", "state_dict")
_CONFIG = 1 << 17  # bytes of the largest config that is read
_PICKLES = {".bin", ".pth", ".pt", ".ckpt", ".jit"}
# The usual names of weights files, best first.
_WEIGHTS = (
    "model.safetensors",
    "pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "autoencoder.jit",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
)
# The names of models that are published as two files.
_ENCODER, _DECODER = "encoder_pytorch_model.bin", "decoder_pytorch_model.bin"
_HUB = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?::(?P<file>[\w./-]+))?", re.ASCII
)


@dataclass(frozen=True)
class Source:
    """The files of a published checkpoint.

    Attributes:
        name: the name of the folder, the file or the model.
        weights: the file with the tensors.
        config: the file with the config, JSON or YAML, if there is one.
        origin: for the provenance: the hub id with its revision, or the name of the file.
        decoder: the file with the decoder's tensors, if ``weights`` has only the encoder's.
    """

    name: str
    weights: Path
    config: Path | None
    origin: str
    decoder: Path | None = None

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of all files, in hex."""
        total = hashlib.sha256()
        for path in (self.weights, self.config, self.decoder):
            if path:
                try:
                    with path.open("rb") as file:
                        total.update(hashlib.file_digest(file, "sha256").digest())
                except OSError as error:
                    raise CheckpointError(f"cannot read: {error.strerror}", name=path) from error
        return total.hexdigest()

    def read_config(self) -> dict[str, Any] | None:
        """Parse the config, if there is one.

        Raises:
            CheckpointError: it is not a JSON or YAML object, or it is YAML and PyYAML is not
                installed.
        """
        if not self.config:
            return None
        parse = parse_json if self.config.suffix == ".json" else _parse_yaml
        try:
            fields = parse(read_text(self.config, _CONFIG))
        except ImportError as error:
            raise CheckpointError(
                "needs PyYAML: pip install 'tokcodec[yaml]'", name=self.config
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            kind = self.config.suffix[1:].upper()
            reason = f"cannot read as {kind}: {reason_of(error)}"
            raise CheckpointError(reason, name=self.config, hint=Hint.NAME_FAMILY) from error
        if not isinstance(fields, dict):
            raise CheckpointError("expected an object", name=self.config, hint=Hint.NAME_FAMILY)
        return fields

    @contextlib.contextmanager
    def open(self) -> Iterator[Mapping[str, Stored]]:
        """The tensors by name, each read as float32 on request. The names of those of two files
        begin with ``encoder.`` and ``decoder.``.

        Raises:
            CheckpointError: a file cannot be read, or holds no dict of tensors.
        """
        with contextlib.ExitStack() as stack:
            tensors = stack.enter_context(_open(self.weights))
            if self.decoder:
                sides = {"encoder": tensors, "decoder": stack.enter_context(_open(self.decoder))}
                tensors = {
                    f"{side}.{name}": tensor
                    for side, part in sides.items()
                    for name, tensor in part.items()
                }
            yield tensors


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Mapping[str, Stored]]:
    if path.suffix.lower() in _PICKLES:
        with open_torch(path) as content:
            if not (tensors := _state(content)):
                raise CheckpointError("expected tensors by name, found none", name=path)
            yield tensors
        return
    with open_tensors(path) as file:
        names = list(file.keys())
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        yield {
            name: Stored(shape, partial(_read, path, file, name)) for name, shape in shapes.items()
        }


def _state(content: Any) -> dict[str, Stored]:
    """The tensors by name in the content of a PyTorch file."""
    levels = content if isinstance(content, dict) else {}
    for level in (*(levels.get(state) for state in _STATES), levels):
        items = level.items() if isinstance(level, dict) else ()
        if found := {name: tensor for name, tensor in items if isinstance(tensor, Stored)}:
            return found
    return {}


def _read(path: Path, file: Any, name: str) -> Array:
    """Read a tensor of an open safetensors file as float32."""
    array: Array
    if file.get_slice(name).get_dtype() != "BF16":
        array = file.get_tensor(name).astype(np.float32)
        return array
    with open_tensors(path, "pt") as other:  # numpy has no bfloat16
        array = other.get_tensor(name).float().numpy()
        return array


def _parse_yaml(text: str) -> Any:
    """Parse a YAML text that has only what JSON has.

    Raises:
        ValueError: it is not YAML, or has tags, aliases, dates, or too many levels.
    """
    import yaml

    try:
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            # Aliases of aliases may expand to more than any memory holds.
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("YAML aliases are not supported")
            if tag := getattr(event, "tag", None):  # a tag may name any type
                raise ValueError(f"YAML tags are not supported: {quoted(tag)}")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH:
                raise ValueError(f"nested deeper than {DEPTH} levels")
        return parse_json(json.dumps(yaml.safe_load(text)))
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except TypeError as error:  # dates and binary data
        raise ValueError(f"it has a value or a key that JSON does not have: {error}") from error


def locate(text: str) -> Source:
    """Find a published checkpoint.

    Args:
        text: a folder with one weights file and its config; a weights file, with its config in the
            same folder; or a model on the hub, ``owner/name[@revision][:file]``.

    Raises:
        CheckpointError: there is no such checkpoint, or it cannot be downloaded.
    """
    path = Path(text)
    try:
        folder, file = path.is_dir() and text != "", path.is_file()
    except OSError as error:
        raise CheckpointError(f"{text}: cannot read: {error.strerror}") from error
    if folder:
        return _in_folder(path)
    if file:
        usual = path.stem in {Path(name).stem for name in (*_WEIGHTS, _ENCODER)}
        name = _safe(path.absolute().parent.name if usual else path.stem)
        return Source(name, path, _config_beside(path), path.name, _decoder_beside(path))
    match = _HUB.fullmatch(text)
    local = text.startswith((".", "~")) or (
        path.suffix.lower() in {".safetensors", *_PICKLES} and ":" not in text
    )
    if not match or local:
        raise CheckpointError(
            f"{text}: no such file, folder or bundled checkpoint, "
            "and not the owner/name of a model on the hub"
        )
    return _on_hub(text, match["repo"], match["revision"], match["file"])


def _in_folder(folder: Path) -> Source:
    usual = (folder / name for name in (*_WEIGHTS, _ENCODER))
    found = [path for path in usual if path.is_file()]
    if not found:
        suffixes = {".safetensors", *_PICKLES}
        try:
            found = sorted(
                path
                for path in folder.iterdir()
                if path.suffix.lower() in suffixes and path.is_file()
            )
        except OSError as error:
            raise CheckpointError(f"{folder}: cannot read: {error.strerror}") from error
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise CheckpointError(f"{folder}: expected one weights file in it, found {names}")
    name = _safe(folder.absolute().name)
    return Source(name, found[0], _config_beside(found[0]), name, _decoder_beside(found[0]))


def _decoder_beside(weights: Path) -> Path | None:
    path = weights.with_name(_DECODER)
    return path if weights.name == _ENCODER and path.is_file() else None


def _config_beside(weights: Path) -> Path | None:
    names = (*_CONFIGS, weights.stem + ".yaml", "model.yaml")
    return next((path for name in names if (path := weights.with_name(name)).is_file()), None)


def _on_hub(text: str, repo: str, revision: str | None, file: str | None) -> Source:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        raise CheckpointError(
            f"{text}: no such file or folder; for models on the hub install huggingface_hub, "
            "tokcodec's extra hub"
        ) from error

    # Without a network the library warns on every attempt; the error below says what matters.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)

    def fetch(names: Iterable[str], revision: str | None) -> Path:
        """The first of these files that the model has."""
        missing: Exception | None = None
        for name in names:
            try:
                return Path(hf_hub_download(repo, name, revision=revision))
            except EntryNotFoundError as error:
                missing = error
        assert missing
        raise missing

    try:
        weights = fetch([file] if file else _WEIGHTS, revision)
        # Below the cache: models--OWNER--NAME/snapshots/COMMIT/FILE, the file's name with folders.
        commit = weights.parts[-1 - len(Path(file or weights.name).parts)]
        decoder = fetch([_DECODER], commit) if file == _ENCODER else None
        folder = PurePosixPath(file or "").parent
        try:
            config = fetch([str(folder / name) for name in _CONFIGS], commit)
        except LocalEntryNotFoundError:
            raise  # the hub may have one
        except EntryNotFoundError:
            config = None
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{text}: no such file or folder, and not in the hub's cache, while the hub cannot be "
            "reached; go online once, or name a file"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{text}: no such file or folder, and no such model on the hub that you may read"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{text}: the model on the hub has no revision {revision}") from error
    except EntryNotFoundError as error:
        wanted = file or " or ".join(_WEIGHTS)
        raise CheckpointError(f"{text}: the model on the hub has no file {wanted}") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{text}: cannot fetch from the hub: {reason}") from error
    name = Path(file).stem if file else repo.split("/")[1]
    origin = f"{repo}@{commit}" + (f":{file}" if file else "")
    return Source(name, weights, config, origin, decoder)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)
