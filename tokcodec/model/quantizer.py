"""What every quantizer does."""

import torch
from torch import Tensor, nn


class Quantizer(nn.Module):
    """z [..., d] <-> tokens int64 [...], from 0 to K - 1."""

    def tokens(self, z: Tensor) -> Tensor:
        """z [..., d] -> tokens int64 [...].

        Raises:
            ValueError: ``z`` holds NaN or infinity.
        """
        raise NotImplementedError

    def lookup(self, tokens: Tensor) -> Tensor:
        """tokens int64 [...] -> z_q float32 [..., d]."""
        raise NotImplementedError

    def margins(self, z: Tensor) -> Tensor:
        """float64 [...]: how much better the token of z is than the second best."""
        raise NotImplementedError


def require_finite(z: Tensor) -> None:
    """
    Raises:
        ValueError: ``z`` holds NaN or infinity, which have no token.
    """
    if not torch.isfinite(z).all():
        raise ValueError("cannot quantize: the vectors hold NaN or infinite values")


def in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer`` of x without autocast: what gives z, which lower precision would move over the
    borders between tokens."""
    if x.is_meta:  # which autocast does not know
        return layer(x)  # type: ignore[no-any-return]
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.float())  # type: ignore[no-any-return]
