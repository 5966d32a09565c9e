"""The interface of all quantizers."""

import torch
from torch import Tensor, nn


class Quantizer(nn.Module):
    """Converts z [..., d] to tokens int64 [...], from 0 to K - 1, and back.

    A residual quantizer has several tokens a place: z [B, rows, columns, d], tokens [B, n].
    """

    def tokens(self, z: Tensor) -> Tensor:
        """Quantize z [..., d] to tokens int64 [...].

        Raises:
            ValueError: ``z`` holds NaN or infinity.
        """
        raise NotImplementedError

    def lookup(self, tokens: Tensor) -> Tensor:
        """Look up tokens int64 [...]: their z_q, float32 [..., d]."""
        raise NotImplementedError

    def margins(self, z: Tensor) -> Tensor:
        """float64 [...]: how much better the token of z is than the second-best token."""
        raise NotImplementedError


def require_finite(z: Tensor) -> None:
    """Check that ``z`` can be quantized.

    Raises:
        ValueError: ``z`` holds NaN or infinity, which have no token.
    """
    if not torch.isfinite(z).all():
        raise ValueError("cannot quantize: the vectors hold NaN or infinite values")


def in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a layer without autocast.

    Layers that compute z use it, because lower precision would change tokens.
    """
    if x.is_meta:  # autocast does not support this device
        return layer(x)  # type: ignore[no-any-return]
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.float())  # type: ignore[no-any-return]
