"""3x3 convolutions with a quarter of the multiplications, for CPUs.

Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray, arXiv 1509.09308, section 4): a tile of
4x4 results needs 36 products per pair of channels; the direct sum, which torch computes on CPUs,
needs 144. The results differ by rounding errors.

A decode with LlamaGen VQ-16's decoder, 256x256 pixels on one thread, takes 4.6 s of processor time
instead of 8.2 s: 1.76 times as fast (tests/benchmarks/winograd.py).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# The matrix G of the paper, section 4.2: 6 numbers for the 3 of a filter along one axis.
_FILTER = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
# Offsets of the 6 inputs of a tile, and the step to the next tile: of a plain image, and of one in
# which every pixel counts twice.
_PLAIN = ((0, 1, 2, 3, 4, 5), 4)
_DOUBLED = ((0, 1, 1, 2, 2, 3), 2)
_STRIP = 128  # tiles at once, which fit in the caches of a CPU


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, doubled: bool = False) -> Tensor:
    """Convolve one image [1, C, H, W], channels last, to [1, K, H, W], with a padding of one zero.

    With ``doubled``, convolve the image at twice its size, with each pixel repeated, to
    [1, K, 2H, 2W]. The height and width of the result must be multiples of 4.
    """
    offsets, step = _DOUBLED if doubled else _PLAIN
    channels, height, width = x.shape[1:]
    rows, columns = height // step, width // step  # of tiles
    outputs = len(weight)
    filters = _transformed_filters(weight)  # [36, C, K]
    at_once = min(rows, max(1, _STRIP // columns))
    # All strips share one set of buffers: allocating new ones would take as long as the sums.
    padded = x.new_zeros(at_once * step + 2, width + 2, channels)
    tall = x.new_empty(6, at_once, width + 2, channels)
    tiles = x.new_empty(6, 6, at_once, columns, channels)
    products = x.new_empty(6, 6, at_once, columns, outputs)
    wide = x.new_empty(4, 6, at_once, columns, outputs)
    y = x.new_empty(1, 4 * rows, 4 * columns, outputs)
    for strip in range(0, rows, at_once):
        first = min(strip, rows - at_once)  # the last one may overlap the one before
        above, below = first > 0, first + at_once < rows
        if not below:
            padded[-1] = 0
        padded[not above : len(padded) - (not below), 1:-1] = x[
            0, :, first * step - above : (first + at_once) * step + below
        ].permute(1, 2, 0)
        _transform_inputs([padded[o : o + step * at_once : step][:at_once] for o in offsets], tall)
        _transform_inputs([tall[:, :, o::step][:, :, :columns] for o in offsets], tiles)
        torch.bmm(tiles.view(36, -1, channels), filters, out=products.view(36, -1, outputs))
        _transform_outputs(products, wide)
        out = y[0, 4 * first : 4 * (first + at_once)].view(at_once, 4, columns, 4, outputs)
        _transform_outputs(wide.transpose(0, 1), out.permute(1, 3, 0, 2, 4))
    if bias is not None:
        y += bias
    return y.permute(0, 3, 1, 2)


def _transformed_filters(weight: Tensor) -> Tensor:
    """[K, C, 3, 3] -> [36, C, K]: G g Gᵀ, the width's index before the height's."""
    g = weight.new_tensor(_FILTER)
    outputs, channels = weight.shape[:2]
    taps = weight.permute(3, 2, 1, 0).reshape(3, -1)  # [width, height·C·K]
    taps = (g @ taps).view(6, 3, -1)
    return (g @ taps).view(36, channels, outputs)


def _transform_inputs(d: Sequence[Tensor], out: Tensor) -> None:
    """Compute ``out`` [6, ...] = Bᵀ d, with common terms of its rows computed once."""
    a, b = torch.sub(d[4], d[2], alpha=4), torch.sub(d[3], d[1], alpha=4)
    torch.add(a, b, out=out[1])
    torch.sub(a, b, out=out[2])
    torch.sub(d[4], d[2], out=a)
    torch.sub(d[3], d[1], out=b)
    torch.add(a, b, alpha=2, out=out[3])
    torch.sub(a, b, alpha=2, out=out[4])
    torch.sub(d[4], d[2], alpha=5, out=a)
    torch.add(a, d[0], alpha=4, out=out[0])
    torch.sub(d[5], d[3], alpha=5, out=b)
    torch.add(b, d[1], alpha=4, out=out[5])


def _transform_outputs(m: Tensor, out: Tensor) -> None:
    """Compute ``out`` [4, ...] = Aᵀ m of m [6, ...], with common terms computed once."""
    near_sum, near_difference = m[1] + m[2], m[1] - m[2]
    far_sum, far_difference = m[3] + m[4], m[3] - m[4]
    torch.add(near_difference, far_difference, alpha=2, out=out[1])
    torch.add(near_sum, far_sum, alpha=4, out=out[2])
    torch.add(near_sum.add_(m[0]), far_sum, out=out[0])
    torch.add(near_difference.add_(m[5]), far_difference, alpha=8, out=out[3])
