"""Where a published checkpoint lies, and its bytes: a folder, a file, or a model on the hub."""

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
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
# Under which of these names a training program keeps the weights that count, the better one first;
# Infinity's has averages under ``ema`` too, which its authors do not use.
_STATES = ("vae", "ema", "model", "state_dict")
_CONFIG = 1 << 17  # bytes of the largest config that is read
_PICKLES = {".bin", ".pth", ".pt", ".ckpt", ".jit"}
# What a folder's weights are called, the better one first.
_WEIGHTS = (
    "model.safetensors",
    "pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "autoencoder.jit",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
)
# Of those that are published as two files.
_ENCODER, _DECODER = "encoder_pytorch_model.bin", "decoder_pytorch_model.bin"
_HUB = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?::(?P<file>[\w./-]+))?", re.ASCII
)


@dataclass(frozen=True)
class Source:
    """The files of a published checkpoint.

    Attributes:
        name: what to call it: of its folder, file or model.
        weights: the file with the tensors.
        config: the file with the config, JSON or YAML, where there is one.
        origin: for its provenance: the hub id with its revision, or the file's name.
        decoder: the file with the decoder's tensors, where ``weights`` has only the encoder's.
    """

    name: str
    weights: Path
    config: Path | None
    origin: str
    decoder: Path | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of all files."""
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
        """The config as parsed, if there is one.

        Raises:
            CheckpointError: not a JSON or YAML object, or YAML and PyYAML is not installed.
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
        """The tensors by name, each read as float32 when it is asked for. Those of two files are
        named ``encoder.`` and ``decoder.`` and as they are there.

        Raises:
            CheckpointError: it cannot be read, or holds no dict of tensors.
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
    """The tensors by name in what a training program saved."""
    levels = content if isinstance(content, dict) else {}
    for level in (*(levels.get(state) for state in _STATES), levels):
        items = level.items() if isinstance(level, dict) else ()
        if found := {name: tensor for name, tensor in items if isinstance(tensor, Stored)}:
            return found
    return {}


def _read(path: Path, file: Any, name: str) -> Array:
    """A tensor of an open safetensors file."""
    array: Array
    if file.get_slice(name).get_dtype() != "BF16":
        array = file.get_tensor(name).astype(np.float32)
        return array
    with open_tensors(path, "pt") as other:  # numpy has no bfloat16
        array = other.get_tensor(name).float().numpy()
        return array


def _parse_yaml(text: str) -> Any:
    """The value of a YAML text that says what JSON can say.

    Raises:
        ValueError: it is none, or has tags, aliases, dates, or more levels than are read.
    """
    import yaml

    try:
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            # A part that is named and taken many times may be larger than any memory.
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it has aliases, which are not read")
            if tag := getattr(event, "tag", None):  # it may name any type, and fit no value
                raise ValueError(f"it has tags, which are not read: {quoted(tag)}")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH:
                raise ValueError(f"nested deeper than {DEPTH} levels")
        return parse_json(json.dumps(yaml.safe_load(text)))
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except TypeError as error:  # of dates and binary data
        raise ValueError(f"it has a value or a key that JSON has not: {error}") from error


def locate(text: str) -> Source:
    """Finds a checkpoint: a folder with one weights file and its config, a weights file (its
    config beside it), or on the hub ``owner/name[@revision][:file]``.

    Raises:
        CheckpointError: there is none, or the hub cannot give it.
    """
    path = Path(text)
    try:
        folder, file = path.is_dir() and text != "", path.is_file()
    except OSError as error:
        raise CheckpointError(f"{text}: cannot look at it: {error.strerror}") from error
    if folder:
        return _in_folder(path)
    if file:
        called_so = path.name in (*_WEIGHTS, _ENCODER)
        name = _safe(path.absolute().parent.name if called_so else path.stem)
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

    # Without a network the library warns of every try; what matters is said below.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)

    def fetch(name: str, revision: str | None) -> Path:
        return Path(hf_hub_download(repo, name, revision=revision))

    try:
        if file:
            weights = fetch(file, revision)
        else:
            *better, last = _WEIGHTS
            for name in better:
                try:
                    weights = fetch(name, revision)
                    break
                except EntryNotFoundError:
                    continue
            else:
                weights = fetch(last, revision)
        # Below the cache: models--OWNER--NAME/snapshots/COMMIT/FILE, the file's name with folders.
        commit = weights.parts[-1 - len(Path(file or weights.name).parts)]
        decoder = fetch(_DECODER, commit) if file == _ENCODER else None
        config: Path | None = None
        for name in _CONFIGS:  # beside the weights, and of the same commit
            try:
                config = fetch(str(PurePosixPath(file or "").parent / name), commit)
                break
            except LocalEntryNotFoundError:
                raise  # it may have one; whether is not known here
            except EntryNotFoundError:
                continue
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
