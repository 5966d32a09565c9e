"""One square's tokens without torch, which takes a second to load: the patch encoder in NumPy.

The tokens are torch's, as tested on the bundled models. Where a second vector is so near that
another order of summation could make it the best, there are none, and torch is to be asked.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokcodec import checkpoint
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.config.vit import PatchEncoderConfig

Floats = NDArray[Any]

# What two ways to compute z may differ by, over its length; on photos they do by less than a
# sixth of this.
_ROUNDING = 1e-5
_erf = np.frompyfunc(math.erf, 1, 1)


def encode(header: checkpoint.Header, tiles: NDArray[np.uint8]) -> NDArray[np.int64] | None:
    """Tokens [1, N] of one square as ``image.read_tiles`` gives it, uint8 [1, s, s, 3]; None for
    several, for other kinds of models, and where a token is too near to call.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    config = header.config
    pixels, encoder, quantizer = config.preprocessing, config.encoder, config.quantizer
    if not (
        len(tiles) == 1
        and tiles.shape[1:3] == (pixels.model_size, pixels.model_size)
        and isinstance(encoder, PatchEncoderConfig)
        and not (encoder.class_token or encoder.outer_norms)
        and isinstance(quantizer, CodebookConfig)
        and quantizer.metric == "euclidean"
    ):
        return None
    _, tensors = checkpoint.read(header.path)
    tensors = {n: t.astype(np.float32) for n, t in tensors.items() if not n.startswith("decoder.")}
    if len(tensors.get("encoder.patch_positions", ())) != config.num_tokens:
        return None  # before anything as large as its config says is made
    mean, deviation = np.array(pixels.mean, np.float32), np.array(pixels.std, np.float32)
    normal = (tiles[0] / np.float32(255) - mean) / deviation
    try:
        z = _z(encoder, tensors, normal).astype(np.float64)
    except (KeyError, ValueError):  # tensors are missing or misshapen: loading the model says which
        return None
    vectors = tensors["quantizer.codebook"].astype(np.float64)
    distances: Floats = (vectors * vectors).sum(axis=1) - 2 * (z @ vectors.T)  # less |z|²
    first, second = np.argpartition(distances, 1)[:, :2].T
    rows = np.arange(len(z))
    ahead = distances[rows, second] - distances[rows, first]
    apart = np.linalg.norm(vectors[second] - vectors[first], axis=1)
    if not (ahead > 2 * _ROUNDING * np.linalg.norm(z, axis=1) * apart).all():
        return None
    tokens: NDArray[np.int64] = first[None].astype(np.int64)
    return tokens


def _z(config: PatchEncoderConfig, tensors: dict[str, Floats], pixels: Floats) -> Floats:
    """Normalized pixels [s, s, 3] -> z [N, d], as ``model.vit.PatchEncoder`` computes it."""

    def linear(name: str, x: Floats) -> Floats:
        return x @ tensors[f"encoder.{name}.weight"].T + tensors[f"encoder.{name}.bias"]

    def norm(name: str, x: Floats) -> Floats:
        x = x - x.mean(axis=-1, keepdims=True)
        x /= np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(1e-5))
        return x * tensors[f"encoder.{name}.weight"] + tensors[f"encoder.{name}.bias"]

    grid, side = config.grid(len(pixels)), config.patch_size
    patches = pixels.reshape(grid, side, grid, side, 3).transpose(0, 2, 4, 1, 3)
    x = linear("patch_embed", patches.reshape(grid**2, -1)) + tensors["encoder.patch_positions"]
    for number in range(config.layers):
        block = f"blocks.{number}"
        heads = linear(f"{block}.attention.qkv", norm(f"{block}.norm_attention", x))
        q, k, v = heads.reshape(grid**2, 3, config.heads, -1).transpose(1, 2, 0, 3)
        scores = q @ k.transpose(0, 2, 1) / np.float32(math.sqrt(q.shape[-1]))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        attended = weights / weights.sum(axis=-1, keepdims=True) @ v
        x = x + linear(f"{block}.attention.out", attended.swapaxes(0, 1).reshape(x.shape))
        hidden = linear(f"{block}.mlp.0", norm(f"{block}.norm_mlp", x))
        gelu = hidden / 2 * (1 + np.asarray(_erf(hidden / math.sqrt(2)), np.float32))
        x = x + linear(f"{block}.mlp.2", gelu)
    return linear("to_embedding", x)
