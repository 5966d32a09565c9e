"""A start that already codes pictures: principal components of patches, and k-means.

With the residual branches at zero, encoder and decoder of the patch layout are linear maps, and
the best linear code of a patch is its first d principal components. So the first gradient step
starts from classical vector quantization instead of from noise; in the latent layout, from
``places``.
"""

import dataclasses

import torch
from torch import Tensor, nn

from tokcodec.config import ModelConfig
from tokcodec.model.layers import Block, PatchHead, patchify
from tokcodec.model.quantizer import nearest
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.train.places import SHARE, give_places

_ITERATIONS = 10
_VECTORS_PER_CODE = 40


@torch.no_grad()
def initialize(model: Tokenizer, pixels: Tensor, generator: torch.Generator) -> None:
    """Sets every weight of ``model`` but the codebook, from normalized pixels [n, 3, s, s]."""
    encoder, decoder = model.encoder, model.decoder
    for name, parameter in model.named_parameters():
        if name.endswith(("positions", "tokens", "mask_token", "class_token")):
            nn.init.normal_(parameter, std=0.02, generator=generator)
    for module in model.modules():
        if isinstance(module, Block):
            for parameter in (*module.attention.out.parameters(), *module.mlp[2].parameters()):
                nn.init.zeros_(parameter)
    share = SHARE if encoder.num_latents else 1
    embed = encoder.patch_embed
    mean, basis, scale = _principal_components(patchify(pixels, encoder.patch_size))
    rank = min(basis.shape[1], embed.out_features // share)
    # The residual stream holds the components at unit variance.
    if encoder.num_latents:  # what the quarters of a token hold is not to be mixed
        nn.init.zeros_(embed.weight)
        nn.init.zeros_(embed.bias)
    embed.weight[:rank] = (basis / scale).T[:rank]
    embed.bias[:rank] = -(mean @ basis / scale)[:rank]
    rank = min(rank, encoder.to_code.out_features, decoder.from_code.out_features // share)
    for linear, diagonal in (
        (encoder.to_code, scale[:rank]),
        (decoder.from_code, 1 / scale[:rank]),
    ):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        linear.weight[:rank, :rank] = torch.diag(diagonal)

    head = decoder.to_pixels
    assert isinstance(head, PatchHead)
    mean, basis, scale = _principal_components(patchify(pixels, head.patch_size))
    rank = min(basis.shape[1], head.in_features // share)
    # The components span a patch without what it may give to its neighbours.
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    cells = _cells(head, 0)
    head.weight[cells, :rank] = (basis * scale)[:, :rank]
    head.bias[cells] = mean
    if head.convolution:
        nn.init.dirac_(head.convolution.weight)
        assert head.convolution.bias is not None
        nn.init.zeros_(head.convolution.bias)
    if encoder.num_latents:
        give_places(encoder, decoder)


@torch.no_grad()
def fill_codebook(model: Tokenizer, pixels: Tensor, generator: torch.Generator) -> None:
    """Sets the codebook from the z of normalized pixels [n, 3, s, s]."""
    codebook = model.quantizer.codebook
    wanted = -(-_VECTORS_PER_CODE * len(codebook) // model.config.num_codes)
    z = torch.cat([model.encoder(part) for part in torch.split(pixels[:wanted], 64)]).flatten(0, 1)
    codebook.copy_(k_means(z, len(codebook), generator))


def decoder_goes_on(config: ModelConfig, source: ModelConfig) -> bool:
    """Whether a decoder of ``config`` can begin as what one of ``source`` has learned.

    That is, where it only has more layers, which add nothing yet, a larger overlap, or a
    convolution.
    """
    return (
        dataclasses.replace(source.decoder, layers=config.decoder.layers) == config.decoder
        and source.decoder.layers <= config.decoder.layers
        and source.pixel_overlap <= config.pixel_overlap
        and source.pixel_convolution <= config.pixel_convolution
    )


@torch.no_grad()
def adopt(model: Tokenizer, source: Tokenizer) -> None:
    """Takes encoder and codebook of ``source``, and its decoder where ``decoder_goes_on``."""
    goes_on = decoder_goes_on(model.config, source.config)
    tensors = model.state_dict()
    for name, tensor in source.state_dict().items():
        if name.startswith("decoder.") and not goes_on:
            continue
        if name in ("decoder.to_pixels.weight", "decoder.to_pixels.bias"):
            tensors[name].zero_()
            tensors[name][_cells(model.decoder.to_pixels, source.config.pixel_overlap)] = tensor
        else:
            tensors[name].copy_(tensor)


def _cells(head: nn.Module, overlap: int) -> Tensor:
    """Outputs of a ``PatchHead`` for the pixels up to ``overlap`` beyond the borders of a patch."""
    assert isinstance(head, PatchHead)
    window = head.patch_size + 2 * head.overlap
    first = head.overlap - overlap
    cells = torch.arange(3 * window**2).view(3, window, window)
    return cells[:, first : window - first, first : window - first].flatten()


def _principal_components(patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[n, T, D] -> mean [D], basis [D, D] by falling variance, deviation along each [D]."""
    x = patches.flatten(0, 1).double()
    mean = x.mean(dim=0)
    x = x - mean
    variances, basis = torch.linalg.eigh(x.T @ x / len(x))
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
        codes = nearest(z, centres)
        sizes = torch.bincount(codes, minlength=count)
        sums = torch.zeros_like(centres).index_add_(0, codes, z)
        centres = sums / sizes.clamp(min=1).unsqueeze(1)
        empty = sizes == 0
        centres[empty] = draw(int(empty.sum()))
    return centres
