"""Speed at the size of TiTok-S-128, random weights: python tests/benchmarks/published.py

The encoder beside the best float32 matrix product of this machine, and the MaskGIT-VQGAN decoder
beside the same layers written plainly, side by side, with how far their pictures differ.
"""

import torch
import torch.nn.functional as F
from speed import block_operations, matrix_product, seconds
from torch import Tensor

from tokcodec.config import (
    ModelConfig,
    PreprocessingConfig,
    QuantizerConfig,
    VitConfig,
    VqganConfig,
)
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.model.vqgan import Level, ResidualBlock, VqganHead

PART = VitConfig(width=512, layers=8, heads=8, patch_size=16, class_token=True, outer_norms=True)
S128 = ModelConfig(
    layout="latent",
    encoder=PART,
    decoder=PART,
    quantizer=QuantizerConfig(codebook_size=4096, code_dim=12, l2_normalize=True),
    preprocessing=PreprocessingConfig(mean=(0, 0, 0), std=(1, 1, 1)),
    num_latents=128,
    legacy_latents=True,
    vqgan=VqganConfig(),
)


def main() -> None:
    torch.manual_seed(0)
    model = Tokenizer(S128).eval().requires_grad_(False)
    for buffer in model.buffers():
        buffer.normal_()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32")
    with torch.inference_mode():
        encoder(model)
        vqgan(model)


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
            f"encoder, batch {batch_size}: {rate:.2f} pictures/s, {shares[-1]:.0%} of the best "
            f"matrix product ({peak / 1e9:.0f} GFLOP/s)"
        )
    print(f"encoder, best share: {max(shares):.0%}")


def encoder_operations(config: ModelConfig) -> int:
    """Multiplications and additions of the matrix products in the whole encoder, a picture."""
    part = config.encoder
    patches = config.grid(part) ** 2
    tokens = part.class_token + patches + config.num_latents
    embed = 2 * patches * 3 * part.patch_size**2 * part.width
    to_code = 2 * config.num_latents * part.width * config.quantizer.code_dim
    return embed + block_operations(part, tokens) + to_code


def vqgan(model: Tokenizer) -> None:
    head = model.decoder.to_pixels
    assert isinstance(head, VqganHead)
    tokens = torch.randn(2, 256, 512)
    ours, theirs = [], []
    for _ in range(3):  # in turns, because the speed of a machine drifts
        theirs.append(seconds(lambda: plain(head, tokens), rounds=1))
        ours.append(seconds(lambda: head(tokens), rounds=1))
    a, b = plain(head, tokens), head(tokens)
    scale = 1 / float(a.std())  # random weights have no range of their own
    levels = (((a - b) * scale * 255).abs()).max()
    ratio = min(theirs) / min(ours)
    print(
        f"MaskGIT-VQGAN: {2 / min(ours):.2f} pictures/s, plain {2 / min(theirs):.2f}: "
        f"{ratio:.2f} times as fast; largest difference {levels:.4f} levels of 255"
    )


def plain(head: VqganHead, x: Tensor) -> Tensor:
    """The same layers as they are published: channels first, torch's own convolutions."""

    def convolution(layer: torch.nn.Conv2d, y: Tensor) -> Tensor:
        return F.conv2d(y, layer.weight.contiguous(), layer.bias, padding=layer.padding)

    def block(layer: ResidualBlock, y: Tensor) -> Tensor:
        z = convolution(layer.conv1, F.silu(layer.norm1(y)))
        z = convolution(layer.conv2, F.silu(layer.norm2(z)))
        return z + (convolution(layer.shortcut, z) if layer.shortcut else y)

    grid = 16
    x = head.to_proxy(x).softmax(dim=-1) @ head.proxy_codebook
    x = x.transpose(1, 2).reshape(len(x), -1, grid, grid)
    x = convolution(head.enter, x)
    for layer in head.middle:
        x = block(layer, x)
    for level in head.levels:
        assert isinstance(level, Level)
        for layer in level.blocks:
            x = block(layer, x)
        if level.enlarge:
            x = convolution(level.enlarge, F.interpolate(x, scale_factor=2.0))
    return convolution(head.leave, F.silu(head.norm(x)))


if __name__ == "__main__":
    main()
