"""The tokenizer written a second time, in NumPy and float64, straight from its definition.

It shares no code with tokcodec.model. ``make.py`` computes the golden outputs with it.
"""

import math

import numpy as np


class Reference:
    def __init__(self, config, tensors):
        self.config = config
        self.tensors = {name: value.astype(np.float64) for name, value in tensors.items()}

    def embed(self, pixels):
        """[B, 3, H, W] in [0, 1] -> z [B, N, d]."""
        c = self.config
        pixels = pixels.astype(np.float64)
        scale = c.preprocessing.pixel_scale
        batch, _, height, width = pixels.shape
        height, width = height // scale, width // scale
        pixels = pixels.reshape(batch, 3, height, scale, width, scale).mean(axis=(3, 5))
        pixels = (pixels - _column(c.preprocessing.mean)) / _column(c.preprocessing.std)
        p = c.encoder.patch_size
        patches = [
            pixels[:, :, y : y + p, x : x + p].reshape(batch, -1)
            for y in range(0, height, p)
            for x in range(0, width, p)
        ]
        x = self._linear("encoder.patch_embed", np.stack(patches, axis=1))
        if c.encoder.kind == "patch":
            x = x + self._positions("encoder", height // p, width // p)
            return self._linear("encoder.to_embedding", self._blocks("encoder", x, c.encoder))
        x = x + self.tensors["encoder.patch_positions"]
        if c.encoder.kind == "latent":
            latents = self.tensors["encoder.latent_tokens"]
            x = np.concatenate([x, np.broadcast_to(latents, (batch, *latents.shape))], axis=1)
        x = self._blocks("encoder", x, c.encoder)
        return self._linear("encoder.to_embedding", x[:, -c.num_tokens :])

    def quantize(self, z):
        """z [..., d] -> tokens, and margins: second-best minus best squared distance."""
        codebook = self.codebook()
        if self.config.quantizer.metric == "cosine":
            z = _unit(z)
        distances = ((z[..., None, :] - codebook) ** 2).sum(axis=-1)
        ordered = np.sort(distances, axis=-1)
        return distances.argmin(axis=-1), ordered[..., 1] - ordered[..., 0]

    def codebook(self):
        codebook = self.tensors["quantizer.codebook"]
        return _unit(codebook) if self.config.quantizer.metric == "cosine" else codebook

    def decode(self, tokens, rows, columns):
        """tokens [B, N] -> [B, 3, rows · P, columns · P] in [0, 1], P being the decoder's patch."""
        c = self.config
        x = self._linear("decoder.from_embedding", self.codebook()[tokens])
        p, overlap = c.decoder.patch_size, c.decoder.pixel_overlap
        if c.encoder.kind == "patch":
            x = x + self._positions("decoder", rows, columns)
        else:
            x = x + self.tensors["decoder.token_positions"]
        if c.encoder.kind == "latent":
            masks = self.tensors["decoder.mask_token"] + self.tensors["decoder.patch_positions"]
            x = np.concatenate([np.broadcast_to(masks, (len(x), *masks.shape)), x], axis=1)
        x = self._blocks("decoder", x, c.decoder)
        patches = self._linear("decoder.to_pixels", x[:, : rows * columns])
        window = p + 2 * overlap
        pixels = np.zeros((len(x), 3, rows * p + 2 * overlap, columns * p + 2 * overlap))
        for index in range(rows * columns):
            top, left = index // columns * p, index % columns * p
            patch = patches[:, index].reshape(-1, 3, window, window)
            pixels[:, :, top : top + window, left : left + window] += patch
        pixels = pixels[:, :, overlap : overlap + rows * p, overlap : overlap + columns * p]
        pixels = pixels * _column(c.preprocessing.std) + _column(c.preprocessing.mean)
        return np.clip(pixels, 0, 1)

    def _positions(self, side, rows, columns):
        table = self.tensors[f"{side}.positions.table"]
        down, across = _bicubic(len(table), rows), _bicubic(len(table), columns)
        positions = np.einsum("rs,std,ct->rcd", down, table, across).reshape(rows * columns, -1)
        return positions + self.tensors[f"{side}.positions.scale"] * (math.log2(rows * columns) - 6)

    def _blocks(self, side, x, part):
        for layer in range(part.layers):
            name = f"{side}.blocks.{layer}"
            x = x + self._attention(name, self._norm(f"{name}.norm_attention", x), part.heads)
            hidden = _gelu(self._linear(f"{name}.mlp.0", self._norm(f"{name}.norm_mlp", x)))
            x = x + self._linear(f"{name}.mlp.2", hidden)
        return x

    def _attention(self, name, x, heads):
        q, k, v = np.split(self._linear(f"{name}.attention.qkv", x), 3, axis=-1)
        width = q.shape[-1] // heads
        outputs = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            scores = q[..., part] @ k[..., part].transpose(0, 2, 1) / math.sqrt(width)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            outputs.append(weights / weights.sum(axis=-1, keepdims=True) @ v[..., part])
        return self._linear(f"{name}.attention.out", np.concatenate(outputs, axis=-1))

    def _linear(self, name, x):
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def _norm(self, name, x):
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5)
        return x * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]


def _column(values):
    return np.array(values).reshape(3, 1, 1)


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def _bicubic(source, target):
    """The matrix [target, source] of cubic convolution (Keys 1981, a = -0.75)."""
    a = -0.75
    matrix = np.zeros((target, source))
    for row in range(target):
        centre = (row + 0.5) * source / target - 0.5
        first = math.floor(centre) - 1
        for tap in range(first, first + 4):
            t = abs(centre - tap)
            if t <= 1:
                weight = (a + 2) * t**3 - (a + 3) * t**2 + 1
            else:
                weight = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
            matrix[row, min(max(tap, 0), source - 1)] += weight
    return matrix
