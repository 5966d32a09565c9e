"""What every quantizer does."""

import torch
from torch import Tensor, nn


class Quantizer(nn.Module):
    """z [..., d] <-> codes int64 [...], from 0 to K - 1."""

    def codes(self, z: Tensor) -> Tensor:
        """z [..., d] -> codes int64 [...].

        Raises:
            ValueError: ``z`` holds NaN or infinity.
        """
        raise NotImplementedError

    def lookup(self, codes: Tensor) -> Tensor:
        """codes int64 [...] -> z_q float32 [..., d]."""
        raise NotImplementedError

    def margins(self, z: Tensor) -> Tensor:
        """float64 [...]: how much better the code of z is than the second best."""
        raise NotImplementedError


def require_finite(z: Tensor) -> None:
    """
    Raises:
        ValueError: ``z`` holds NaN or infinity, which have no code.
    """
    if not torch.isfinite(z).all():
        raise ValueError("cannot quantize: the vectors hold NaN or infinite values")


def in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer`` of x without autocast: what gives z, which lower precision would move over the
    borders between codes."""
    if x.is_meta:  # which autocast does not know
        return layer(x)  # type: ignore[no-any-return]
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.float())  # type: ignore[no-any-return]
