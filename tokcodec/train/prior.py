"""From the codes of many pictures to the prior of their checkpoint."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokcodec import checkpoint
from tokcodec.checkpoint import Header
from tokcodec.errors import CheckpointError, TrainingError
from tokcodec.model.codebook import nearest
from tokcodec.model.loading import load
from tokcodec.prior import GROUPS, TOTAL, Prior, neighbours
from tokcodec.tokenfile import TokenFile
from tokcodec.train.start import k_means

_TRUST = 16  # occurrences for which a finer table counts as much as the coarser one behind it
_UNSEEN = 0.5  # occurrences that every code and every group begins with


def add_prior(
    source: Header,
    parts: Iterable[NDArray[Any]],
    held_out: Iterable[NDArray[Any]],
    path: Path,
    provenance: Mapping[str, Any],
) -> Header:
    """Writes the checkpoint ``source`` to ``path`` with a prior fit to codes [n, rows, columns] of
    its own.

    Its provenance tells what the prior makes of the payload of those held out.

    Raises:
        CheckpointError: the source is damaged.
        TrainingError: its codes have no left and above, may be cut short, or are too many alike;
            there are none to fit.
        OutputError: the file system refused.
    """
    config = source.config
    if not config.has_grid or config.prefix_codes:
        raise TrainingError(
            f"{source.name}: only codes in rows and columns, all of which are kept, have a prior"
        )
    vectors = load(source, torch.device("cpu")).quantizer.lookup(
        torch.arange(config.quantizer.codebook_size)
    )
    if not vectors.square().sum(dim=1).isfinite().all():
        raise CheckpointError(f"{source.path}: its codebook holds NaN or infinite values")
    prior, pictures = fit(parts, vectors)
    facts = {**provenance, "pictures": pictures}
    code, size = bytes.fromhex(source.code_id[:8]), config.preprocessing.image_size
    sizes = [
        TokenFile(
            codes.reshape(-1), config.quantizer.bits, code, size, size, "crop", prior, codes.shape
        ).payload_bytes
        for part in held_out
        for codes in part
    ]
    if sizes:
        facts["held_out_pictures"] = len(sizes)
        facts["held_out_payload_bytes"] = round(sum(sizes) / len(sizes), 2)
    header, tensors = checkpoint.read(source.path)
    return checkpoint.write(
        path,
        config,
        {**tensors, **prior.tensors()},
        {**header.provenance, "prior": facts},
        header.reads,
    )


def fit(parts: Iterable[NDArray[Any]], vectors: Tensor) -> tuple[Prior, int]:
    """A prior from codes [n, rows, columns] that stand for vectors [K, d], read part by part, and
    how many n were.

    Codes are grouped by k-means of their vectors. Tables by left and upper group fall back on
    those by left group where they have seen little, and these on one for all.

    Raises:
        TrainingError: there are no codes, or a group has more than the tables are precise for.
    """
    centres = k_means(vectors, GROUPS, torch.Generator().manual_seed(0))
    group = nearest(vectors, centres).numpy().astype(np.uint8)
    many = GROUPS + 1
    pairs = np.zeros(many * many * GROUPS, np.int64)
    counts = np.full(len(group), _UNSEEN)
    pictures = 0
    for codes in parts:
        pictures += len(codes)
        counts += np.bincount(codes.ravel(), minlength=len(group))
        own = group[codes]
        left, above = neighbours(own)
        context = left.astype(np.int64) * many + above
        pairs += np.bincount((context * GROUPS + own).ravel(), minlength=len(pairs))
    if not pictures:
        raise TrainingError("there are no codes to make a prior of")
    by_both = pairs.reshape(many, many, GROUPS)
    by_left = by_both.sum(axis=1)
    by_none = by_left.sum(axis=0) + _UNSEEN
    chance = _backed(by_both, _backed(by_left, by_none / by_none.sum())[:, None])
    code_weights = np.empty(len(group), np.uint16)
    for number in np.unique(group):
        members = group == number
        if members.sum() > TOTAL // 2:
            raise TrainingError(f"{members.sum()} alike vectors in the codebook: no prior for it")
        code_weights[members] = _integers(counts[members] / counts[members].sum())
    return Prior(group, _integers(chance), code_weights), pictures


def _backed(counts: NDArray[np.int64], chance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Chances by counts [..., GROUPS], which where they are few are those of ``chance``."""
    trusted: NDArray[np.int64] = counts.sum(axis=-1, keepdims=True)
    return (counts + _TRUST * chance) / (trusted + _TRUST)


def _integers(chance: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Chances [..., n] to weights: 1 or more each, ``TOTAL`` together."""
    weights: NDArray[np.int64] = np.floor(chance * (TOTAL - chance.shape[-1])).astype(np.int64) + 1
    likeliest = weights.argmax(axis=-1, keepdims=True)
    rest = TOTAL - weights.sum(axis=-1, keepdims=True)
    np.put_along_axis(weights, likeliest, weights.max(axis=-1, keepdims=True) + rest, axis=-1)
    return weights.astype(np.uint16)
