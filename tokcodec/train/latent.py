"""The preset of latent tokens, and its start: every latent gets a place in the image.

In the first block of the encoder a latent gathers the components of the patches around its place,
in the first block of the decoder a patch gathers the tokens of the latents nearest to it. Latents
lie far from the places of those before them, so every prefix of the tokens starts as an image, the
shorter the coarser.
"""

import math

import torch
from torch import Tensor

from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.config.vit import LatentDecoderConfig, LatentEncoderConfig
from tokcodec.model.vit import Attention, LatentDecoder, LatentEncoder

# Any prefix of its tokens decodes. Latents and patches are twice the tokens: fewer layers.
PRESET = ModelConfig(
    encoder=LatentEncoderConfig(width=256, layers=2, heads=4, patch_size=8, num_latents=256),
    quantizer=CodebookConfig(codebook_size=8192, embedding_dim=32),
    decoder=LatentDecoderConfig(
        width=256, layers=3, heads=4, patch_size=8, pixel_overlap=4, prefix_tokens=True
    ),
    preprocessing=PreprocessingConfig(pixel_scale=2, reduced_jpeg=True, resize="direct"),
)

# Of a token's channels a quarter is for the components of patches, one is empty, one holds the
# constants that keep the norms of tokens equal, and the last one place and kind.
SHARE = 4
_POWER = 3.0  # of the distance
_KIND_LOGIT = 6.0  # for tokens to gather from, and against the others


def give_places(encoder: LatentEncoder, decoder: LatentDecoder) -> None:
    """Sets positions, latents and the first blocks, whose other weights must gather nothing."""
    count, embedding_dim = len(encoder.latent_tokens), decoder.from_embedding.in_features
    grid = math.isqrt(len(encoder.patch_positions))
    order = _spread(grid).repeat(-(-count // grid**2))[:count]
    places = _cells(grid)[order]
    part: LatentEncoder | LatentDecoder
    for part in (encoder, decoder):
        grid = math.isqrt(len(part.patch_positions))
        attention = part.blocks[0].attention
        assert isinstance(attention, Attention)
        _gather(attention)
        cells = _cells(grid)
        quarter = attention.out.in_features // SHARE
        if isinstance(part, LatentEncoder):
            # The more latents lie before it, the less far a latent reaches.
            sharpness = (torch.arange(1, count + 1) / count) ** (1 / 3)
            part.patch_positions.add_(_tokens(attention, cells, grid, torch.ones(1), 1.0, quarter))
            part.latent_tokens.add_(_tokens(attention, places, grid, sharpness, -1.0, 0))
        else:
            part.patch_positions.add_(_tokens(attention, cells, grid, torch.ones(1), -1.0, 0))
            part.token_positions.add_(
                _tokens(attention, places, grid, torch.ones(1), 1.0, min(embedding_dim, quarter))
            )


def _cells(grid: int) -> Tensor:
    """Centres [grid², 2] of the cells of a grid in the unit square."""
    return (torch.cartesian_prod(torch.arange(grid), torch.arange(grid)) + 0.5) / grid


def _frequencies(attention: Attention) -> int:
    width = attention.out.in_features
    return max(0, min(width // SHARE, width // attention.heads) - 1) // 4


def _tokens(
    attention: Attention, places: Tensor, grid: int, sharpness: Tensor, kind: float, content: int
) -> Tensor:
    """[n, width] for places [n, 2] in (0, 1).

    ``sharpness`` [n] or [1] is the share of the frequencies that a token has, the lowest ones;
    ``content`` the squared norm that the components will add.
    """
    width, count = attention.out.in_features, _frequencies(attention)
    quarter = width // SHARE
    steps = torch.arange(1, count + 1)
    angles = places[:, :, None] * steps * (math.pi * grid / max(count, 1))
    heights = (steps <= count * sharpness[:, None]) / steps.sqrt()
    waves = (torch.stack([angles.sin(), angles.cos()], dim=2) * heights[:, None, None]).flatten(1)
    rest = (width - content - waves.square().sum(dim=1) - kind**2).clamp(min=0)
    signs = 1 - 2 * (torch.arange(quarter) % 2)
    tokens = torch.zeros(len(places), width)
    tokens[:, 2 * quarter : 3 * quarter] = (rest / quarter).sqrt()[:, None] * signs
    tokens[:, 3 * quarter : 3 * quarter + 4 * count] = waves
    tokens[:, 3 * quarter + 4 * count] = kind
    return tokens


def _gather(attention: Attention) -> None:
    """Attention to the components of tokens of kind 1, by distance from the place of the query.

    The sum of cos(kx)/k is -log(2 sin(x/2)), so the softmax weighs by a power of the distance,
    which needs no scale: the nearest tokens count, however few there are.
    """
    width, heads, count = attention.out.in_features, attention.heads, _frequencies(attention)
    quarter, size = width // SHARE, width // attention.heads
    attention.qkv.bias.zero_()
    queries, keys, values = attention.qkv.weight.view(3, heads, size, width)
    for projection in (queries, keys):
        projection.zero_()
        wave = torch.arange(4 * count)
        projection[:, wave, 3 * quarter + wave] = math.sqrt(_POWER * math.sqrt(size))
    keys[:, 4 * count, 3 * quarter + 4 * count] = 1
    attention.qkv.bias.view(3, heads, size)[0, :, 4 * count] = _KIND_LOGIT * math.sqrt(size)
    flat = values.reshape(width, width)
    flat[:quarter] = torch.eye(quarter, width)
    values.copy_(flat.view_as(values))
    attention.out.weight[:quarter, :quarter] = torch.eye(quarter)


def _spread(grid: int) -> Tensor:
    """The cells of a grid, each as far as can be from those before it, edges wrapping around."""
    rows, columns = torch.cartesian_prod(torch.arange(grid), torch.arange(grid)).unbind(1)
    nearest = torch.full((grid**2,), float(2 * grid**2))
    order = [(grid // 8) * (grid + 1)]
    for _ in range(grid**2 - 1):
        down = (rows - rows[order[-1]]).abs()
        right = (columns - columns[order[-1]]).abs()
        distance = torch.minimum(down, grid - down) ** 2 + torch.minimum(right, grid - right) ** 2
        nearest = torch.minimum(nearest, distance)
        order.append(int(nearest.argmax()))
    return torch.tensor(order)
