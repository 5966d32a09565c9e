"""Run models of the kind ``patch`` in NumPy, which loads in a tenth of the time of torch.

It computes the same as ``model.vit`` and ``model.codebook``. Tokens equal those of torch, except
where rounding decides between two vectors; pixels differ by at most one level of 255.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tokcodec.checkpoint import Header
from tokcodec.config import ModelConfig
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.config.vit import PatchDecoderConfig, PatchEncoderConfig, VitConfig
from tokcodec.model.positions import interpolation, log_size
from tokcodec.model.runtime import Dtype, Pixels, Tokens, read_weights, runs_without_torch

T = TypeVar("T")
R = TypeVar("R")
Floats = NDArray[Any]  # float32
Shapes = dict[str, tuple[int, ...]]

_NORM_EPSILON = np.float32(1e-5)  # of torch's LayerNorm
_UNIT_EPSILON = 1e-12  # of torch's normalize
_QUERIES = 1024  # tokens whose attention is computed at once
_SCORES = 1 << 20  # scores of codebook vectors that are in memory at once
_UNIT_ROUNDOFF = 2.0**-24  # of float32
# Eigen's rational approximation of erf (unsupported/Eigen/SpecialFunctions), highest power of x²
# first; above 4, erf is 1 in float32.
_ERF_OVER = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_ERF_UNDER = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)


class NumpyRuntime:
    """Run a model on one image at a time, on the CPU, in float32."""

    device = "cpu"
    dtype: Dtype = "float32"
    batch_size = 1

    def __init__(self, config: ModelConfig, tensors: Mapping[str, NDArray[Any]]) -> None:
        assert isinstance(config.encoder, PatchEncoderConfig)
        assert isinstance(config.quantizer, CodebookConfig)
        assert isinstance(config.decoder, PatchDecoderConfig)
        self._config, self._metric = config, config.quantizer.metric
        self._encoder = _Encoder(config.encoder, _below("encoder.", tensors))
        self._decoder = _Decoder(config.decoder, _below("decoder.", tensors))
        codebook = tensors["quantizer.codebook"].astype(np.float32)
        self._codebook = _unit(codebook) if self._metric == "cosine" else codebook
        preprocessing = config.preprocessing
        self._mean = np.array(preprocessing.mean, np.float32)
        self._std = np.array(preprocessing.std, np.float32)

    @classmethod
    def load(cls, header: Header) -> "NumpyRuntime":
        """Load a checkpoint.

        Raises:
            CheckpointError: as ``read_weights``.
            ValueError: the model is of another kind.
        """
        if not runs_without_torch(header.config):
            raise ValueError(f"{header.name}: only models of the kind patch run without torch")
        return cls(header.config, read_weights(header, _shapes(header.config)))

    def encode(self, pixels: Pixels, scale: int) -> Tokens:
        return np.stack([self._tokens(_average(image, scale)) for image in pixels])

    def decode(self, tokens: Tokens) -> Pixels:
        return np.stack([self._pixels(grid) for grid in tokens])

    def lookup(self, tokens: Tokens) -> Floats:
        vectors: Floats = self._codebook[tokens]
        return vectors

    def quantize(self, z: Floats) -> Tokens:
        rows = z.reshape(-1, z.shape[-1])
        if self._metric == "cosine":
            rows = _unit(rows)
        return best(rows, self._codebook, dot=self._metric == "dot").reshape(z.shape[:-1])

    def map(self, work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
        """Run in the caller's thread, because the matrix products use all cores."""
        del workers
        return map(work, items)

    def _tokens(self, image: Floats) -> Tokens:
        return self.quantize(self._encoder((image - self._mean) / self._std))

    def _pixels(self, tokens: Tokens) -> Pixels:
        levels = (self._decoder(self.lookup(tokens)) * self._std + self._mean).clip(0, 1) * 255
        if self._config.rounding == "nearest":
            levels = levels.round()
        return levels.astype(np.uint8)


class _Network:
    """A vision transformer with float32 weights."""

    def __init__(self, config: VitConfig, tensors: Mapping[str, NDArray[Any]]) -> None:
        self._config = config
        self.tensors = {name: array.astype(np.float32) for name, array in tensors.items()}

    def linear(self, name: str, x: Floats) -> Floats:
        y: Floats = x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]
        return y

    def norm(self, name: str, x: Floats) -> Floats:
        x = x - x.mean(axis=-1, keepdims=True)
        x /= np.sqrt((x * x).mean(axis=-1, keepdims=True) + _NORM_EPSILON)
        y: Floats = x * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]
        return y

    def positions(self, rows: int, columns: int) -> Floats:
        """Embeddings [rows · columns, width], as in ``model.vit.GridPositions``."""
        table, scale = self.tensors["positions.table"], self.tensors["positions.scale"]
        down, across = (interpolation(len(table), size) for size in (rows, columns))
        spread = np.einsum("rs,std,ct->rcd", down, table, across, optimize=True)
        embeddings: Floats = spread.reshape(rows * columns, -1)
        embeddings += scale * np.float32(log_size(rows, columns))
        return embeddings

    def trunk(self, x: Floats) -> Floats:
        """Tokens [T, width] -> the output of the last block, [T, width]."""
        config = self._config
        if config.class_token:
            x = np.concatenate([self.tensors["class_token"][None], x])
        if config.outer_norms:
            x = self.norm("norm_in", x)
        for number in range(config.layers):
            block = f"blocks.{number}"
            x = x + self._attention(block, self.norm(f"{block}.norm_attention", x))
            hidden = gelu(self.linear(f"{block}.mlp.0", self.norm(f"{block}.norm_mlp", x)))
            x = x + self.linear(f"{block}.mlp.2", hidden)
        if config.class_token:
            x = x[1:]
        return self.norm("norm_out", x) if config.outer_norms else x

    def _attention(self, block: str, x: Floats) -> Floats:
        heads = self.linear(f"{block}.attention.qkv", x)
        q, k, v = heads.reshape(len(x), 3, self._config.heads, -1).transpose(1, 2, 0, 3)
        q = q / np.float32(math.sqrt(q.shape[-1]))
        attended = np.empty_like(q)
        for start in range(0, len(x), _QUERIES):
            part = slice(start, start + _QUERIES)
            weights = q[:, part] @ k.transpose(0, 2, 1)
            weights = np.exp(weights - weights.max(axis=-1, keepdims=True))
            attended[:, part] = weights / weights.sum(axis=-1, keepdims=True) @ v
        joined = attended.transpose(1, 0, 2).reshape(x.shape)
        return self.linear(f"{block}.attention.out", joined)


class _Encoder(_Network):
    def __call__(self, pixels: Floats) -> Floats:
        """Normalized pixels [h, w, 3] -> z [rows, columns, d]."""
        side = self._config.patch_size
        rows, columns = (edge // side for edge in pixels.shape[:2])
        patches = pixels.reshape(rows, side, columns, side, 3).transpose(0, 2, 4, 1, 3)
        x = self.linear("patch_embed", patches.reshape(rows * columns, -1))
        x = self.trunk(x + self.positions(rows, columns))
        return self.linear("to_embedding", x).reshape(rows, columns, -1)


class _Decoder(_Network):
    def __init__(self, config: PatchDecoderConfig, tensors: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(config, tensors)
        self._overlap = config.pixel_overlap
        self._convolves = config.pixel_convolution

    def __call__(self, z_q: Floats) -> Floats:
        """z_q [rows, columns, d] -> normalized pixels [h, w, 3]."""
        rows, columns, dim = z_q.shape
        x = self.linear("from_embedding", z_q.reshape(-1, dim)) + self.positions(rows, columns)
        pixels = self._unpatchify(self.linear("to_pixels", self.trunk(x)), rows, columns)
        return self._smooth(pixels) if self._convolves else pixels

    def _unpatchify(self, patches: Floats, rows: int, columns: int) -> Floats:
        """Patches [rows · columns, 3 · W · W] -> the image [h, w, 3], in which overlaps add up."""
        side, overlap = self._config.patch_size, self._overlap
        window = side + 2 * overlap
        patches = patches.reshape(rows, columns, 3, window, window).transpose(0, 1, 3, 4, 2)
        height, width = rows * side, columns * side
        canvas = np.zeros((height + 2 * overlap, width + 2 * overlap, 3), np.float32)
        for row in range(rows):
            for column in range(columns):
                top, left = row * side, column * side
                canvas[top : top + window, left : left + window] += patches[row, column]
        return canvas[overlap : overlap + height, overlap : overlap + width]

    def _smooth(self, pixels: Floats) -> Floats:
        kernel = self.tensors["to_pixels.convolution.weight"]  # [out, in, 3, 3]
        height, width = pixels.shape[:2]
        padded = np.pad(pixels, ((1, 1), (1, 1), (0, 0)))
        parts = (
            padded[y : y + height, x : x + width] @ kernel[:, :, y, x].T
            for y in range(3)
            for x in range(3)
        )
        smoothed: Floats = sum(parts, self.tensors["to_pixels.convolution.bias"])
        return smoothed


def gelu(x: Floats) -> Floats:
    y: Floats = x / 2 * (1 + erf(x * np.float32(math.sqrt(0.5))))
    return y


def erf(x: Floats) -> Floats:
    """The error function in float32, with an error of at most 4e-7."""
    x = x.clip(-4, 4)
    square = x * x
    over, under = np.full_like(x, _ERF_OVER[0]), np.full_like(x, _ERF_UNDER[0])
    for factor in _ERF_OVER[1:]:
        over *= square
        over += np.float32(factor)
    for factor in _ERF_UNDER[1:]:
        under *= square
        under += np.float32(factor)
    return x * over / under


def best(z: Floats, codebook: Floats, dot: bool) -> Tokens:
    """For each row of ``z`` [M, d], find the nearest vector of ``codebook`` [K, d].

    With ``dot``, find that of the largest dot product. As in ``model.codebook``, float32 finds the
    candidates within its rounding error, and float64 decides among them.

    Returns:
        int64 [M]: indices into the codebook, the lowest one among equals.

    Raises:
        ValueError: ``z`` holds NaN or infinity.
    """
    if not np.isfinite(z).all():
        raise ValueError("cannot quantize: the vectors hold NaN or infinite values")
    lengths = np.linalg.norm(codebook, axis=1)
    longest = lengths.max()
    offsets = 0 if dot else lengths * lengths / 2
    slack = 4 * (z.shape[1] + 9) * _UNIT_ROUNDOFF
    tokens = np.empty(len(z), np.int64)
    rows = max(1, _SCORES // len(codebook))
    for start in range(0, len(z), rows):
        part = z[start : start + rows]
        scores = part @ codebook.T - offsets
        reach = np.linalg.norm(part, axis=1) * longest + longest * longest
        limits = scores.max(axis=1) - slack * reach
        for number, (row, limit) in enumerate(zip(scores, limits, strict=True)):
            candidates = (row >= limit).nonzero()[0]
            if len(candidates) > 1:
                candidates = candidates[_costs(part[number], codebook[candidates], dot).argmin()]
            tokens[start + number] = candidates.item()
    return tokens


def _costs(z: Floats, vectors: Floats, dot: bool) -> NDArray[np.float64]:
    z, vectors = z.astype(np.float64), vectors.astype(np.float64)
    costs: NDArray[np.float64] = -(vectors @ z) if dot else ((vectors - z) ** 2).sum(axis=1)
    return costs


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    units: Floats = vectors / np.maximum(lengths, np.float32(_UNIT_EPSILON))
    return units


def _average(image: Pixels, scale: int) -> Floats:
    """uint8 [H, W, 3] -> means of ``scale`` by ``scale`` pixels, float32 in [0, 1]."""
    height, width = (edge // scale for edge in image.shape[:2])
    pixels: Floats = image.astype(np.float32) / np.float32(255)
    if scale > 1:
        pixels = pixels.reshape(height, scale, width, scale, 3).mean(axis=(1, 3))
    return pixels


def _below(prefix: str, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _shapes(config: ModelConfig) -> Shapes:
    """The shapes of all tensors, as in ``model.vit`` and ``model.codebook``."""
    encoder, decoder, dim = config.encoder, config.decoder, config.quantizer.embedding_dim
    assert isinstance(encoder, PatchEncoderConfig)
    assert isinstance(decoder, PatchDecoderConfig)
    window = decoder.patch_size + 2 * decoder.pixel_overlap
    shapes: Shapes = {"quantizer.codebook": (config.quantizer.codebook_size, dim)}
    shapes |= _linear("encoder.patch_embed", 3 * encoder.patch_size**2, encoder.width)
    shapes |= _linear("encoder.to_embedding", encoder.width, dim)
    shapes |= _linear("decoder.from_embedding", dim, decoder.width)
    shapes |= _linear("decoder.to_pixels", decoder.width, 3 * window**2)
    if decoder.pixel_convolution:
        shapes["decoder.to_pixels.convolution.weight"] = (3, 3, 3, 3)
        shapes["decoder.to_pixels.convolution.bias"] = (3,)
    for name, part in (("encoder", encoder), ("decoder", decoder)):
        trunk = _trunk(part) | {
            "positions.table": (part.positions, part.positions, part.width),
            "positions.scale": (part.width,),
        }
        shapes |= {f"{name}.{tensor}": shape for tensor, shape in trunk.items()}
    return shapes


def _trunk(config: VitConfig) -> Shapes:
    width, hidden = config.width, round(config.width * config.mlp_ratio)
    shapes: Shapes = {}
    norms = ["norm_in", "norm_out"] if config.outer_norms else []
    for number in range(config.layers):
        block = f"blocks.{number}"
        norms += [f"{block}.norm_attention", f"{block}.norm_mlp"]
        shapes |= _linear(f"{block}.attention.qkv", width, 3 * width)
        shapes |= _linear(f"{block}.attention.out", width, width)
        shapes |= _linear(f"{block}.mlp.0", width, hidden) | _linear(
            f"{block}.mlp.2", hidden, width
        )
    for norm in norms:
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    if config.class_token:
        shapes["class_token"] = (width,)
    return shapes


def _linear(name: str, before: int, width: int) -> Shapes:
    return {f"{name}.weight": (width, before), f"{name}.bias": (width,)}
