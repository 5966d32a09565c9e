"""Vector quantization: the exact best codebook vector."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tokcodec.config.parts import ModelShape
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.model.quantizer import Quantizer

# Scores held at once, so few that they stay in a processor's caches, and so many times as many on
# other devices, which wait for the host at each chunk; of no fewer rows than so many; and
# candidates compared at once: these bound the memory whatever K is.
_SCORES = 1 << 20
_ELSEWHERE = 16
_ROWS = 8
_CANDIDATES = 1 << 17
_BLOCK = 128  # scores that are looked at together
_UNIT_ROUNDOFF = 2.0**-24  # of float32
_SPLIT_ROUNDOFF = 3 * 2.0**-16  # what ``_split`` leaves out of a product, over its size


class Codebook(Quantizer):
    """The codebook, [K, d], and nothing else.

    Tokens are the index of the nearest vector in squared Euclidean distance, in cosine distance,
    or of the largest dot product; the lowest index among equals. z_q are the vectors as they are,
    for the cosine metric of length 1.
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
        """float64 [...]: how much better the best vector is than the second best, in squared
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
        """Rows [M, d] of z, and the codebook, as they are compared."""
        rows, codebook = z.detach().float().reshape(-1, z.shape[-1]), self.codebook
        if self.metric == "cosine":
            return F.normalize(rows, dim=-1), F.normalize(codebook, dim=-1)
        return rows, codebook


def nearest(z: Tensor, codebook: Tensor) -> Tensor:
    """Indices, int64 [M], of the rows of ``codebook`` [K, d] nearest to those of ``z`` [M, d], the
    lowest among equals.

    Raises:
        ValueError: the inputs hold NaN or infinity (or float32 overflows on them).
    """
    return _best(z, codebook, dot=False)


def as_products(z: Tensor, codebook: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and vectors, of these lengths, whose products are ``z·e - |e|²/2``, which is larger the
    nearer they are. The constant is one more channel, so it needs no second pass."""
    constant = -(lengths * lengths / 2).unsqueeze(1)
    return F.pad(z, (0, 1), value=1.0), torch.cat([codebook, constant], dim=1)


@torch.no_grad()
def _best(z: Tensor, codebook: Tensor, dot: bool) -> Tensor:
    """As ``nearest``, or the largest dot products.

    The order of squared distances is that of ``|e|²/2 - z·e``, one float32 matrix product. All
    candidates within its rounding error of the best are compared again in float64, so the answer
    is exact, and of equals the first. Works in chunks: beside a copy of the codebook (three, where
    products are split), the memory stays below 200 MB, on other devices than processors 16 times as
    much, however large M is, for K up to 2^18.
    """
    lengths = torch.linalg.vector_norm(codebook, dim=1)
    longest = lengths.max()
    vectors = codebook
    if not dot:
        z, vectors = as_products(z, codebook, lengths)
    split = _rounds_factors(z.device)
    if split:
        vectors = _split(vectors, "hhl")
    # Each score errs by at most about (channels + few) roundings of the terms' size, whatever the
    # order of summation (Higham, Accuracy and Stability, section 3.1), and by what a split leaves
    # out; doubled for the pair compared.
    slack = 4 * (vectors.shape[1] + 8) * _UNIT_ROUNDOFF + 2 * _SPLIT_ROUNDOFF * split
    tokens = torch.empty(len(z), dtype=torch.int64, device=z.device)
    rows = _at_once(codebook)
    with torch.autocast(z.device.type, enabled=False):
        for start in range(0, len(z), rows):
            part = z[start : start + rows]
            own = part[:, : codebook.shape[1]]
            reach = torch.linalg.vector_norm(own, dim=1, keepdim=True) * longest
            factors = _split(part, "hlh") if split else part
            # The scores bear no name, so that the next ones take their place in the caches.
            candidates = _largest(factors @ vectors.T, slack * (reach + longest * longest))
            tokens[start : start + rows] = _exact(own, codebook, candidates, dot)
    return tokens


def _rounds_factors(device: torch.device) -> bool:
    """Whether the process lets torch round the factors of float32 products, to TF32 or bfloat16.

    The setting is the whole process's, and what an operation inherits cannot be told from what was
    set for it; so it is read and left alone.
    """
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    return backend.matmul.fp32_precision not in ("ieee", "none")


def _split(x: Tensor, order: str) -> Tensor:
    """[n, d] -> [n, d · len(order)]: of each number what bfloat16 holds of it (``h``) and of the
    rest (``l``), side by side.

    No setting rounds these any further: a product of x in one order and y in another is the sum of
    three exact ones, less l·l and both second rests, at most 2^-16 of |x||y| each.
    """
    high = x.bfloat16().float()
    parts = {"h": high, "l": (x - high).bfloat16().float()}
    return torch.cat([parts[part] for part in order], dim=1)


def _largest(scores: Tensor, slack: Tensor) -> Tensor:
    """The (row, column) pairs [C, 2], in order, of scores [M, K] that are no more than ``slack``
    [M, 1] below the largest of their row.

    Only the first pass sees all scores: few blocks have one that is large enough.
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
    """Rows that are compared with the whole codebook at once."""
    scores = _SCORES if codebook.device.type == "cpu" else _ELSEWHERE * _SCORES
    return max(_ROWS, scores // len(codebook))


def _exact(z: Tensor, codebook: Tensor, candidates: Tensor, dot: bool) -> Tensor:
    """The best of the (row, token) pairs [C, 2], in order, of each row; every row has one."""
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
