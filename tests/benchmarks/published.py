"""Speed at the sizes of published models, random weights: python tests/benchmarks/published.py

TiTok-S-128's encoder beside the best float32 matrix product of this machine; its MaskGIT-VQGAN
decoder, LlamaGen VQ-16's encoder and decoder, and MoVQGAN's decoder with its conditioned norms,
beside that and beside the same layers written plainly, side by side, with how far their results
differ; and VAR's quantizer of ten scales beside the same steps written plainly.
"""

import math
from collections.abc import Iterable
from copy import deepcopy

import torch
import torch.nn.functional as F
from speed import block_operations, encoder_tokens, matrix_product, seconds
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.convolutional import ConvolutionalDecoderConfig, ConvolutionalEncoderConfig
from tokcodec.config.parts import ModelShape
from tokcodec.config.quantizers import CodebookConfig, ResidualConfig
from tokcodec.config.vit import LatentEncoderConfig, ProxyDecoderConfig, VqganConfig
from tokcodec.model.convolutional import (
    Attention,
    Decoder,
    DecoderLevel,
    Encoder,
    EncoderLevel,
    Norm,
    ResidualBlock,
    SpatialNorm,
)
from tokcodec.model.residual import Residual
from tokcodec.model.tokenizer import Tokenizer

SIZE = {
    "width": 512,
    "layers": 8,
    "heads": 8,
    "patch_size": 16,
    "class_token": True,
    "outer_norms": True,
}
S128 = ModelConfig(
    encoder=LatentEncoderConfig(**SIZE, num_latents=128, legacy_latents=True),
    quantizer=CodebookConfig(codebook_size=4096, embedding_dim=12, metric="cosine"),
    decoder=ProxyDecoderConfig(**SIZE, vqgan=VqganConfig()),
    preprocessing=PreprocessingConfig(mean=(0, 0, 0), std=(1, 1, 1)),
)
LEVELS = {
    "channels": 128,
    "multipliers": (1, 1, 2, 2, 4),
    "attention": (4,),
    "middle_attention": True,
    "embedding_channels": 256,
}
VQ16 = ModelConfig(
    encoder=ConvolutionalEncoderConfig(**LEVELS, blocks=2),
    quantizer=CodebookConfig(codebook_size=16384, embedding_dim=8, metric="cosine"),
    decoder=ConvolutionalDecoderConfig(**LEVELS, blocks=3),
)
MOVQ_LEVELS = {
    "channels": 128,
    "multipliers": (1, 2, 2, 4),
    "attention": (3,),
    "middle_attention": True,
    "embedding_channels": 4,
}
MOVQ = ModelConfig(
    encoder=ConvolutionalEncoderConfig(**MOVQ_LEVELS, blocks=2),
    quantizer=CodebookConfig(codebook_size=16384, embedding_dim=4),
    decoder=ConvolutionalDecoderConfig(**MOVQ_LEVELS, blocks=3, norm="spatial"),
)
VAR = ResidualConfig(
    stage=CodebookConfig(codebook_size=4096, embedding_dim=32),
    scales=(1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    filters=(0, 0, 1, 1, 1, 2, 2, 3, 3, 3),
)
TURNS = 3


def main() -> None:
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32")
    s128, vq16, movq = (
        Tokenizer(config).eval().requires_grad_(False) for config in (S128, VQ16, MOVQ)
    )
    with torch.inference_mode():
        encoder(s128)
        beside_plain("MaskGIT-VQGAN decoder", s128.decoder.to_pixels, torch.randn(2, 16, 16, 256))
        beside_plain("VQ-16 encoder", vq16.encoder, 2 * torch.rand(2, 3, 256, 256) - 1)
        tokens = torch.randint(16384, (2, 16, 16))
        vq16.quantizer.codebook.normal_()
        beside_plain("VQ-16 decoder", vq16.decoder, vq16.quantizer.lookup(tokens))
        beside_plain("MoVQGAN decoder", movq.decoder, torch.randn(2, 32, 32, 4))
        scales()


def encoder(model: Tokenizer) -> None:
    operations = encoder_operations(S128)
    shares = []
    for batch_size in (1, 2, 4, 8, 16, 32):
        pixels = torch.rand(batch_size, 3, 256, 256)
        peak = matrix_product()
        rate = batch_size / seconds(lambda: model.encoder(pixels))  # noqa: B023
        peak = max(peak, matrix_product())
        shares.append(rate * operations / peak)
        print(
            f"encoder, batch {batch_size}: {rate:.2f} images/s, {shares[-1]:.0%} of the best "
            f"matrix product ({peak / 1e9:.0f} GFLOP/s)"
        )
    print(f"encoder, best share: {max(shares):.0%}")


def encoder_operations(config: ModelConfig) -> int:
    """Multiplications and additions of the matrix products in the whole encoder, an image."""
    part, side = config.encoder, config.preprocessing.model_size
    embed = 2 * 3 * side**2 * part.width
    to_embedding = 2 * config.num_tokens * part.width * config.quantizer.embedding_dim
    return embed + block_operations(part, encoder_tokens(part, side)) + to_embedding


def beside_plain(name: str, network: Encoder | Decoder, x: Tensor) -> None:
    """Prints the speed of a convolutional network on its input x beside that of ``plain``."""
    ours = deepcopy(network).to(memory_format=torch.channels_last)  # as a checkpoint is loaded
    # A decoder's own: that of one with proxies begins at its tokens.
    forward = Decoder.forward if isinstance(ours, Decoder) else Encoder.forward
    with FlopCounterMode(display=False) as counter:
        a = plain(network, x)
    operations = counter.get_total_flops() / len(x)
    b = forward(ours, x)
    slow, fast, peak = math.inf, math.inf, 0.0
    for _ in range(TURNS):  # in turns, because the speed of a machine drifts
        peak = max(peak, matrix_product())
        slow = min(slow, seconds(lambda: plain(network, x), rounds=1))
        fast = min(fast, seconds(lambda: forward(ours, x), rounds=1))
    ours_rate, plain_rate = len(x) / fast, len(x) / slow
    difference = float((a - b).abs().max() / a.std())  # random weights have no range of their own
    unit = "deviations of z"
    if isinstance(network, Decoder):
        difference, unit = 255 * difference, "levels of 255 a deviation"
    print(
        f"{name}: {ours_rate:.2f} images/s, plain {plain_rate:.2f}: {slow / fast:.2f} times as "
        f"fast; {ours_rate * operations / peak:.0%} of the best matrix product "
        f"({operations / 1e9:.0f} GFLOP an image, {peak / 1e9:.0f} GFLOP/s), plain "
        f"{plain_rate * operations / peak:.0%}; largest difference {difference:.2g} {unit}"
    )


def scales() -> None:
    """Prints the speed of VAR's quantizer beside ``plain_scales``."""
    ours = Residual(VAR, ModelShape(256, (16, 16), 32)).requires_grad_(False)
    ours.stage.codebook.normal_()
    z = torch.randn(2, 16, 16, 32)
    same = (ours.tokens(z) == plain_scales(ours, z)).float().mean()
    slow, fast = math.inf, math.inf
    for _ in range(TURNS):
        slow = min(slow, seconds(lambda: plain_scales(ours, z)))
        fast = min(fast, seconds(lambda: ours.tokens(z)))
    print(
        f"VAR quantizer: {len(z) / fast:.1f} images/s, plain {len(z) / slow:.1f}: "
        f"{slow / fast:.2f} times as fast; {same:.1%} of the tokens are the same"
    )


def plain_scales(layer: Residual, z: Tensor) -> Tensor:
    """The same steps as they are published: distances in float32, one scale after the other."""
    rest, codebook, tokens = z.permute(0, 3, 1, 2), layer.stage.codebook, []
    for number, side in enumerate(layer.scales):
        rows = F.interpolate(rest, side, mode="area").permute(0, 2, 3, 1).reshape(-1, z.shape[3])
        squares = rows.square().sum(dim=1, keepdim=True) + codebook.square().sum(dim=1)
        tokens.append((squares - 2 * rows @ codebook.T).argmin(dim=1).view(len(z), -1))
        vectors = codebook[tokens[-1]].mT.reshape(len(z), -1, side, side)
        enlarged = F.interpolate(vectors, rest.shape[2:], mode="bicubic")
        rest = rest - layer.filters[layer.filter_of_scale[number]](enlarged)
    return torch.cat(tokens, dim=1)


def plain(layer: nn.Module, x: Tensor, z_q: Tensor | None = None) -> Tensor:
    """The same layers as they are published: channels first, torch's own operations, one by one."""
    match layer:
        case Encoder():
            return _in_turn(layer.children(), x).permute(0, 2, 3, 1)
        case Decoder():
            names = ("from_embedding", "enter", "middle", "levels", "norm", "leave")
            x = x.permute(0, 3, 1, 2).contiguous()
            return _in_turn((getattr(layer, name) for name in names), x, x)
        case DecoderLevel() if layer.enlarge:
            x = F.interpolate(plain(layer.blocks, x, z_q), scale_factor=2.0)
            return _convolution(layer.enlarge, x)
        case EncoderLevel() if layer.reduce:
            return _convolution(layer.reduce, F.pad(plain(layer.blocks, x), (0, 1, 0, 1)))
        case ResidualBlock():
            y = _in_turn((layer.norm1, layer.conv1, layer.norm2, layer.conv2), x, z_q)
            start = y if layer.from_output else x
            return y + (_convolution(layer.shortcut, start) if layer.shortcut else x)
        case Attention():
            q, k, v = _convolution(layer.qkv, _norm(layer.norm, x, z_q)).flatten(2).chunk(3, dim=1)
            weights = (q.mT @ k / math.sqrt(q.shape[1])).softmax(dim=-1)  # [B, places, places]
            return x + _convolution(layer.out, (v @ weights.mT).view_as(x))
        case Norm() | SpatialNorm():
            return F.silu(_norm(layer, x, z_q))
        case nn.Conv2d():
            return _convolution(layer, x)
    return _in_turn(layer.children(), x, z_q)


def _in_turn(layers: Iterable[nn.Module], x: Tensor, z_q: Tensor | None = None) -> Tensor:
    for layer in layers:
        x = plain(layer, x, z_q)
    return x


def _norm(layer: Norm | SpatialNorm, x: Tensor, z_q: Tensor | None = None) -> Tensor:
    if isinstance(layer, SpatialNorm):
        z_q = F.interpolate(z_q, x.shape[2:])
        scale, shift = _convolution(layer.scale, z_q), _convolution(layer.shift, z_q)
        return _norm(layer.norm, x) * scale + shift
    return F.group_norm(x, layer.num_groups, layer.weight, layer.bias, layer.eps)


def _convolution(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding)


if __name__ == "__main__":
    main()
