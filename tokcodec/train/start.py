"""A start that already codes images: principal components of patches, and k-means.

With the residual branches at zero, encoder and decoder of the patch layout are linear maps, and
the best linear code of a patch is its first d principal components. So the first gradient step
starts from classical vector quantization instead of from noise; latent
tokens start at random.
"""

import dataclasses
from collections.abc import Iterator

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
from tokcodec.train.batches import cut

_IMAGES = 8192
_AT_ONCE = 64
_PRODUCTS = (
    1 << 42
)  # of pairs of a patch's numbers: so many are enough, and done in a minute or two
_ITERATIONS = 10
_VECTORS_PER_TOKEN = 40
# Of a decoder, what may grow, or change without a change of its tensors, when it goes on.
_GROWS = ("layers", "pixel_overlap", "pixel_convolution")
_FREE = (*_GROWS, "prefix_tokens")


def begin(
    model: Tokenizer,
    images: NDArray[np.uint8],
    seed: int,
    source: checkpoint.Header | None = None,
) -> None:
    """Sets every weight of ``model``, which is on the host: by principal components and k-means of
    training images uint8 [n, 3, T, T], or as those of ``source`` where these can go on."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(images), generator=generator)[:_IMAGES].sort().values
    _initialize(model, generator)
    if not (source and can_warm_start_decoder(model.config, source.config)):
        some = torch.from_numpy(images[chosen.numpy()])
        _fit_patches(model, some)
        if not source:
            _fill_codebook(model, some, generator)
    if source:
        adopt(model, load(source, torch.device("cpu")))


def _seen(model: Tokenizer, images: Tensor) -> Iterator[Tensor]:
    """Whole images, uint8 [n, 3, T, T], as the encoder sees them, some at a time."""
    side = model.config.preprocessing.model_size
    edge = images.shape[-1]
    whole = torch.tensor([0.0, 0.0, edge, edge, 0.0])
    for part in torch.split(images, _AT_ONCE):
        yield model.normalize(cut(part, whole.expand(len(part), 5), side, side))


@torch.no_grad()
def _initialize(model: Tokenizer, generator: torch.Generator) -> None:
    """Sets what no images are needed for: blocks and a convolution that change nothing."""
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
def _fit_patches(model: Tokenizer, images: Tensor) -> None:
    """Sets the rest, but the codebook, by the principal components of images as in ``_seen``."""
    encoder, decoder = model.encoder, model.decoder
    assert isinstance(encoder, PatchEncoder | LatentEncoder)
    assert isinstance(decoder, PatchDecoder | LatentDecoder)
    embed = encoder.patch_embed
    components = _principal_components(_seen(model, images), encoder.patch_size)
    mean, basis, scale = components
    rank = min(basis.shape[1], embed.out_features)
    # The residual stream holds the components at unit variance.
    embed.weight[:rank] = (basis / scale).T[:rank]
    embed.bias[:rank] = -(mean @ basis / scale)[:rank]
    rank = min(rank, encoder.to_embedding.out_features, decoder.from_embedding.out_features)
    for linear, diagonal in (
        (encoder.to_embedding, scale[:rank]),
        (decoder.from_embedding, 1 / scale[:rank]),
    ):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        linear.weight[:rank, :rank] = torch.diag(diagonal)

    head = decoder.to_pixels
    assert isinstance(head, PatchHead)
    if head.patch_size != encoder.patch_size:
        components = _principal_components(_seen(model, images), head.patch_size)
    mean, basis, scale = components
    rank = min(basis.shape[1], head.in_features)
    # The components span a patch without what it may give to its neighbours.
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    cells = _cells(head, 0)
    head.weight[cells, :rank] = (basis * scale)[:, :rank]
    head.bias[cells] = mean


@torch.no_grad()
def _fill_codebook(model: Tokenizer, images: Tensor, generator: torch.Generator) -> None:
    """Sets the codebook from the z of images as in ``_seen``."""
    assert isinstance(model.quantizer, Codebook)
    codebook = model.quantizer.codebook
    wanted = -(-_VECTORS_PER_TOKEN * len(codebook) // model.config.num_tokens)
    z = torch.cat([model.encoder(pixels) for pixels in _seen(model, images[:wanted])])
    codebook.copy_(k_means(z.flatten(0, -2), len(codebook), generator))


def can_warm_start_decoder(config: ModelConfig, source: ModelConfig) -> bool:
    """Whether a decoder of ``config`` can begin as what one of ``source`` has learned.

    That is, where it only has more layers, which add nothing yet, a larger overlap, or a
    convolution.
    """
    if config.decoder.kind != source.decoder.kind:
        return False
    new, old = (dataclasses.asdict(c.decoder) for c in (config, source))
    same = all(new[name] == old[name] for name in new if name not in _FREE)
    return same and all(old[name] <= new[name] for name in _GROWS if name in new)


@torch.no_grad()
def adopt(model: Tokenizer, source: Tokenizer) -> None:
    """Takes encoder and codebook of ``source``, and its decoder where
    ``can_warm_start_decoder``."""
    goes_on = can_warm_start_decoder(model.config, source.config)
    tensors = model.state_dict()
    for name, tensor in source.state_dict().items():
        if name.startswith("decoder.") and not goes_on:
            continue
        if name in ("decoder.to_pixels.weight", "decoder.to_pixels.bias"):
            tensors[name].zero_()
            head = source.decoder.to_pixels
            assert isinstance(head, PatchHead)
            tensors[name][_cells(model.decoder.to_pixels, head.overlap)] = tensor
        else:
            tensors[name].copy_(tensor)


def _cells(head: object, overlap: int) -> Tensor:
    """Outputs of a ``PatchHead`` for the pixels up to ``overlap`` beyond the borders of a patch."""
    assert isinstance(head, PatchHead)
    window = head.patch_size + 2 * head.overlap
    first = head.overlap - overlap
    cells = torch.arange(3 * window**2).view(3, window, window)
    return cells[:, first : window - first, first : window - first].flatten()


def _principal_components(
    images: Iterator[Tensor], patch_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Of patches of D numbers of pixels [n, 3, s, s], part by part: mean [D], basis [D, D] by
    falling variance, deviation along each [D]."""
    count, sums, products = 0, torch.zeros(()), torch.zeros(())
    for pixels in images:
        x = patchify(pixels, patch_size).flatten(0, 1).double()
        count += len(x)
        sums, products = sums.to(x) + x.sum(dim=0), products.to(x) + x.T @ x
        if count * x.shape[1] ** 2 > _PRODUCTS:
            break
    mean = sums / count
    variances, basis = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    variances, basis = variances.flip(0), basis.flip(1)
    deviations = variances.clamp(min=float(variances[0]) * 1e-6 + 1e-12).sqrt()
    return mean.float(), basis.float(), deviations.float()


def k_means(z: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Lloyd's algorithm, [M, d] -> [count, d]; an empty cluster starts again at a random vector."""

    def draw(n: int) -> Tensor:
        picks = torch.randint(len(z), (n,), generator=generator)
        # Jitter keeps two vectors apart that were drawn from the same place.
        noise = torch.randn(n, z.shape[1], generator=generator)
        return z[picks] + noise.to(z) * z.std() * 1e-3

    centres = draw(count)
    for _ in range(_ITERATIONS):
        tokens = nearest(z, centres)
        sizes = torch.bincount(tokens, minlength=count)
        sums = torch.zeros_like(centres).index_add_(0, tokens, z)
        centres = sums / sizes.clamp(min=1).unsqueeze(1)
        empty = sizes == 0
        centres[empty] = draw(int(empty.sum()))
    return centres
