"""Random batches of training images.

What is random is drawn on the host, ahead of its step and from the step's number alone: so it is
the same on every device, for any number of processes, and for a run that was resumed. Images
are cut, mirrored and averaged where the model is, from bytes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokcodec.config import ModelConfig
from tokcodec.parallel import map_ahead
from tokcodec.train import ranks
from tokcodec.train.recipe import Recipe

_AHEAD = 2  # batches
_SHARE_OF_MEMORY = 0.5  # of what a device has free, that images may take
_SHORTEST_PREFIX = 1 / 32  # of the tokens; shorter ones decode, but nothing is trained for them


class Batch(NamedTuple):
    """A step's draws, on the device of the model.

    Attributes:
        images: uint8 [B, 3, T, T].
        crops: float32 [B, 4]: top, left and edge of a square in them, in pixels, and whether it
            is mirrored, 1 or 0.
        kept: int64 [B]: how many tokens are decoded, the first ones.
        revival: int64 [K]: of which of all z of the step, of all processes, a dead token is made;
            [0] where tokens stay.
    """

    images: Tensor
    crops: Tensor
    kept: Tensor
    revival: Tensor


class Batches:
    """Batches of one process: its share of every step's images."""

    def __init__(
        self,
        images: NDArray[np.uint8],
        config: ModelConfig,
        recipe: Recipe,
        device: torch.device,
        tokens_stay: bool = False,
    ) -> None:
        """
        Args:
            images: [n, 3, T, T], in memory or mapped from a file. They move to the device where
                it has room for them.
            tokens_stay: no token is to be revived.
        """
        self.revivals = 0 if tokens_stay else config.quantizer.codebook_size
        self.images, self.config, self.recipe, self.device = images, config, recipe, device
        self.resident: Tensor | None = None
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if images.nbytes <= _SHARE_OF_MEMORY * free:
                self.resident = torch.from_numpy(np.array(images)).to(device)

    def since(self, step: int) -> Iterator[Batch]:
        """The batches of the steps from ``step`` on, made ahead in a thread."""
        return map_ahead(self.of, range(step, self.recipe.steps), 1, _AHEAD)

    def of(self, step: int) -> Batch:
        """The batch of one step."""
        config, size = self.config, self.recipe.batch_size
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step + 1)
        picks = torch.randint(len(self.images), (size,), generator=generator)
        stored, side = self.images.shape[-1], config.preprocessing.model_size
        crops = _draw_crops(size, stored, side, generator)
        kept = torch.full((size,), config.num_tokens)
        if config.prefix_tokens:
            kept = _draw_prefixes(size, config.num_tokens, generator)
        revival = torch.randint(size * config.num_tokens, (self.revivals,), generator=generator)
        each = size // ranks.count()
        own = slice(each * ranks.rank(), each * (ranks.rank() + 1))
        if self.resident is None:
            images = self._moved(torch.from_numpy(self.images[picks[own].numpy()]))
        else:
            images = self.resident[self._moved(picks[own])]
        return Batch(images, *map(self._moved, (crops[own], kept[own], revival)))

    def _moved(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


def cut(images: Tensor, crops: Tensor, side: int) -> Tensor:
    """What the model sees of a batch: float32 [B, 3, side, side] in [0, 1].

    Of ``images``, uint8 [B, 3, T, T], the tiles ``crops`` (as in ``Batch``), averaged over the
    areas of its pixels: two products with matrices of shares, whatever sizes the tiles have.
    """
    top, left, edge, mirrored = crops.unbind(1)
    rows = _shares(top, edge, side, images.shape[-1])
    columns = _shares(left, edge, side, images.shape[-1])
    columns = torch.where(mirrored[:, None, None] > 0, columns.flip(1), columns)
    return torch.matmul(rows[:, None] @ (images.float() / 255), columns[:, None].mT)


def _shares(start: Tensor, edge: Tensor, side: int, stored: int) -> Tensor:
    """[B, side, stored]: how much each stored pixel adds to each of ``side`` that divide the
    stretch of ``edge`` from ``start`` on; each row adds up to 1."""
    step = edge / side
    bounds = start[:, None] + step[:, None] * torch.arange(side + 1, device=start.device)
    pixels = torch.arange(stored, device=start.device)
    ends = torch.minimum(bounds[:, 1:, None], pixels + 1)
    begins = torch.maximum(bounds[:, :-1, None], pixels)
    return (ends - begins).clamp(min=0) / step[:, None, None]


def _draw_crops(count: int, stored: int, side: int, generator: torch.Generator) -> Tensor:
    """As in ``Batch``: half of them whole, half of a random scale, down to native resolution."""
    edge = torch.randint(min(side, stored), stored + 1, (count,), generator=generator)
    edge[torch.rand(count, generator=generator) < 0.5] = stored
    corners = torch.rand(2, count, generator=generator) * (stored - edge + 1)
    mirrored = torch.rand(count, generator=generator) < 0.5
    return torch.stack([*corners.floor(), edge, mirrored], dim=1).float()


def _draw_prefixes(count: int, tokens: int, generator: torch.Generator) -> Tensor:
    """Tokens that are decoded: of half of the images all, of the others a number whose logarithm
    is uniform.

    Nested dropout (arXiv 1402.0915); on the tail of the tokens, as One-D-Piece (arXiv 2501.10064,
    section 3) has it.
    """
    whole, share = torch.rand(2, count, generator=generator)
    some = torch.round(tokens * _SHORTEST_PREFIX**share).clamp(min=1)
    return torch.where(whole < 0.5, tokens, some).long()
