"""The initial weights of a training: principal components of patches, and k-means.

If the residual branches are zero, the encoder and the decoder of the kind ``patch`` are linear, and
the best linear code of a patch is its first d principal components. So training begins with
classical vector quantization instead of noise. Latent tokens begin at random.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tokcodec import checkpoint
from tokcodec.config import ModelConfig
from tokcodec.model.codebook import Codebook, nearest
from tokcodec.model.loading import load
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.model.vit import (
    Block,
    LatentDecoder,
    LatentEncoder,
    PatchDecoder,
    PatchEncoder,
    PatchHead,
    patchify,
)
from tokcodec.train.batches import crop_and_resize

_IMAGES = 8192  # that the components and the codebook are fitted to, at most
_AT_ONCE = 64  # images
_PATCHES = 1 << 15  # that the components are fitted to, at most
_NUMBERS = 1 << 26  # in all these patches, at most: a quarter of a gigabyte
_POWER_ITERATIONS, _OVERSAMPLING = 3, 16  # of the low-rank decomposition
_ITERATIONS = 10
_VECTORS_PER_TOKEN = 40  # that the codebook is fitted to
# The fields of a decoder that may grow, and that may change, when it is trained further.
_GROWS = ("layers", "pixel_overlap", "pixel_convolution")
_FREE = (*_GROWS, "prefix_tokens")

Tell = Callable[[str], None]  # takes a message for the user
Components = tuple[Tensor, Tensor, Tensor]  # mean [D], basis [D, r], deviation along each [r]


def begin(
    model: Tokenizer,
    images: NDArray[np.uint8],
    seed: int,
    source: checkpoint.Header | None = None,
    rate_channel: bool = False,
    tell: Tell = lambda _: None,
) -> None:
    """Sets every weight of ``model``, which is on the CPU.

    Args:
        images: training images, uint8 [n, 3, T, T], that the weights are fitted to.
        seed: of the random numbers.
        source: a checkpoint whose weights are copied, as far as they fit.
        rate_channel: the last channel of z stays 0, see ``MovingAverages``.
        tell: called with messages.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(images), generator=generator)[:_IMAGES]
    _initialize(model, generator)
    if not (source and can_warm_start_decoder(model.config, source.config)):
        sample = torch.from_numpy(images[chosen.numpy()])
        _fit_patches(model, sample, rate_channel, generator, tell)
        if not source:
            _fill_codebook(model, sample, generator, tell)
    if source:
        adopt(model, load(source, torch.device("cpu")))


def _views(model: Tokenizer, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of whole images, uint8 [n, 3, T, T], at the resolutions of the decoder and of the
    encoder."""
    side, edge = model.config.preprocessing.image_size, images.shape[-1]
    whole = torch.tensor([0.0, 0.0, edge, edge, 0.0])
    for part in torch.split(images, _AT_ONCE):
        made = model.normalize(crop_and_resize(part, whole.expand(len(part), 5), side, side))
        yield made, model.shrink(made)


@torch.no_grad()
def _initialize(model: Tokenizer, generator: torch.Generator) -> None:
    """Sets the weights that depend on no images: blocks and a convolution that change nothing."""
    for name, parameter in model.named_parameters():
        if name.endswith(("positions", "positions.table", "tokens", "mask_token", "class_token")):
            nn.init.normal_(parameter, std=0.02, generator=generator)
    for module in model.modules():
        if isinstance(module, Block):
            for parameter in (*module.attention.out.parameters(), *module.mlp[2].parameters()):
                nn.init.zeros_(parameter)
    head = model.decoder.to_pixels
    assert isinstance(head, PatchHead)
    if head.convolution:
        nn.init.dirac_(head.convolution.weight)
        assert head.convolution.bias is not None
        nn.init.zeros_(head.convolution.bias)


@torch.no_grad()
def _fit_patches(
    model: Tokenizer, images: Tensor, rate_channel: bool, generator: torch.Generator, tell: Tell
) -> None:
    """Sets the other weights, except the codebook, by the principal components of patches."""
    encoder, decoder = model.encoder, model.decoder
    assert isinstance(encoder, PatchEncoder | LatentEncoder)
    assert isinstance(decoder, PatchDecoder | LatentDecoder)
    embed, head = encoder.patch_embed, decoder.to_pixels
    assert isinstance(head, PatchHead)

    tell(f"computing principal components of patches of {3 * encoder.patch_size**2:,} numbers")
    preprocessing = model.config.preprocessing
    same_places = head.patch_size == encoder.patch_size * preprocessing.pixel_scale
    made, seen = _sample_patches(_views(model, images), head.patch_size, encoder.patch_size)
    mean, basis, scale = principal_components(seen, embed.out_features, generator)
    rank = basis.shape[1]
    # The residual stream holds the components at unit variance.
    embed.weight[:rank] = (basis / scale).T
    embed.bias[:rank] = -(mean @ basis / scale)
    rank = min(
        rank, encoder.to_embedding.out_features - rate_channel, decoder.from_embedding.out_features
    )
    for linear, diagonal in (
        (encoder.to_embedding, scale[:rank]),
        (decoder.from_embedding, 1 / scale[:rank]),
    ):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        linear.weight[:rank, :rank] = torch.diag(diagonal)

    if same_places:  # the best linear map from the components to the pixels
        components = (seen - mean) @ basis / scale
        mean = made.mean(dim=0)
        weight = (made - mean).T @ components / len(made)
    else:
        mean, basis, scale = principal_components(made, head.in_features, generator)
        weight = basis * scale
    # The overlap of a patch adds nothing to its neighbours yet.
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    cells = _cells(head, 0)
    rank = min(weight.shape[1], head.in_features)
    head.weight[cells, :rank] = weight[:, :rank]
    head.bias[cells] = mean


@torch.no_grad()
def _fill_codebook(
    model: Tokenizer, images: Tensor, generator: torch.Generator, tell: Tell
) -> None:
    """Sets the codebook by k-means of the z of images."""
    assert isinstance(model.quantizer, Codebook)
    codebook = model.quantizer.codebook
    wanted = -(-_VECTORS_PER_TOKEN * len(codebook) // model.config.num_tokens)
    z = torch.cat([model.encoder(seen) for _, seen in _views(model, images[:wanted])])
    codebook.copy_(k_means(z.flatten(0, -2), len(codebook), generator, tell))


def can_warm_start_decoder(config: ModelConfig, source: ModelConfig) -> bool:
    """Whether a decoder of ``config`` can begin with the weights of one of ``source``.

    It may only have more layers, a larger overlap, or a convolution, all of which add nothing yet.
    """
    if config.decoder.kind != source.decoder.kind:
        return False
    new, old = (dict(c.decoder) for c in (config, source))
    same = all(new[name] == old[name] for name in new if name not in _FREE)
    return same and all(old[name] <= new[name] for name in _GROWS if name in new)


@torch.no_grad()
def adopt(model: Tokenizer, source: Tokenizer) -> None:
    """Copies the encoder and the codebook of ``source``, and its decoder if
    ``can_warm_start_decoder``."""
    takes_decoder = can_warm_start_decoder(model.config, source.config)
    tensors = model.state_dict()
    for name, tensor in source.state_dict().items():
        if name.startswith("decoder.") and not takes_decoder:
            continue
        if name in ("decoder.to_pixels.weight", "decoder.to_pixels.bias"):
            tensors[name].zero_()
            head = source.decoder.to_pixels
            assert isinstance(head, PatchHead)
            tensors[name][_cells(model.decoder.to_pixels, head.overlap)] = tensor
        else:
            tensors[name].copy_(tensor)


def _cells(head: object, overlap: int) -> Tensor:
    """The outputs of a ``PatchHead`` that are the pixels of a patch, and up to ``overlap`` pixels
    beyond its borders."""
    assert isinstance(head, PatchHead)
    window = head.patch_size + 2 * head.overlap
    first = head.overlap - overlap
    cells = torch.arange(3 * window**2).view(3, window, window)
    return cells[:, first : window - first, first : window - first].flatten()


def _sample_patches(
    views: Iterator[tuple[Tensor, Tensor]], *patch_sizes: int
) -> tuple[Tensor, Tensor]:
    """Enough patches of both views of images, float32 [n, D]."""
    wanted = min(_PATCHES, _NUMBERS // (3 * max(patch_sizes) ** 2))
    samples: tuple[list[Tensor], list[Tensor]] = ([], [])
    for images in views:
        for sample, pixels, patch_size in zip(samples, images, patch_sizes, strict=True):
            sample.append(patchify(pixels, patch_size).flatten(0, 1))
        if min(sum(map(len, sample)) for sample in samples) >= wanted:
            break
    made, seen = (torch.cat(sample) for sample in samples)
    return made[:wanted], seen[:wanted]


def principal_components(x: Tensor, count: int, generator: torch.Generator) -> Components:
    """The first principal components of ``x``, float32 [n, D]: at most ``count``.

    Randomized subspace iteration (Halko, Martinsson and Tropp, arXiv 0909.4061, algorithm 4.4) does
    not need all D x D products.
    """
    mean = x.mean(dim=0)
    x = x - mean
    wide = min(count + _OVERSAMPLING, *x.shape)
    basis = torch.randn(x.shape[1], wide, generator=generator)
    for _ in range(_POWER_ITERATIONS):
        basis, _ = torch.linalg.qr(x.T @ (x @ basis))
    projected = x @ basis
    variances, turn = torch.linalg.eigh(projected.T @ projected / len(x))
    variances, basis = variances.flip(0)[:count], (basis @ turn).flip(1)[:, :count]
    deviations = variances.clamp(min=float(variances[0]) * 1e-6 + 1e-12).sqrt()
    return mean, basis, deviations


def k_means(
    z: Tensor, count: int, generator: torch.Generator, tell: Tell = lambda _: None
) -> Tensor:
    """Lloyd's algorithm, [M, d] -> [count, d]; an empty cluster begins again at a random vector."""

    def draw(n: int) -> Tensor:
        picks = torch.randint(len(z), (n,), generator=generator)
        # Jitter separates two vectors that were drawn from the same place.
        noise = torch.randn(n, z.shape[1], generator=generator)
        return z[picks] + noise.to(z) * z.std() * 1e-3

    centres = draw(count)
    tell(f"fitting the codebook to {len(z):,} vectors: {_ITERATIONS} passes of k-means")
    for _ in range(_ITERATIONS):
        tokens = nearest(z, centres)
        sizes = torch.bincount(tokens, minlength=count)
        sums = torch.zeros_like(centres).index_add_(0, tokens, z)
        centres = sums / sizes.clamp(min=1).unsqueeze(1)
        empty = sizes == 0
        centres[empty] = draw(int(empty.sum()))
    return centres
