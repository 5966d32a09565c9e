"""Bits that entropy coding would save: python tests/benchmarks/entropy.py NAME TRAIN TEST

The codes of the pictures in TRAIN, of the patch layout, fit two models, and those in TEST, none of
them seen, are priced by both: a table of how often each code occurs; and a small causal prior:
tables of how often the group of a code (of 64, by k-means of the codebook) occurs beside the
groups to its left and above, and each code in its group. Ideal code lengths; a real coder adds a
few bits a picture.
"""

import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tokcodec import Codec, TokenFile
from tokcodec.model.quantizer import nearest
from tokcodec.picture import extensions

GROUPS = 64
TRUST = 8  # occurrences for which a finer table counts as much as the coarser one behind it


def codes_of(codec: Codec, folder: str) -> Tensor:
    """int64 [n, N]; pictures that cannot be read are left out."""
    known = extensions()
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in known)
    files = codec.compress_stream(paths, "crop", workers=2)
    found = [torch.from_numpy(file.codes) for file in files if isinstance(file, TokenFile)]
    return torch.stack(found)


def occurrences(codes: Tensor, size: int) -> Tensor:
    return torch.bincount(codes.flatten(), minlength=size).double() + 0.5


def table_bits(train: Tensor, test: Tensor, size: int) -> float:
    counts = occurrences(train, size)
    return float(-(counts / counts.sum()).log2()[test.flatten()].mean())


def grouped(codebook: Tensor) -> Tensor:
    """The group of every code, int64 [K]."""
    centres = codebook[torch.randperm(len(codebook))[:GROUPS]]
    for _ in range(20):
        group = nearest(codebook, centres)
        sums = torch.zeros_like(centres).index_add_(0, group, codebook)
        centres = sums / torch.bincount(group, minlength=GROUPS).clamp(min=1).unsqueeze(1)
    return nearest(codebook, centres)


def grouped_bits(train: Tensor, test: Tensor, group: Tensor) -> float:
    """Tables by left and upper group fall back on those by left group, and these on one for all."""
    side = math.isqrt(train.shape[1])
    many = GROUPS + 1  # one more stands for beyond the border

    def contexts(codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = group[codes].view(-1, side, side)
        left = F.pad(own, (1, 0), value=GROUPS)[:, :, :-1]
        above = F.pad(own, (0, 0, 1, 0), value=GROUPS)[:, :-1]
        return left.flatten(), above.flatten(), own.flatten()

    left, above, own = contexts(train)
    by_both = torch.bincount((left * many + above) * GROUPS + own, minlength=many**2 * GROUPS)
    by_both = by_both.view(many, many, GROUPS).double()
    by_left = by_both.sum(dim=1)
    by_none = by_left.sum(dim=0) + 0.5
    chance = by_none / by_none.sum()
    chance = (by_left + TRUST * chance) / (by_left.sum(dim=-1, keepdim=True) + TRUST)
    chance = (by_both + TRUST * chance[:, None]) / (by_both.sum(dim=-1, keepdim=True) + TRUST)
    counts = occurrences(train, len(group))
    within = counts / torch.zeros(GROUPS).double().index_add_(0, group, counts)[group]
    left, above, own = contexts(test)
    return float(-(chance[left, above, own] * within[test.flatten()]).log2().mean())


def main() -> None:
    name, train_folder, test_folder = sys.argv[1:]
    torch.manual_seed(0)
    codec = Codec.load(name, device="cpu")
    train, test = codes_of(codec, train_folder), codes_of(codec, test_folder)
    size, bits = codec.config.quantizer.codebook_size, codec.config.quantizer.bits
    print(f"{name}: {len(train)} pictures to fit, {len(test)} priced, {bits} bits a code")
    for what, cost in (
        ("static table", table_bits(train, test, size)),
        ("tables of groups", grouped_bits(train, test, grouped(codec.model.quantizer.codebook))),
    ):
        print(f"{what}: {cost:.2f} bits a code, {1 - cost / bits:.1%} saved")


if __name__ == "__main__":
    main()
