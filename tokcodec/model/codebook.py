"""Vector quantization: the exact best codebook vector."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tokcodec.config.parts import ModelShape
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.model.quantizer import Quantizer

# These bound the memory for any K.
_SCORES = 1 << 20  # computed at once on a CPU; they fit in its caches
_ELSEWHERE = 16  # times as many on other devices, which wait for the host after each chunk
_ROWS = 8  # the least number of rows in a chunk
_CANDIDATES = 1 << 17  # numbers of candidates that are compared at once in float64
_BLOCK = 128  # scores that are reduced to their maximum first
_UNIT_ROUNDOFF = 2.0**-24  # of float32
_SPLIT_ROUNDOFF = 3 * 2.0**-16  # relative error of a product of vectors from ``_split``


class Codebook(Quantizer):
    """Vector quantization with a codebook [K, d].

    A token is the index of the vector with the smallest squared Euclidean distance, the smallest
    cosine distance, or the largest dot product; of equal ones, the lowest index. z_q is that
    vector, with length 1 for the cosine metric.
    """

    codebook: Tensor

    def __init__(self, config: CodebookConfig, model_shape: ModelShape) -> None:
        super().__init__()
        self.metric = config.metric
        self.register_buffer("codebook", torch.empty(config.codebook_size, config.embedding_dim))

    def tokens(self, z: Tensor) -> Tensor:
        rows, codebook = self.compared(z)
        return _best(rows, codebook, self.metric == "dot").view(z.shape[:-1])

    def lookup(self, tokens: Tensor) -> Tensor:
        z_q = self.codebook[tokens]
        return F.normalize(z_q, dim=-1) if self.metric == "cosine" else z_q

    def margins(self, z: Tensor) -> Tensor:
        """float64 [...]: the difference between the best vector and the second best, in squared
        distance or dot product."""
        rows, codebook = self.compared(z)
        codebook = codebook.double()
        gaps = []
        for part in rows.double().split(_at_once(codebook)):  # type: ignore[no-untyped-call]
            if self.metric == "dot":
                best = (part @ codebook.T).topk(2).values
                gaps.append(best[:, 0] - best[:, 1])
            else:
                near = torch.cdist(part, codebook).square().topk(2, largest=False).values
                gaps.append(near[:, 1] - near[:, 0])
        return torch.cat(gaps).view(z.shape[:-1])

    def compared(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [M, d] of z and the codebook [K, d], both normalized for the cosine metric."""
        rows, codebook = z.detach().float().reshape(-1, z.shape[-1]), self.codebook
        if self.metric == "cosine":
            return F.normalize(rows, dim=-1), F.normalize(codebook, dim=-1)
        return rows, codebook


def nearest(z: Tensor, codebook: Tensor) -> Tensor:
    """For each row of ``z`` [M, d], find the nearest row of ``codebook`` [K, d].

    Returns:
        int64 [M]: indices into the codebook, the lowest one among equals.

    Raises:
        ValueError: the inputs hold NaN or infinity, or overflow float32.
    """
    return _best(z, codebook, dot=False)


def as_products(z: Tensor, codebook: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Extend rows and vectors by one channel, so that their products are ``z·e - |e|²/2``.

    The product is larger the nearer they are. ``lengths`` are those of the vectors.
    """
    constant = -(lengths * lengths / 2).unsqueeze(1)
    return F.pad(z, (0, 1), value=1.0), torch.cat([codebook, constant], dim=1)


@torch.no_grad()
def _best(z: Tensor, codebook: Tensor, dot: bool) -> Tensor:
    """As ``nearest``, or with ``dot`` the vector of the largest dot product.

    Squared distances have the order of ``|e|²/2 - z·e``, one float32 matrix product. Candidates
    within its rounding error of the best are compared again in float64, so the result is exact,
    and the first of equal vectors. Rows are processed in chunks: besides a copy of the codebook
    (three copies if products are split), this takes less than 200 MB on a CPU and 16 times as much
    on other devices, for any M and for K up to 2^18.
    """
    lengths = torch.linalg.vector_norm(codebook, dim=1)
    longest = lengths.max()
    vectors = codebook
    if not dot:
        z, vectors = as_products(z, codebook, lengths)
    split = _rounds_factors(z.device)
    if split:
        vectors = _split(vectors, "hhl")
    # The error of a score is at most about (channels + a few) roundings of the size of its terms,
    # in any order of summation (Higham, Accuracy and Stability, section 3.1), plus that of a split.
    # It is doubled, because two scores are compared.
    slack = 4 * (vectors.shape[1] + 8) * _UNIT_ROUNDOFF + 2 * _SPLIT_ROUNDOFF * split
    tokens = torch.empty(len(z), dtype=torch.int64, device=z.device)
    rows = _at_once(codebook)
    with torch.autocast(z.device.type, enabled=False):
        for start in range(0, len(z), rows):
            part = z[start : start + rows]
            own = part[:, : codebook.shape[1]]
            reach = torch.linalg.vector_norm(own, dim=1, keepdim=True) * longest
            factors = _split(part, "hlh") if split else part
            # No variable keeps the scores, so that the next ones reuse their memory in the caches.
            candidates = _largest(factors @ vectors.T, slack * (reach + longest * longest))
            tokens[start : start + rows] = _exact(own, codebook, candidates, dot)
    return tokens


def _rounds_factors(device: torch.device) -> bool:
    """Whether torch is set to round the factors of float32 products to TF32 or bfloat16.

    The setting belongs to the whole process, and an inherited value looks like one that was set.
    So it is only read, never changed.
    """
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    return backend.matmul.fp32_precision not in ("ieee", "none")


def _split(x: Tensor, order: str) -> Tensor:
    """Split numbers into two bfloat16 parts each: [n, d] -> [n, d · len(order)].

    ``h`` in ``order`` is the high part, ``l`` the low part. No setting of torch rounds them
    further: the product of x in one order and y in another is h·h + h·l + l·h. What that leaves
    out, l·l and the two remainders, is at most 2^-16 of |x||y| each.
    """
    high = x.bfloat16().float()
    parts = {"h": high, "l": (x - high).bfloat16().float()}
    return torch.cat([parts[part] for part in order], dim=1)


def _largest(scores: Tensor, slack: Tensor) -> Tensor:
    """Find the scores [M, K] that are at most ``slack`` [M, 1] below the largest of their row.

    Only the first pass reads all scores, because few blocks have a large enough one.

    Returns:
        int64 [C, 2]: their (row, column) pairs, in order.
    """
    size = math.gcd(scores.shape[1], _BLOCK)
    blocks = scores.view(len(scores), -1, size)
    best = blocks.amax(dim=2)
    limit = best.amax(dim=1, keepdim=True) - slack
    if not torch.isfinite(limit).all():
        raise ValueError("cannot quantize: the vectors hold NaN or infinite values")
    rows, places = (best >= limit).nonzero().unbind(1)
    near, columns = (blocks[rows, places] >= limit[rows]).nonzero().unbind(1)
    return torch.stack([rows[near], places[near] * size + columns], dim=1)


def _at_once(codebook: Tensor) -> int:
    """The number of rows that are compared with the whole codebook at once."""
    scores = _SCORES if codebook.device.type == "cpu" else _ELSEWHERE * _SCORES
    return max(_ROWS, scores // len(codebook))


def _exact(z: Tensor, codebook: Tensor, candidates: Tensor, dot: bool) -> Tensor:
    """The best token of each row, int64 [M], among ordered (row, token) pairs [C, 2].

    Every row has at least one pair.
    """
    if len(candidates) == len(z):
        return candidates[:, 1]
    costs = []
    for pairs in torch.split(candidates, max(1, _CANDIDATES // z.shape[1])):
        a, b = z[pairs[:, 0]].double(), codebook[pairs[:, 1]].double()
        costs.append(-(a * b).sum(dim=1) if dot else (a - b).square_().sum(dim=1))
    cost = torch.cat(costs)
    rows, tokens = candidates.unbind(1)
    best = cost.new_full((len(z),), torch.inf).scatter_reduce_(0, rows, cost, "amin")
    ties = cost == best[rows]
    first = tokens.new_full((len(z),), len(codebook))
    return first.scatter_reduce_(0, rows[ties], tokens[ties], "amin")
