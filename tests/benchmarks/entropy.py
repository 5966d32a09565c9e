"""Bits that entropy coding would save: python tests/benchmarks/entropy.py NAME TRAIN TEST

The codes of the pictures in TRAIN fit three models, and those in TEST, none of them seen, are
priced by each: a table of how often each code occurs; tables of how often the group of a code
(of 64, by k-means of the codebook) occurs beside the groups to its left and above, and each code
in its group; and a small causal transformer over the codes in raster order. Ideal code lengths; a
real coder adds a few bits a picture.
"""

import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokcodec import Codec, TokenFile
from tokcodec.config import VitConfig
from tokcodec.model.layers import Block
from tokcodec.model.quantizer import nearest
from tokcodec.picture import extensions

PART = VitConfig(width=128, layers=2, heads=2, patch_size=1)
EPOCHS, BATCH = 6, 64
GROUPS = 64


class Prior(nn.Module):
    """Codes [B, N] -> logits [B, N, K] of each code given those before it."""

    def __init__(self, codebook: Tensor, count: int) -> None:
        super().__init__()
        self.embed = nn.Embedding.from_pretrained(F.normalize(codebook, dim=1), freeze=False)
        self.enter = nn.Linear(codebook.shape[1], PART.width)
        self.positions = nn.Parameter(torch.randn(count, PART.width) * 0.02)
        self.blocks = nn.ModuleList(Block(PART) for _ in range(PART.layers))
        self.norm = nn.LayerNorm(PART.width)
        self.leave = nn.Linear(PART.width, codebook.shape[1])
        self.bias = nn.Parameter(torch.zeros(len(codebook)))
        self.scale = nn.Parameter(torch.tensor(4.0))

    def forward(self, codes: Tensor) -> Tensor:
        x = self.enter(self.embed(codes[:, :-1]))
        x = F.pad(x, (0, 0, 1, 0)) + self.positions
        for block in self.blocks:
            x = x + attend(block, block.norm_attention(x))
            x = x + block.mlp(block.norm_mlp(x))
        x = self.leave(self.norm(x))
        return self.scale * x @ self.embed.weight.T + self.bias


def attend(block: Block, x: Tensor) -> Tensor:
    part = block.attention
    batch, count, width = x.shape
    q, k, v = part.qkv(x).view(batch, count, 3, part.heads, -1).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return part.out(y.transpose(1, 2).reshape(batch, count, width))


def codes_of(codec: Codec, folder: str) -> Tensor:
    known = extensions()
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in known)
    files = codec.compress_stream(paths, "crop", workers=2)
    found = [torch.from_numpy(file.codes) for file in files if isinstance(file, TokenFile)]
    return torch.stack(found)


def table_bits(train: Tensor, test: Tensor, size: int) -> float:
    counts = torch.bincount(train.flatten(), minlength=size).double() + 0.5
    return float(-(counts / counts.sum()).log2()[test.flatten()].mean())


def grouped_bits(train: Tensor, test: Tensor, codebook: Tensor) -> float:
    """Counts by left and upper group fall back on those by left group, and these on all."""
    centres = codebook[torch.randperm(len(codebook))[:GROUPS]]
    for _ in range(20):
        group = nearest(codebook, centres)
        sums = torch.zeros_like(centres).index_add_(0, group, codebook)
        centres = sums / torch.bincount(group, minlength=GROUPS).clamp(min=1).unsqueeze(1)
    group = nearest(codebook, centres)
    side = math.isqrt(train.shape[1])

    def contexts(codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = group[codes].view(-1, side, side)
        left = F.pad(own, (1, 0), value=GROUPS)[:, :, :-1]
        above = F.pad(own, (0, 0, 1, 0), value=GROUPS)[:, :-1]
        return left.flatten(), above.flatten(), own.flatten()

    left, above, own = contexts(train)
    many = GROUPS + 1
    by_both = torch.bincount((left * many + above) * GROUPS + own, minlength=many**2 * GROUPS)
    by_both = by_both.view(many, many, GROUPS).double()
    by_left = by_both.sum(dim=1)
    by_none = by_left.sum(dim=0) + 0.5
    chance = by_none / by_none.sum()
    chance = (by_left + 8 * chance) / (by_left.sum(dim=-1, keepdim=True) + 8)
    chance = (by_both + 8 * chance[:, None]) / (by_both.sum(dim=-1, keepdim=True) + 8)
    counts = torch.bincount(train.flatten(), minlength=len(codebook)).double() + 0.5
    within = counts / torch.zeros(GROUPS).double().index_add_(0, group, counts)[group]
    left, above, own = contexts(test)
    return float(-(chance[left, above, own] * within[test.flatten()]).log2().mean())


@torch.inference_mode()
def prior_bits(model: Prior, codes: Tensor) -> float:
    total = 0.0
    for part in torch.split(codes, BATCH):
        total += float(F.cross_entropy(model(part).flatten(0, 1), part.flatten(), reduction="sum"))
    return total / codes.numel() / math.log(2)


def main() -> None:
    name, train_folder, test_folder = sys.argv[1:]
    codec = Codec.load(name)
    train, test = codes_of(codec, train_folder), codes_of(codec, test_folder)
    size, bits = codec.config.quantizer.codebook_size, codec.config.quantizer.bits
    print(f"{name}: {len(train)} pictures to fit, {len(test)} priced, {bits} bits a code")
    static = table_bits(train, test, size)
    print(f"static table: {static:.2f} bits a code, {1 - static / bits:.1%} saved")

    torch.manual_seed(0)
    if codec.config.layout == "patch":
        grouped = grouped_bits(train, test, codec.model.quantizer.codebook.cpu())
        print(
            f"tables of groups: {grouped:.2f} bits a code, {1 - grouped / bits:.1%} saved",
            flush=True,
        )
    shuffled = train[torch.randperm(len(train))]
    chosen, tuned = shuffled[:-256], shuffled[-256:]
    model = Prior(codec.model.quantizer.codebook.cpu(), train.shape[1])
    steps = EPOCHS * (len(chosen) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.1)
    best, saved = math.inf, None
    for epoch in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(chosen)), BATCH)[: steps // EPOCHS]:
            batch = chosen[rows]
            loss = F.cross_entropy(model(batch).flatten(0, 1), batch.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        now = prior_bits(model, tuned)
        if now < best:
            best, saved = now, {k: v.clone() for k, v in model.state_dict().items()}
        print(f"epoch {epoch + 1}/{EPOCHS}: {now:.2f} bits a code on 256 others", flush=True)
    assert saved
    model.load_state_dict(saved)
    learned = prior_bits(model, test)
    print(f"causal prior: {learned:.2f} bits a code, {1 - learned / bits:.1%} saved")


if __name__ == "__main__":
    main()
