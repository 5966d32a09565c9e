"""The Fréchet distance between features of originals and of decoded images (Heusel et al. 2017,
arXiv 1706.08500), in memory that does not grow with the number of images."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Features = NDArray[np.float32]  # of one image

_BLOCK = 64  # vectors that are added up at once


@dataclass(frozen=True)
class Gaussian:
    """The mean and the covariance of feature vectors."""

    mean: Array
    covariance: Array

    @cached_property
    def root(self) -> Array:
        """The symmetric square root of the covariance."""
        values, vectors = np.linalg.eigh(self.covariance)
        root: Array = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
        return root

    def distance(self, other: "Gaussian") -> float:
        """The Fréchet distance: 0 for equal Gaussians."""
        # This matrix is symmetric, and has the eigenvalues of the product of the covariances.
        product = self.root @ other.covariance @ self.root
        overlap = np.sqrt(np.linalg.eigvalsh(product).clip(min=0)).sum()
        traces = np.trace(self.covariance) + np.trace(other.covariance)
        return float(max(np.square(self.mean - other.mean).sum() + traces - 2 * overlap, 0))


class FeatureSums:
    """Adds up feature vectors and their products, in float64; 34 MB for vectors of 2,048."""

    def __init__(self, length: int) -> None:
        self.count = 0
        self._sum: Array = np.zeros(length)
        self._products: Array = np.zeros((length, length))
        self._block: list[Features] = []

    def add(self, features: Features) -> None:
        self.count += 1
        self._block.append(features)
        if len(self._block) == _BLOCK:
            self._flush()

    def gaussian(self) -> Gaussian | None:
        """None if there are fewer than two vectors, which have no covariance."""
        if self.count < 2:
            return None
        self._flush()
        mean = self._sum / self.count
        products = self._products - self.count * np.outer(mean, mean)
        return Gaussian(mean, products / (self.count - 1))

    def _flush(self) -> None:
        if self._block:
            block = np.stack(self._block).astype(np.float64)
            self._sum += block.sum(0)
            self._products += block.T @ block
            self._block.clear()
