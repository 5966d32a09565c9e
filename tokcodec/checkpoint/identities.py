"""The identities of checkpoints: digests of the config and the tensors."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokcodec.coding.prior import PREFIX
from tokcodec.config import ModelConfig

Tensors = Mapping[str, NDArray[Any]]


def model_id(config: ModelConfig, tensors: Tensors) -> str:
    """SHA-256, in hex, of everything that decides what tokens mean.

    That is the config and the tensors of the encoder and the quantizer, and the preprocessing.
    Another decoder for the same tokens has the same id.
    """
    names = [name for name in tensors if name.startswith(("encoder.", "quantizer."))]
    return _digest("tokcodec model", config.encode_side_json(), names, tensors)


def checkpoint_id(config: ModelConfig, tensors: Tensors) -> str:
    """SHA-256, in hex, of the whole config and every tensor."""
    return _digest("tokcodec checkpoint", config.to_json(), tensors, tensors)


def prior_id(tensors: Tensors) -> str | None:
    """SHA-256, in hex, of the tensors of the prior; None if there is no prior."""
    names = [name for name in tensors if name.startswith(PREFIX)]
    return _digest("tokcodec prior", "", names, tensors) if names else None


def _digest(kind: str, config: str, names: Iterable[str], tensors: Tensors) -> str:
    # The length precedes each part, so that different inputs give different bytes.
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
