"""Random batches of training images: one grid of tokens for all images of a step.

A batch is drawn on the host, ahead of its step, and depends only on the seed and the number of the
step. So it is the same on every device, for any number of processes, and in a resumed run. Images
are cropped, mirrored and resized on the device of the model, from 8-bit pixels.
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
_SHARE_OF_MEMORY = 0.5  # the share of the free memory of a device that images may take
_LEAST_TOKENS, _MOST_TOKENS = 9, 1024  # of a grid
_ASPECT = 2.5  # width / height of the widest grid, and height / width of the tallest
_LONGEST = 32  # tokens along a side of a grid
_MOST_IMAGES = 256  # of a step
_SHORTEST_PREFIX = 1 / 32  # of the tokens of an image


class Batch(NamedTuple):
    """The images of a step that one process trains on, on the device of the model.

    Attributes:
        images: uint8 [B, 3, T, T].
        crops: float32 [B, 5]: top, left, height and width of the crop of each image, in its pixels,
            and 1 if the crop is mirrored, else 0.
        kept: int64 [B]: the number of tokens that are decoded, from the first one on.
        revival: int64 [K]: the row of z that replaces each token if it is dead; out of range if
            another process has the row. [0] if the codebook is not trained.
        size: height and width in pixels of the decoded images.
        sharp: whether the crops have as many pixels as that. If not, they have at least as many as
            the encoder sees.
        share: this process's share of the images of the step, times the number of processes.
    """

    images: Tensor
    crops: Tensor
    kept: Tensor
    revival: Tensor
    size: tuple[int, int]
    sharp: bool
    share: float = 1.0


class Batches:
    """The batches of one process: its share of the images of every step."""

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
            images: [n, 3, T, T], in memory or mapped from a file. They are copied to the device if
                it has enough memory.
            tokens_stay: the codebook is not trained.
        """
        self.revivals = 0 if tokens_stay else config.quantizer.codebook_size
        self.images, self.config, self.recipe, self.device = images, config, recipe, device
        self.resident: Tensor | None = None
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if images.nbytes <= _SHARE_OF_MEMORY * free:
                self.resident = torch.from_numpy(np.array(images)).to(device)

    def since(self, step: int) -> Iterator[Batch]:
        """The batches from ``step`` to the last, made ahead in a thread."""
        return map_ahead(self.draw, range(step, self.recipe.steps), 1, _AHEAD)

    def draw(self, step: int) -> Batch:
        """The batch of one step."""
        config, stored = self.config, self.images.shape[-1]
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step + 1)
        height, width = size = draw_size(config, stored, generator)
        tokens = math.prod(config.token_shape(height, width))
        # Every process needs an image.
        count = max(min(self.recipe.tokens // tokens, _MOST_IMAGES), ranks.count())
        picks = torch.randint(len(self.images), (count,), generator=generator)
        sharp = max(size) <= stored
        scale = 1 if sharp else config.preprocessing.pixel_scale
        crops = draw_crops(count, stored, height // scale, width // scale, generator)
        kept = torch.full((count,), tokens)
        if config.decoder.prefixes:
            kept = _draw_prefixes(count, tokens, generator)
        revival = torch.randint(count * tokens, (self.revivals,), generator=generator)
        own = ranks.share(count)
        if self.resident is None:
            images = self._moved(torch.from_numpy(self.images[picks[own].numpy()]))
        else:
            images = self.resident[self._moved(picks[own])]
        crops, kept = self._moved(crops[own]), self._moved(kept[own])
        revival = self._moved(revival - own.start * tokens)
        share = len(crops) * ranks.count() / count
        return Batch(images, crops, kept, revival, size, sharp, share)

    def _moved(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


def longest_grid(config: ModelConfig, stored: int) -> int:
    """The longest side of a grid, in tokens, that images of ``stored`` pixels suffice for."""
    pixels = config.multiple // config.preprocessing.pixel_scale  # of a token, for the encoder
    return max(1, min(_LONGEST, stored // pixels))


def draw_size(config: ModelConfig, stored: int, generator: torch.Generator) -> tuple[int, int]:
    """Height and width of the decoded images: of a random grid if the model takes any.

    The logarithms of the number of tokens and of the aspect ratio are uniform.
    """
    side = config.preprocessing.image_size
    if not config.multiple:
        return side, side
    longest = longest_grid(config, stored)
    most = min(_MOST_TOKENS, longest**2)
    least = min(_LEAST_TOKENS, most)
    share, lean = torch.rand(2, generator=generator).tolist()
    tokens = least * (most / least) ** share
    aspect = _ASPECT ** (2 * lean - 1)
    rows, columns = (
        max(1, min(longest, round(math.sqrt(squared)))) * config.multiple
        for squared in (tokens / aspect, tokens * aspect)
    )
    return rows, columns


def draw_crops(
    count: int, stored: int, height: int, width: int, generator: torch.Generator
) -> Tensor:
    """Crops as in ``Batch``, of the shape ``height`` x ``width``, from images of ``stored`` pixels.

    Half of them are as large as fits into an image. The others have a random scale, down to one
    pixel of the image for one of the model.
    """
    largest = stored / max(height, width)  # pixels of an image per pixel of the model
    smallest = min(1.0, largest)
    scale = smallest + (largest - smallest) * torch.rand(count, generator=generator)
    scale[torch.rand(count, generator=generator) < 0.5] = largest
    high, wide = height * scale, width * scale
    down, across, mirrored = torch.rand(3, count, generator=generator)
    top, left = down * (stored - high).clamp(min=0), across * (stored - wide).clamp(min=0)
    return torch.stack([top, left, high, wide, (mirrored < 0.5).float()], dim=1)


def _draw_prefixes(count: int, tokens: int, generator: torch.Generator) -> Tensor:
    """The number of tokens to decode: all for half of the images, for the others a number whose
    logarithm is uniform.

    This is nested dropout (arXiv 1402.0915) of the last tokens, as in One-D-Piece (arXiv
    2501.10064, section 3).
    """
    whole, share = torch.rand(2, count, generator=generator)
    some = torch.round(tokens * _SHORTEST_PREFIX**share).clamp(min=1)
    return torch.where(whole < 0.5, tokens, some).long()


def crop_and_resize(images: Tensor, crops: Tensor, height: int, width: int) -> Tensor:
    """The crops of ``images``, uint8 [B, 3, T, T], as float32 [B, 3, height, width] in [0, 1].

    Each pixel is the mean over its area of the image. ``crops`` are as in ``Batch``, of different
    sizes: two products with matrices resize them all.
    """
    top, left, high, wide, mirrored = crops.unbind(1)
    rows = _area_weights(top, high, height, images.shape[-1])
    columns = _area_weights(left, wide, width, images.shape[-1])
    columns = torch.where(mirrored[:, None, None] > 0, columns.flip(1), columns)
    # There are fewer weights than pixels to divide by 255.
    return torch.matmul((rows / 255)[:, None] @ images.float(), columns[:, None].mT)


def _area_weights(start: Tensor, length: Tensor, side: int, stored: int) -> Tensor:
    """The share of each of ``stored`` pixels in each of the ``side`` equal parts of an interval of
    ``length`` that begins at ``start``: [B, side, stored]; each row adds up to 1."""
    step = (length / side)[:, None]
    bounds = start[:, None] + step * torch.arange(side + 1, device=start.device)
    pixels = torch.arange(stored, device=start.device)
    ends = torch.minimum(bounds[:, 1:, None], pixels + 1)
    begins = torch.maximum(bounds[:, :-1, None], pixels)
    return (ends - begins).clamp(min=0) / step[:, :, None]
