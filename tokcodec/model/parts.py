"""From the config of a part to its network."""

from importlib import import_module
from typing import Any

from tokcodec.config.parts import ModelShape, Part


def build(part: Part, model_shape: ModelShape) -> Any:
    """Build the network of an encoder, a quantizer or a decoder."""
    module, name = part.network.split(":")
    return getattr(import_module(module), name)(part, model_shape)
