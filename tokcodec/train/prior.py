"""From the tokens of many images to the prior of their checkpoint."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tokcodec import checkpoint
from tokcodec.checkpoint import Header
from tokcodec.coding.prior import (
    GROUPS,
    HIDDEN,
    HIDDEN_MOST,
    NEIGHBOURS,
    PLACES,
    TOTAL,
    WIDTH,
    NeuralPrior,
    neighbours,
)
from tokcodec.errors import CheckpointError, TrainingError
from tokcodec.model.codebook import nearest
from tokcodec.model.loading import load
from tokcodec.tokenfile import TokenFile
from tokcodec.train.start import k_means

_EPOCHS = 6
_BATCHES = 200  # an epoch at least, of
_BATCH = (512, 8192)  # tokens, from and to
_RATE = 1e-2
_DECAY = 8e5  # weight decay, for one token that is seen, of what is not a function of the codebook
_UNSEEN = 0.5  # occurrences that every token begins with


def add_prior(
    source: Header,
    parts: Iterable[NDArray[Any]],
    held_out: Iterable[NDArray[Any]],
    path: Path,
    provenance: Mapping[str, Any],
) -> Header:
    """Writes the checkpoint ``source`` to ``path`` with a prior fit to tokens [n, rows, columns] of
    its own.

    Its provenance tells what the prior makes of the payload of those held out.

    Raises:
        CheckpointError: the source is damaged.
        TrainingError: its tokens have no left and above, may be cut short, or are too many alike;
            there are none to fit.
        OutputError: the file system refused.
    """
    config = source.config
    if not config.has_grid or config.prefix_tokens:
        raise TrainingError(
            f"{source.name}: only tokens in rows and columns, all of which are kept, have a prior"
        )
    vectors = load(source, torch.device("cpu")).quantizer.lookup(
        torch.arange(config.quantizer.codebook_size)
    )
    if not vectors.square().sum(dim=1).isfinite().all():
        raise CheckpointError(f"{source.path}: its codebook holds NaN or infinite values")
    prior, images = fit(parts, vectors)
    facts = {**provenance, "images": images}
    size = config.preprocessing.image_size
    sizes = [
        len(TokenFile.of(source, tokens, size, size, "crop", prior).payload)
        for part in held_out
        for tokens in part
    ]
    if sizes:
        facts["held_out_images"] = len(sizes)
        facts["held_out_payload_bytes"] = round(sum(sizes) / len(sizes), 2)
    header, tensors = checkpoint.read(source.path)
    return checkpoint.write(
        path,
        config,
        {**tensors, **prior.tensors()},
        {**header.provenance, "prior": facts},
        header.reads,
    )


def fit(parts: Iterable[NDArray[Any]], vectors: Tensor) -> tuple[NeuralPrior, int]:
    """A prior from tokens [n, rows, columns] that stand for vectors [K, d], and how many n were.

    Tokens are grouped by k-means of their vectors. All tokens and their neighbours are held in
    memory, 40 bytes a token.

    Raises:
        TrainingError: there are no tokens, or a group has more than weights are precise for.
    """
    centres = k_means(vectors, GROUPS, torch.Generator().manual_seed(0))
    group = nearest(vectors, centres)
    sizes = group.bincount()
    if sizes.max() > TOTAL // 2:
        raise TrainingError(f"{sizes.max()} alike vectors in the codebook: no prior for it")
    places = [part.astype(np.int64) for part in parts]
    images = sum(map(len, places))
    if not images:
        raise TrainingError("there are no tokens to make a prior of")
    tokens = torch.from_numpy(np.concatenate([part.ravel() for part in places]))
    around = torch.from_numpy(np.concatenate([neighbours(p, len(vectors)) for p in places]))
    generator = torch.Generator().manual_seed(0)
    network = _Network(vectors, group, tokens, generator)
    size = min(max(len(tokens) // _BATCHES, _BATCH[0]), _BATCH[1])
    steps = _EPOCHS * -(-len(tokens) // size)
    decay = min(_DECAY / len(tokens), 1 / _RATE)
    optimizer = torch.optim.AdamW(
        [
            {"params": network.own.parameters(), "weight_decay": decay},
            {"params": network.shared.parameters(), "weight_decay": 0.0},
        ],
        lr=_RATE,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 100) * (1 - step / steps)
    )
    for _ in range(_EPOCHS):
        order = torch.randperm(len(tokens), generator=generator)
        for batch in order.split(size):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            network.loss(around[batch], tokens[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network.prior(), images


class _Network(nn.Module):
    """A ``NeuralPrior`` in floating point, rounded wherever that one is in integers.

    Vectors of tokens, as neighbours and for scores, are linear in those of the codebook, plus
    something of their ``own`` that weight decay keeps small where tokens are too few to tell it.
    """

    def __init__(
        self, vectors: Tensor, group: Tensor, tokens: Tensor, generator: torch.Generator
    ) -> None:
        super().__init__()
        size, width = vectors.shape
        self.group = group
        self.members = [(group == number).nonzero()[:, 0] for number in range(GROUPS)]
        self.rank = torch.empty_like(group)
        for members in self.members:
            self.rank[members] = torch.arange(len(members))
        self.codebook = vectors / vectors.std()
        counts = tokens.bincount(minlength=size) + _UNSEEN
        by_group = torch.zeros(GROUPS).index_add(0, group, counts)
        self.likely = (counts / by_group[group]).log2()

        def random(*shape: int, gain: float) -> nn.Parameter:
            return nn.Parameter(gain * torch.randn(*shape, generator=generator))

        self.own = nn.ParameterDict(
            {
                "vectors": torch.zeros(size + 1, WIDTH),
                "token_scores": torch.zeros(size, HIDDEN),
                "token_bias": torch.zeros(size),
            }
        )
        fan_in = len(NEIGHBOURS) * WIDTH
        self.shared = nn.ParameterDict(
            {
                "vectors": random(width, WIDTH, gain=width**-0.5),
                "layer": random(fan_in, HIDDEN, gain=fan_in**-0.5),
                "layer_bias": torch.zeros(HIDDEN),
                "group_scores": random(GROUPS, HIDDEN, gain=0.03),
                "group_bias": (by_group + _UNSEEN).div(counts.sum()).log2(),
                "token_scores": random(width, HIDDEN, gain=0.03),
            }
        )

    def tables(self) -> dict[str, Tensor]:
        """What the prior holds of the same names, without the factors that make it integers."""
        own, shared = self.own, self.shared
        exact = {
            "vectors": F.pad(self.codebook @ shared["vectors"], (0, 0, 0, 1)) + own["vectors"],
            "layer": shared["layer"],
            "layer_bias": shared["layer_bias"],
            "group_scores": shared["group_scores"],
            "group_bias": shared["group_bias"],
            "token_scores": self.codebook @ shared["token_scores"] + own["token_scores"],
            "token_bias": self.likely + own["token_bias"],
        }
        return {
            name: _fixed_point(tensor, name, 1 << (15 if name.endswith("bias") else 7))
            for name, tensor in exact.items()
        }

    def loss(self, around: Tensor, tokens: Tensor) -> Tensor:
        """The mean information, in nats, in tokens [m] with neighbours [m, 4]."""
        tables = self.tables()
        sums = tables["vectors"][around].flatten(1) @ tables["layer"] + tables["layer_bias"]
        half = 0.5 / (1 << PLACES["hidden"])  # there, rest bits are cut off
        hidden = _fixed_point((sums - half).relu(), "hidden", HIDDEN_MOST + 1)
        group, order = self.group[tokens].sort()
        hidden, rank = hidden[order], self.rank[tokens[order]]
        scores = [hidden @ tables["group_scores"].T + tables["group_bias"]]
        symbols = [group]
        counts = group.bincount(minlength=GROUPS).tolist()
        parts = zip(
            self.members,
            hidden.split(counts),  # type: ignore[no-untyped-call]
            rank.split(counts),  # type: ignore[no-untyped-call]
            strict=True,
        )
        for members, part, symbol in parts:
            if len(part):
                scores.append(
                    part @ tables["token_scores"][members].T + tables["token_bias"][members]
                )
                symbols.append(symbol)
        bits = [
            F.cross_entropy(score * math.log(2), symbol, reduction="sum")
            for score, symbol in zip(scores, symbols, strict=True)
        ]
        return torch.stack(bits).sum() / len(tokens)

    def prior(self) -> NeuralPrior:
        """In integers."""
        with torch.no_grad():
            tables = {
                name: (tensor * (1 << PLACES[name]))
                .to(torch.int16 if name.endswith("bias") else torch.int8)
                .numpy()
                for name, tensor in self.tables().items()
            }
        behind = np.arange(16 << PLACES["powers"])
        powers = np.maximum(0xFFFF * 2.0 ** (-behind / (1 << PLACES["powers"])), 1)
        return NeuralPrior(
            group=self.group.numpy().astype(np.uint8), powers=powers.astype(np.uint16), **tables
        )


def _fixed_point(exact: Tensor, name: str, limit: int) -> Tensor:
    """Rounded to the binary ``PLACES`` of a name, and to less than ``limit`` in units of the last;
    the gradient is that of the number as it was."""
    factor = 1 << PLACES[name]
    bounded = (exact * factor).clamp(1 - limit, limit - 1)
    return (bounded + (bounded.round() - bounded).detach()) / factor
