"""Which published family a checkpoint is of: by its tensors' names, or by the name of a model."""

from collections.abc import Callable, Mapping
from typing import Any

from tokcodec.config import ModelConfig
from tokcodec.convert import one_d_piece, simple_1d, titok
from tokcodec.convert.published import Array, Arrays
from tokcodec.errors import CheckpointError

Config = Mapping[str, Any]
Convert = Callable[[Config, Mapping[str, Array]], tuple[ModelConfig, Arrays]]


def _config(sizes: str, num_latents: int, **more: bool) -> Config:
    encoder, decoder = sizes.split("-")
    model = {
        "vit_enc_model_size": encoder,
        "vit_dec_model_size": decoder,
        "num_latent_tokens": num_latents,
        **more,
    }
    return {"model": {"vq_model": model}, "dataset": {"preprocessing": {"crop_size": 256}}}


_FIRST = {"use_l2_norm": True, "is_legacy": True}
_LATER = {"use_l2_norm": False, "is_legacy": False}

# The published models, with what a file of theirs without a config leaves open.
MODELS: dict[str, tuple[Convert, Config]] = {
    "titok-l32": (titok.convert, _config("large-large", 32, **_FIRST)),
    "titok-b64": (titok.convert, _config("base-base", 64, **_FIRST)),
    "titok-s128": (titok.convert, _config("small-small", 128, **_FIRST)),
    "titok-bl64-vq8k": (titok.convert, _config("base-large", 64, **_LATER)),
    "titok-bl128-vq8k": (titok.convert, _config("base-large", 128, **_LATER)),
    "titok-sl256-vq8k": (titok.convert, _config("small-large", 256, **_LATER)),
    "one-d-piece-s256": (one_d_piece.convert, _config("small-small", 256, **_FIRST)),
    "one-d-piece-b256": (one_d_piece.convert, _config("base-base", 256, **_FIRST)),
    "one-d-piece-l256": (one_d_piece.convert, _config("large-large", 256, **_FIRST)),
    "simple-1d-tokenizer": (simple_1d.convert, _config("small-small", 128)),
}


def recognise(config: Config | None, tensors: Mapping[str, Array]) -> Convert:
    """The family that a checkpoint is of.

    Raises:
        CheckpointError: none that is known, or one that has no codes or needs a text.
    """
    if any("text_guidance" in name for name in tensors):
        raise CheckpointError("a text-conditioned TA-TiTok, which decodes only with its caption")
    if "quantizer.embedding_table.weight" in tensors:
        return simple_1d.convert
    if "latent_tokens" not in tensors:
        known = "TiTok, One-D-Piece, simple-1d-tokenizer"
        raise CheckpointError(f"its tensors are of no family that tokcodec knows ({known})")
    if "quantize.embedding.weight" not in tensors:
        raise CheckpointError("a continuous TiTok (vae in its name), which has no codes")
    model = (config or {}).get("model")
    kind = model.get("type", "titok") if isinstance(model, Mapping) else "titok"
    if kind not in ("titok", "one_d_piece"):
        raise CheckpointError(f"its config: model.type: {kind!r} is neither titok nor one_d_piece")
    return one_d_piece.convert if kind == "one_d_piece" else titok.convert
