"""Vector quantization: the exact nearest codebook vector."""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokcodec.config import QuantizerConfig

# Scores held at once, and candidates compared at once; both bound the memory whatever K is.
_SCORES = 1 << 20
_CANDIDATES = 1 << 17
_UNIT_ROUNDOFF = 2.0**-24  # of float32


class Quantizer(nn.Module):
    """The codebook, [K, d], and nothing else.

    Codes are the index of the nearest vector in squared Euclidean distance, or, where
    ``l2_normalize``, in cosine distance; the lowest index among equals.
    """

    codebook: Tensor

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.l2_normalize = config.l2_normalize
        self.register_buffer("codebook", torch.empty(config.codebook_size, config.code_dim))

    def forward(self, z: Tensor) -> Tensor:
        """z [..., d] -> codes int64 [...].

        Raises:
            ValueError: ``z`` holds NaN or infinity.
        """
        z = z.detach().float()
        codebook = self.codebook
        if self.l2_normalize:
            z, codebook = F.normalize(z, dim=-1), F.normalize(codebook, dim=-1)
        return nearest(z.reshape(-1, z.shape[-1]), codebook).view(z.shape[:-1])

    def lookup(self, codes: Tensor) -> Tensor:
        """codes int64 [...] -> z_q float32 [..., d], unit vectors where ``l2_normalize``."""
        z_q = self.codebook[codes]
        return F.normalize(z_q, dim=-1) if self.l2_normalize else z_q


@torch.no_grad()
def nearest(z: Tensor, codebook: Tensor) -> Tensor:
    """Indices, int64 [M], of the rows of ``codebook`` [K, d] nearest to those of ``z`` [M, d].

    The order of squared distances is that of ``|e|²/2 - z·e``, one float32 matrix product. All
    candidates within its rounding error of the best are compared again by their distance in
    float64, so the answer is the exact nearest, and of equals the first. Works in chunks: the
    memory above the inputs stays below 200 MB however large M and K are.

    Raises:
        ValueError: the inputs hold NaN or infinity (or float32 overflows on them).
    """
    lengths = torch.linalg.vector_norm(codebook, dim=1)
    half_squares = lengths * lengths / 2
    longest = lengths.max()
    # Each score errs by at most about (d + few) roundings of the terms' size, whatever the order
    # of summation (Higham, Accuracy and Stability, section 3.1); doubled for the pair compared.
    slack = 4 * (codebook.shape[1] + 8) * _UNIT_ROUNDOFF
    codes = torch.empty(len(z), dtype=torch.int64, device=z.device)
    rows = max(1, _SCORES // len(codebook))
    with _full_float32(z.device):
        for start in range(0, len(z), rows):
            part = z[start : start + rows]
            scores = torch.addmm(half_squares, part, codebook.T, alpha=-1)
            reach = torch.linalg.vector_norm(part, dim=1, keepdim=True) * longest
            limit = scores.amin(dim=1, keepdim=True) + slack * (reach + longest * longest)
            if not torch.isfinite(limit).all():
                raise ValueError("cannot quantize: the vectors hold NaN or infinite values")
            candidates = (scores <= limit).nonzero()
            del scores
            codes[start : start + rows] = _exact(part, codebook, candidates)
    return codes


def _exact(z: Tensor, codebook: Tensor, candidates: Tensor) -> Tensor:
    """The best of the (row, code) pairs [C, 2], in order, of each row; every row has one."""
    if len(candidates) == len(z):
        return candidates[:, 1]
    distances = torch.cat(
        [
            (z[pairs[:, 0]].double() - codebook[pairs[:, 1]].double()).square_().sum(dim=1)
            for pairs in torch.split(candidates, max(1, _CANDIDATES // z.shape[1]))
        ]
    )
    rows, codes = candidates.unbind(1)
    best = distances.new_full((len(z),), torch.inf).scatter_reduce_(0, rows, distances, "amin")
    ties = distances == best[rows]
    first = codes.new_full((len(z),), len(codebook))
    return first.scatter_reduce_(0, rows[ties], codes[ties], "amin")


@contextlib.contextmanager
def _full_float32(device: torch.device) -> Iterator[None]:
    """No autocast, no TF32 or bfloat16 inside float32 products, whatever the caller has set."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
