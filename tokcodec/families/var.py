"""VAR's tokenizer (arXiv 2404.02905): a VQGAN with tokens of ten scales, the first one 1x1."""

import numpy as np

from tokcodec.config import ModelConfig
from tokcodec.config.quantizers import CodebookConfig, ResidualConfig
from tokcodec.errors import CheckpointError
from tokcodec.families.convolutional import Names, take_model
from tokcodec.families.family import Config, Family, Model, square_side
from tokcodec.families.reading import Array, Arrays, Tensors

_NAMES = Names(attention_layers=("qkv", "proj_out"))
_COUNTS = ("quantize.ema_vocab_hit_SV",)  # how often training used each token
_CODEBOOK, _FILTERS = "quantize.embedding.weight", "quantize.quant_resi.qresi_ls."
# The scales for each side of the square in pixels. Both use the same weights.
_SCALES = {
    256: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    512: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
}
# The convolution of each scale, of four. The published code takes the nearest of four numbers. Two
# of the ten scales are halfway between two of them, where its rounding errors decide.
_FILTER_OF_SCALE = (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)
_PUBLISHED = "FoundationVision/var:vae_ch160v4096z32.pth"
_RATIO = np.float32(0.5)  # weight of the filtered vectors; the rest is that of the vectors


def _convert(source: Tensors, config: Config, image_size: int | None) -> tuple[ModelConfig, Arrays]:
    source = source.without(_COUNTS)
    side = square_side(image_size, config)
    if side not in _SCALES:
        raise CheckpointError(f"sees squares of 256 or 512 pixels only, not of {side}")
    size, dim = source.shape(_CODEBOOK, 2)
    out = {"quantizer.stage.codebook": source.take(_CODEBOOK, size, dim)}
    for number in range(1 + max(_FILTER_OF_SCALE)):
        theirs, ours = f"{_FILTERS}{number}", f"quantizer.filters.{number}"
        out[f"{ours}.weight"] = _with_shortcut(source.take(f"{theirs}.weight", dim, dim, 3, 3))
        out[f"{ours}.bias"] = _RATIO * source.take(f"{theirs}.bias", dim)
    quantizer = ResidualConfig(
        stage=CodebookConfig(codebook_size=size, embedding_dim=dim),
        scales=_SCALES[side],
        filters=_FILTER_OF_SCALE,
    )
    model, tensors = take_model(
        source, _NAMES, quantizer, image_size=side, resize="lanczos", crop_scale=1.125
    )
    return model, tensors | out


def _with_shortcut(weight: Array) -> Array:
    """The sum of half of a convolution and half of its input, as one convolution."""
    weight = _RATIO * weight
    weight[:, :, 1, 1] += (1 - _RATIO) * np.eye(len(weight), dtype=np.float32)
    return weight


FAMILY = Family(
    title="VAR",
    licence="MIT",
    recognises=lambda names, _: f"{_FILTERS}0.weight" in names and _CODEBOOK in names,
    convert=_convert,
    models=(
        Model("var-256", 680, 4096, _PUBLISHED, config={"image_size": 256}, verified=True),
        Model("var-512", 2240, 4096, _PUBLISHED, config={"image_size": 512}, image_size=512),
    ),
)
