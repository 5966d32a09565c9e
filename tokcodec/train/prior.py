"""Fits the prior of a checkpoint to the tokens of many images."""

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tokcodec import checkpoint
from tokcodec.checkpoint import Header
from tokcodec.coding.bitpack import packed_size
from tokcodec.coding.prior import (
    BANDS,
    GROUPS,
    HIDDEN,
    HIDDEN_MOST,
    NEIGHBOURS,
    PLACES,
    SIZES,
    TOTAL,
    WIDTH,
    Prior,
    band_of,
    neighbours,
    size_of,
)
from tokcodec.errors import CheckpointError, TrainingError
from tokcodec.model.codebook import nearest
from tokcodec.model.loading import load
from tokcodec.train.start import k_means

Progress = Callable[[int, int], None]  # the number of steps so far, and of all steps

_EPOCHS = 4  # at most
_MOST_TOKENS = 2e7  # of all epochs together, unless there is only one
_BATCHES = 120  # of an epoch, about
_SMALLEST, _LARGEST = 512, 8192  # tokens of a batch
_VECTORS_PER_TOKEN = 16  # at most, of a batch, because a step goes through all vectors
_MIX = 128  # learned features of a vector of the codebook
_RATE = 1e-2
_WARM_UP = 100  # steps, or a fifth of all
_DECAY = 8e5  # weight decay, times the number of tokens, of what does not depend on the codebook
_UNSEEN = 0.5  # occurrences that are added for every token
_PLACE_BIASES = ("size_bias", "row_bias", "column_bias")  # of ``_Examples``


def add_prior(
    source: Header,
    parts: Iterable[NDArray[Any]],
    held_out: Iterable[NDArray[Any]],
    path: Path,
    provenance: Mapping[str, Any],
    progress: Progress = lambda _, __: None,
) -> Header:
    """Writes the checkpoint ``source`` to ``path`` with a prior fitted to its tokens.

    The provenance gets the bytes of the held-out images.

    Args:
        source: the checkpoint.
        parts: tokens [n, rows, columns] of n images each, with grids of any shapes.
        held_out: tokens of other images, to measure the prior.
        path: the file to write.
        provenance: further facts.
        progress: called after every step.

    Raises:
        CheckpointError: the source is damaged.
        TrainingError: its tokens have no rows and columns, too many vectors are near-identical, or
            there are no tokens.
        OutputError: the file cannot be written.
    """
    config = source.config
    if not config.has_grid:
        raise TrainingError(f"{source.name}: only tokens in rows and columns have a prior")
    vectors = load(source, torch.device("cpu")).quantizer.lookup(
        torch.arange(config.quantizer.codebook_size)
    )
    if not vectors.square().sum(dim=1).isfinite().all():
        raise CheckpointError(f"{source.path}: its codebook holds NaN or infinite values")
    prior, facts = fit(parts, vectors, progress)
    images = [image for part in held_out for image in part]
    if images:
        bits = config.quantizer.bits
        coded = [len(prior.encode(image[None].astype(np.int64))) for image in images]
        facts["held_out_images"] = len(images)
        facts["held_out_payload_bytes"] = round(float(np.mean(coded)), 2)
        facts["held_out_packed_bytes"] = round(
            float(np.mean([packed_size(image.size, bits) for image in images])), 2
        )
    header, tensors = checkpoint.read(source.path)
    return checkpoint.write(
        path,
        config,
        {**tensors, **prior.tensors()},
        {**header.provenance, "prior": {**provenance, **facts}},
    )


def fit(
    parts: Iterable[NDArray[Any]], vectors: Tensor, progress: Progress = lambda _, __: None
) -> tuple[Prior, dict[str, Any]]:
    """Fits a prior to tokens [n, rows, columns] of vectors [K, d]; also returns the numbers of
    images and tokens.

    Tokens are grouped by k-means of their vectors. Time is proportional to the number of tokens;
    each takes about 30 bytes of memory.

    Raises:
        TrainingError: there are no tokens, or a group has too many for the precision of weights.
    """
    centres = k_means(vectors, GROUPS, torch.Generator().manual_seed(0))
    group = nearest(vectors, centres)
    largest = int(group.bincount().max())
    if largest > TOTAL // 2:
        raise TrainingError(
            f"the codebook has {largest} near-identical vectors; cannot fit a prior to it"
        )
    parts = [part for part in parts if part.size]
    if not parts:
        raise TrainingError("there are no tokens to fit a prior to")
    examples = _Examples.of(parts, len(vectors))
    generator = torch.Generator().manual_seed(0)
    network = _Network(vectors, group, examples, generator)
    count = len(examples.tokens)
    size = min(max(count // _BATCHES, _SMALLEST), _LARGEST)
    size = max(size, len(vectors) // _VECTORS_PER_TOKEN)
    epochs = min(max(round(_MOST_TOKENS / count), 1), _EPOCHS)
    steps = epochs * -(-count // size)
    decay = min(_DECAY / count, 1 / _RATE)
    optimizer = torch.optim.AdamW(
        [
            {"params": network.own.parameters(), "weight_decay": decay},
            {"params": network.shared.parameters(), "weight_decay": 0.0},
        ],
        lr=_RATE,
        betas=(0.9, 0.98),
    )
    warm_up = min(_WARM_UP, steps / 5)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / warm_up) * (1 - step / steps)
    )
    orders = [torch.randperm(count, generator=generator) for _ in range(epochs)]
    batches = (order.split(size) for order in orders)  # type: ignore[no-untyped-call]
    for done, batch in enumerate(chain.from_iterable(batches), 1):
        optimizer.zero_grad()
        network.loss(examples.at(batch)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        progress(done, steps)
    return network.prior(), {"images": sum(map(len, parts)), "tokens": count}


class _Examples(NamedTuple):
    """Tokens, and the inputs of the prior for each.

    Attributes:
        tokens: int64 [m].
        around: int32 [m, 4], their neighbours.
        size, row, column: uint8 [m], indices into the tables of biases.
    """

    tokens: Tensor
    around: Tensor
    size: Tensor
    row: Tensor
    column: Tensor

    @classmethod
    def of(cls, parts: Iterable[NDArray[Any]], codebook_size: int) -> "_Examples":
        """The tokens of parts [n, rows, columns]."""
        columns = zip(*(cls._of_part(part, codebook_size) for part in parts), strict=True)
        return cls(*(torch.from_numpy(np.concatenate(column)) for column in columns))

    @staticmethod
    def _of_part(part: NDArray[Any], codebook_size: int) -> list[NDArray[Any]]:
        tokens = part.astype(np.int64)
        _, rows, columns = part.shape
        size = size_of(rows, columns)
        row = band_of(np.arange(rows), rows)[:, None]
        column = band_of(np.arange(columns), columns)
        places = (np.broadcast_to(index, part.shape).reshape(-1) for index in (size, row, column))
        around = neighbours(tokens, codebook_size).astype(np.int32)
        return [tokens.reshape(-1), around, *(place.astype(np.uint8) for place in places)]

    def at(self, places: Tensor) -> "_Examples":
        return _Examples(*(tensor[places] for tensor in self))


class _Network(nn.Module):
    """A ``Prior`` in floating point, rounded wherever the prior has integers.

    The vectors of tokens, as neighbours and for scores, are functions of those of the codebook plus
    a part of their ``own``, which weight decay keeps small if there are too few tokens to learn it.
    The functions are linear in the vector of the codebook, its squares (so that scores can be those
    of a normal distribution of any width), and learned features.
    """

    def __init__(
        self, vectors: Tensor, group: Tensor, examples: _Examples, generator: torch.Generator
    ) -> None:
        super().__init__()
        size = len(vectors)
        self.group = group
        self.members = [(group == number).nonzero()[:, 0] for number in range(GROUPS)]
        self.rank = torch.empty_like(group)
        for members in self.members:
            self.rank[members] = torch.arange(len(members))
        self.features = _with_squares(vectors)
        width = self.features.shape[1]
        counts = examples.tokens.bincount(minlength=size) + _UNSEEN
        by_group = torch.zeros(GROUPS).index_add(0, group, counts)
        self.likely = (counts / by_group[group]).log2()
        self.seen = {
            name: places.unique()  # type: ignore[no-untyped-call]
            for name, places in zip(_PLACE_BIASES, examples[2:], strict=True)
        }

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
                "mix": random(width, _MIX, gain=width**-0.5),
                "mix_bias": torch.zeros(_MIX),
                "vectors": random(width + _MIX, WIDTH, gain=width**-0.5),
                "layer": random(fan_in, HIDDEN, gain=fan_in**-0.5),
                "size_bias": torch.zeros(SIZES, HIDDEN),
                "row_bias": torch.zeros(BANDS, HIDDEN),
                "column_bias": torch.zeros(BANDS, HIDDEN),
                "group_scores": random(GROUPS, HIDDEN, gain=0.03),
                "group_bias": (by_group + _UNSEEN).div(counts.sum()).log2(),
                "token_scores": random(width + _MIX, HIDDEN, gain=0.02),
            }
        )

    def tables(self) -> dict[str, Tensor]:
        """The tables of the prior by name, without the factors that make them integers."""
        own, shared = self.own, self.shared
        mixed = (self.features @ shared["mix"] + shared["mix_bias"]).relu()
        features = torch.cat([self.features, mixed], dim=1)
        exact = {
            "vectors": F.pad(features @ shared["vectors"], (0, 0, 0, 1)) + own["vectors"],
            "layer": shared["layer"],
            **{name: shared[name] for name in self.seen},
            "group_scores": shared["group_scores"],
            "group_bias": shared["group_bias"],
            "token_scores": features @ shared["token_scores"] + own["token_scores"],
            "token_bias": self.likely + own["token_bias"],
        }
        return {
            name: _fixed_point(tensor, name, 1 << (15 if name.endswith("bias") else 7))
            for name, tensor in exact.items()
        }

    def loss(self, batch: _Examples) -> Tensor:
        """The mean information of a token in nats."""
        tables = self.tables()
        sums = F.embedding(batch.around, tables["vectors"]).flatten(1) @ tables["layer"]
        for name, places in zip(_PLACE_BIASES, batch[2:], strict=True):
            sums = sums + F.embedding(places.int(), tables[name])
        half = 0.5 / (1 << PLACES["hidden"])  # because the prior rounds down here
        hidden = _fixed_point((sums - half).relu(), "hidden", HIDDEN_MOST + 1)
        group, order = self.group[batch.tokens].sort()
        hidden, rank = hidden[order], self.rank[batch.tokens[order]]
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
        return torch.stack(bits).sum() / len(batch.tokens)

    def prior(self) -> Prior:
        """The prior in integers. A size or place without tokens takes the bias of the nearest."""
        with torch.no_grad():
            tables = self.tables()
        for name, seen in self.seen.items():
            places = torch.arange(len(tables[name]))
            closest = (places[:, None] - seen.long()).abs().argmin(dim=1)
            tables[name] = tables[name][seen.long()[closest]]
        integers = {
            name: (tensor * (1 << PLACES[name]))
            .to(torch.int16 if name.endswith("bias") else torch.int8)
            .numpy()
            for name, tensor in tables.items()
        }
        behind = np.arange(16 << PLACES["powers"])
        powers = np.maximum(0xFFFF * 2.0 ** (-behind / (1 << PLACES["powers"])), 1)
        return Prior(
            group=self.group.numpy().astype(np.uint8), powers=powers.astype(np.uint16), **integers
        )


def _with_squares(vectors: Tensor) -> Tensor:
    """[K, d] -> [K, 2 d + 1]: the vectors and the squares of their elements and lengths, scaled to
    about the same deviation."""
    scaled = vectors / vectors.std()
    squares = scaled.square()
    squares = torch.cat([squares, squares.sum(dim=1, keepdim=True)], dim=1)
    spread = squares.std(dim=0).clamp(min=1e-6)
    return torch.cat([scaled, (squares - squares.mean(dim=0)) / spread], dim=1)


def _fixed_point(exact: Tensor, name: str, limit: int) -> Tensor:
    """Rounds to the binary ``PLACES`` of a name, and to less than ``limit`` in units of the last
    place. The gradient is that of the exact number."""
    factor = 1 << PLACES[name]
    bounded = (exact * factor).clamp(1 - limit, limit - 1)
    return (bounded + (bounded.round() - bounded).detach()) / factor
