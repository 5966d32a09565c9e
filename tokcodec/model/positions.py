"""Interpolate position embeddings from one grid to another, for torch and NumPy."""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_SHARPNESS = -0.75  # of the cubic convolution, as in torch's bicubic interpolation
_MEDIAN = 6.0  # log2 of a typical number of tokens, for which the scale vector adds nothing


@lru_cache(256)
def interpolation(source: int, target: int) -> NDArray[np.float32]:
    """The matrix [target, source] of bicubic interpolation of ``source`` values to ``target``.

    As ``torch.nn.functional.interpolate`` with ``mode="bicubic", align_corners=False``: pixel
    centres are aligned, and edge values are repeated outside the grid (Keys, IEEE Transactions on
    Acoustics, Speech, and Signal Processing 29(6), 1981).
    """
    centres = (np.arange(target) + 0.5) * source / target - 0.5
    first = np.floor(centres).astype(int)
    matrix = np.zeros((target, source))
    for tap in range(-1, 3):
        distance = np.abs(centres - first - tap)
        near = (_SHARPNESS + 2) * distance**3 - (_SHARPNESS + 3) * distance**2 + 1
        far = _SHARPNESS * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        weights = np.where(distance <= 1, near, far)
        np.add.at(matrix, (np.arange(target), (first + tap).clip(0, source - 1)), weights)
    return matrix.astype(np.float32)


def log_size(rows: int, columns: int) -> float:
    """The factor of the scale vector for a grid of this size."""
    return math.log2(rows * columns) - _MEDIAN
