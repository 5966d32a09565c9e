"""Random batches of training images.

What is random is drawn on the host, ahead of its step and from the step's number alone: so it is
the same on every device, for any number of processes, and for a run that was resumed. Images
are cut, mirrored and averaged where the model is, from bytes.
"""

import math
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
_LEAST_TOKENS, _MOST_TOKENS = 9, 1024  # of a grid
_ASPECT = 2.5  # the widest grid
LONGEST_GRID = 32  # tokens along a side
_MOST_IMAGES = 256  # a step
_SHORTEST_PREFIX = 1 / 32  # of the tokens; shorter ones decode, but nothing is trained for them


class Batch(NamedTuple):
    """A step's draws, on the device of the model.

    Attributes:
        images: uint8 [B, 3, T, T].
        crops: float32 [B, 5]: top, left, height and width of a rectangle in them, in pixels, and
            whether it is mirrored, 1 or 0.
        kept: int64 [B]: how many tokens are decoded, the first ones.
        revival: int64 [K]: of which of all z of the step, of all processes, a dead token is made;
            [0] where tokens stay.
        size: height and width of the images that the decoder makes of them.
        sharp: whether the crops have as many pixels as that.
    """

    images: Tensor
    crops: Tensor
    kept: Tensor
    revival: Tensor
    size: tuple[int, int]
    sharp: bool


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
        config = self.config
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step + 1)
        height, width = size = _draw_size(config, generator)
        tokens = math.prod(config.token_shape(*size))
        each = min(self.recipe.tokens // tokens, _MOST_IMAGES) // ranks.count() or 1
        count = each * ranks.count()
        picks = torch.randint(len(self.images), (count,), generator=generator)
        stored = self.images.shape[-1]
        sharp = max(size) <= stored
        scale = 1 if sharp else config.preprocessing.pixel_scale
        crops = _draw_crops(count, stored, height // scale, width // scale, generator)
        kept = torch.full((count,), tokens)
        if config.prefix_tokens:
            kept = _draw_prefixes(count, tokens, generator)
        revival = torch.randint(count * tokens, (self.revivals,), generator=generator)
        own = slice(each * ranks.rank(), each * (ranks.rank() + 1))
        if self.resident is None:
            images = self._moved(torch.from_numpy(self.images[picks[own].numpy()]))
        else:
            images = self.resident[self._moved(picks[own])]
        crops, kept, revival = map(self._moved, (crops[own], kept[own], revival))
        return Batch(images, crops, kept, revival, size, sharp)

    def _moved(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


def cut(images: Tensor, crops: Tensor, height: int, width: int) -> Tensor:
    """The crops of a batch: float32 [B, 3, height, width] in [0, 1].

    Of ``images``, uint8 [B, 3, T, T], the tiles ``crops`` (as in ``Batch``), averaged over the
    areas of its pixels: two products with matrices of shares, whatever sizes the tiles have.
    """
    top, left, high, wide, mirrored = crops.unbind(1)
    rows = _shares(top, high, height, images.shape[-1])
    columns = _shares(left, wide, width, images.shape[-1])
    columns = torch.where(mirrored[:, None, None] > 0, columns.flip(1), columns)
    return torch.matmul(rows[:, None] @ (images.float() / 255), columns[:, None].mT)


def _shares(start: Tensor, edge: Tensor, side: int, stored: int) -> Tensor:
    """[B, side, stored]: how much each stored pixel adds to each of ``side`` that divide the
    stretch of ``edge`` from ``start`` on; each row adds up to 1."""
    step = (edge / side)[:, None]
    bounds = start[:, None] + step * torch.arange(side + 1, device=start.device)
    pixels = torch.arange(stored, device=start.device)
    ends = torch.minimum(bounds[:, 1:, None], pixels + 1)
    begins = torch.maximum(bounds[:, :-1, None], pixels)
    return (ends - begins).clamp(min=0) / step[:, :, None]


def _draw_size(config: ModelConfig, generator: torch.Generator) -> tuple[int, int]:
    """Height and width that the decoder makes: of a random grid, where the model takes any."""
    side = config.preprocessing.image_size
    if not config.multiple:
        return side, side
    share, aspect = torch.rand(2, generator=generator).tolist()
    tokens = _LEAST_TOKENS * (_MOST_TOKENS / _LEAST_TOKENS) ** share
    aspect = _ASPECT ** (2 * aspect - 1)
    rows, columns = (
        max(1, min(LONGEST_GRID, round(math.sqrt(edge)))) * config.multiple
        for edge in (tokens / aspect, tokens * aspect)
    )
    return rows, columns


def _draw_crops(
    count: int, stored: int, height: int, width: int, generator: torch.Generator
) -> Tensor:
    """As in ``Batch``: half of them as large as fits, half of a random scale, down to native
    resolution."""
    largest = stored / max(height, width)  # pixels of a image per pixel of the model
    scale = min(1.0, largest) + (largest - min(1.0, largest)) * torch.rand(
        count, generator=generator
    )
    scale[torch.rand(count, generator=generator) < 0.5] = largest
    high, wide = height * scale, width * scale
    down, across, mirrored = torch.rand(3, count, generator=generator)
    top, left = down * (stored - high).clamp(min=0), across * (stored - wide).clamp(min=0)
    return torch.stack([top, left, high, wide, (mirrored < 0.5).float()], dim=1)


def _draw_prefixes(count: int, tokens: int, generator: torch.Generator) -> Tensor:
    """Tokens that are decoded: of half of the images all, of the others a number whose logarithm
    is uniform.

    Nested dropout (arXiv 1402.0915); on the tail of the tokens, as One-D-Piece (arXiv 2501.10064,
    section 3) has it.
    """
    whole, share = torch.rand(2, count, generator=generator)
    some = torch.round(tokens * _SHORTEST_PREFIX**share).clamp(min=1)
    return torch.where(whole < 0.5, tokens, some).long()
