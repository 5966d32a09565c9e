"""Where a published checkpoint lies, and its bytes: a folder, a file, or a model on the hub."""

import hashlib
import json
import logging
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tokcodec import checkpoint
from tokcodec.convert.published import Arrays
from tokcodec.errors import CheckpointError

_CONFIG = "config.json"
_PICKLES = {".bin", ".pth", ".pt", ".ckpt"}
# What a folder's weights are called, the better one first.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_HUB = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?::(?P<file>[\w./-]+))?", re.ASCII
)


@dataclass(frozen=True)
class Source:
    """The files of a published checkpoint.

    Attributes:
        name: what to call it: of its folder, file or model.
        weights: the file with the tensors.
        config: ``config.json``, where there is one.
        origin: for its provenance: the hub id with its revision, or the file's name.
    """

    name: str
    weights: Path
    config: Path | None
    origin: str

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of both files."""
        total = hashlib.sha256()
        for path in (self.weights, self.config):
            if path:
                try:
                    with path.open("rb") as file:
                        total.update(hashlib.file_digest(file, "sha256").digest())
                except OSError as error:
                    raise CheckpointError(f"{path}: cannot read: {error.strerror}") from error
        return total.hexdigest()

    def read_config(self) -> dict[str, Any] | None:
        """The config as parsed, if there is one.

        Raises:
            CheckpointError: it is no JSON object.
        """
        if not self.config:
            return None
        try:
            fields = json.loads(self.config.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.config}: cannot read as JSON: {error}") from error
        if not isinstance(fields, dict):
            raise CheckpointError(f"{self.config}: expected an object")
        return fields

    def read_tensors(self) -> Arrays:
        """All tensors, as float32.

        A pickle is read with ``weights_only``: nothing in it runs, and one that holds more than
        tensors is refused.

        Raises:
            CheckpointError: it cannot be read, or is no plain dict of tensors.
        """
        import torch

        path = self.weights
        try:
            path.open("rb").close()
        except OSError as error:
            raise CheckpointError(f"{path}: cannot read: {error.strerror}") from error
        tensors: Any
        if path.suffix.lower() in _PICKLES:
            try:
                with warnings.catch_warnings(action="ignore"):
                    tensors = torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:
                # Torch's reader meets damaged files with nearly any exception.
                raise CheckpointError(
                    f"{path}: refused: not a PyTorch file of tensors alone, or a damaged one "
                    "(nothing else in it is ever run)"
                ) from error
        else:
            try:
                with safe_open(path, framework="pt") as file:
                    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            except (OSError, SafetensorError) as error:
                raise CheckpointError(
                    f"{path}: cannot read as a checkpoint: {error}; fetch it again"
                ) from error
        if not isinstance(tensors, Mapping) or not all(
            isinstance(name, str) and isinstance(tensor, torch.Tensor)
            for name, tensor in tensors.items()
        ):
            raise CheckpointError(f"{path}: expected a dict of tensors by name, and nothing else")
        for name, tensor in tensors.items():
            if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_meta:
                raise CheckpointError(f"{path}: tensor {name} is no plain array of real numbers")
        return {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}


def locate(text: str) -> Source:
    """Finds a checkpoint: a folder with ``config.json`` and ``model.safetensors``, a weights file
    (its ``config.json`` beside it), or on the hub ``owner/name[@revision][:file]``.

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
        config = path.with_name(_CONFIG)
        called_so = path.name in _WEIGHTS
        name = _safe(path.absolute().parent.name if called_so else path.stem)
        return Source(name, path, config if config.is_file() else None, path.name)
    match = _HUB.fullmatch(text)
    local = text.startswith((".", "~")) or (
        path.suffix.lower() in {".safetensors", *_PICKLES} and ":" not in text
    )
    if not match or local:
        names = ", ".join(header.name for header in checkpoint.bundled())
        raise CheckpointError(
            f"{text}: no such file, folder or bundled checkpoint (bundled: {names}), "
            "and not the owner/name of a model on the hub"
        )
    return _on_hub(text, match["repo"], match["revision"], match["file"])


def _in_folder(folder: Path) -> Source:
    found = [folder / name for name in _WEIGHTS if (folder / name).is_file()]
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
    config = folder / _CONFIG
    name = _safe(folder.absolute().name)
    return Source(name, found[0], config if config.is_file() else None, name)


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
            better, other = _WEIGHTS
            try:
                weights = fetch(better, revision)
            except EntryNotFoundError:
                weights = fetch(other, revision)
        # Below the cache: models--OWNER--NAME/snapshots/COMMIT/FILE, the file's name with folders.
        commit = weights.parts[-1 - len(Path(file or weights.name).parts)]
        try:
            config: Path | None = fetch(_CONFIG, commit)  # of the same commit as the weights
        except LocalEntryNotFoundError:
            raise  # it may have one; whether is not known here
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
    return Source(name, weights, config, f"{repo}@{commit}" + (f":{file}" if file else ""))


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)
