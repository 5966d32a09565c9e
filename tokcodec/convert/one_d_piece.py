"""One-D-Piece (arXiv 2501.10064): TiTok's first layout, trained so that any prefix decodes."""

from collections.abc import Mapping
from typing import Any

from tokcodec.config import ModelConfig
from tokcodec.convert import titok
from tokcodec.convert.published import Array, Arrays


def convert(config: Mapping[str, Any], tensors: Mapping[str, Array]) -> tuple[ModelConfig, Arrays]:
    """One-D-Piece's config and tensors as ours.

    Raises:
        CheckpointError: as ``titok.convert``.
    """
    return titok.convert(config, tensors, prefix_codes=True)
