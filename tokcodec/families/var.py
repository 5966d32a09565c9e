"""VAR's tokenizer (arXiv 2404.02905): a VQGAN whose tokens are of ten scales, from 1x1 on."""

import numpy as np

from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.quantizers import CodebookConfig, ResidualConfig
from tokcodec.errors import CheckpointError
from tokcodec.families.convolutional import Names, take_convolutional
from tokcodec.families.family import Config, Family, Model, square_side
from tokcodec.families.reading import Array, Arrays, Tensors

_NAMES = Names(attention_layers=("qkv", "proj_out"))
_COUNTS = ("quantize.ema_vocab_hit_SV",)  # how often each token was used in training
_CODEBOOK, _FILTERS = "quantize.embedding.weight", "quantize.quant_resi.qresi_ls."
# The scales of each side of the square, in pixels; one file of weights has both.
_SCALES = {
    256: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    512: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
}
# The convolution of each scale, of four. The code takes the one of the nearest of four numbers;
# two of the ten scales lie between two of them, where rounding errors decide as here.
_FILTER_OF_SCALE = (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)
_RATIO = np.float32(0.5)  # of the filtered vectors; the rest are the vectors themselves


def convert(source: Tensors, config: Config, image_size: int | None) -> tuple[ModelConfig, Arrays]:
    """Config and tensors as ours.

    Raises:
        CheckpointError: something is missing, over, of another shape or not finite.
    """
    source = source.without(_COUNTS)
    side = square_side(image_size, config.get("image_size"), 256)
    if side not in _SCALES:
        raise CheckpointError(f"sees squares of 256 or 512 pixels only, not of {side}")
    codebook_size, embedding_dim = source.shape(_CODEBOOK, 2)
    encoder, decoder, out = take_convolutional(source, _NAMES, embedding_dim)
    out["quantizer.stage.codebook"] = source.take(_CODEBOOK, codebook_size, embedding_dim)
    for number in range(1 + max(_FILTER_OF_SCALE)):
        theirs, ours = f"{_FILTERS}{number}", f"quantizer.filters.{number}"
        weight = source.take(f"{theirs}.weight", embedding_dim, embedding_dim, 3, 3)
        out[f"{ours}.weight"] = _with_shortcut(weight)
        out[f"{ours}.bias"] = _RATIO * source.take(f"{theirs}.bias", embedding_dim)
    source.finish()
    return (
        ModelConfig(
            encoder=encoder,
            quantizer=ResidualConfig(
                stage=CodebookConfig(codebook_size=codebook_size, embedding_dim=embedding_dim),
                scales=_SCALES[side],
                filters=_FILTER_OF_SCALE,
            ),
            decoder=decoder,
            preprocessing=PreprocessingConfig(image_size=side, resize="lanczos", crop_scale=1.125),
            rounding="down",
            default_fit="crop",
        ),
        out,
    )


def _with_shortcut(weight: Array) -> Array:
    """Half of a convolution and half of its input, as one convolution."""
    weight = _RATIO * weight
    weight[:, :, 1, 1] += (1 - _RATIO) * np.eye(len(weight), dtype=np.float32)
    return weight


def _model(side: int, tokens: int, verified: bool) -> Model:
    return Model(
        f"var-{side}",
        tokens,
        4096,
        "FoundationVision/var:vae_ch160v4096z32.pth",
        config={"image_size": side},
        verified="tokens" if verified else "shapes",
        image_size=side,
    )


FAMILY = Family(
    name="var",
    title="VAR",
    paper="2404.02905",
    licence="MIT",
    recognises=lambda names, _: f"{_FILTERS}0.weight" in names and _CODEBOOK in names,
    convert=convert,
    models=(_model(256, 680, True), _model(512, 2240, False)),
)
