"""VQGAN (arXiv 2012.09841), and latent-diffusion's and Chameleon's models, which are the same.

taming-transformers and latent-diffusion reduced images with OpenCV's bilinear filter, which does
not antialias. tokcodec uses torchvision's bicubic filter, which does.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any

from tokcodec.config import ModelConfig
from tokcodec.errors import CheckpointError
from tokcodec.families.convolutional import Names, take_vq
from tokcodec.families.family import Config, Family, Model, square_side
from tokcodec.families.reading import Arrays, Section, Tensors

_LOSS = ("loss.",)  # discriminator and LPIPS
_AVERAGES = "model_ema."
_CHAMELEON = {"resolution": 512, "n_embed": 8192}


def _convert(source: Tensors, config: Config, image_size: int | None) -> tuple[ModelConfig, Arrays]:
    chameleon = all(_settings(config).get(name) == value for name, value in _CHAMELEON.items())
    resize = "chameleon" if chameleon else "bicubic"
    return convert_vqgan(source, config, image_size, resize=resize)


def convert_vqgan(
    source: Tensors, config: Config, image_size: int | None, **fields: Any
) -> tuple[ModelConfig, Arrays]:
    """Convert a VQGAN, or a model of a program that took its network over. See ``take_vq`` for
    ``fields``."""
    source = source.without(_LOSS).averaged(_AVERAGES)
    settings = _settings(config)
    side = square_side(image_size, settings, field="resolution")
    ours, tensors = take_vq(source, Names(), image_size=side, **fields)
    quantizer = ours.quantizer
    stated = Section({"model": settings}, "model")
    stated.require(n_embed=quantizer.codebook_size, embed_dim=quantizer.embedding_dim)
    return ours, tensors


def is_vqgan(names: Collection[str]) -> bool:
    """Whether tensors with these names are those of such a network, of any program.

    Raises:
        CheckpointError: it is a variant that tokcodec cannot run.
    """
    if "encoder.down.0.block.0.norm1.weight" not in names or "quant_conv.weight" not in names:
        return False
    if "decoder.norm_out.weight" not in names:  # a MoVQGAN
        return False
    if any(name.startswith("quantize.quant_resi.") for name in names):  # VAR's
        return False
    if "quantize.embed.weight" in names:
        raise CheckpointError("a VQGAN with Gumbel quantization, whose tokens are random")
    if "quantize.used" in names:
        raise CheckpointError("a VQGAN with renumbered tokens (remap), which is not supported")
    return "quantize.embedding.weight" in names


def says_ibq(config: Config | None) -> bool | None:
    """Whether a config is IBQ's, or Emu3.5's, which has its fields at the top; None if unknown."""
    if config is None:
        return None
    if "ibq" in json.dumps(config, default=str).lower():
        return True
    return False if "model" in config else "embed_dim" in config or None


def _settings(config: Config) -> dict[str, Any]:
    """The fields of the model in a config, together with those of ``ddconfig``."""
    model = config.get("model")
    inner: Any = config
    if isinstance(model, Mapping):
        inner = model.get("params") or model.get("init_args") or model
    if not isinstance(inner, Mapping):
        raise CheckpointError("its config has no model.params")
    network = inner.get("ddconfig")
    return {**inner, **(network if isinstance(network, Mapping) else {})}


def _recognises(names: Collection[str], config: Config | None) -> bool:
    # If the config does not decide, moving averages do: only IBQ's checkpoints have them.
    averaged = any(name.startswith(_AVERAGES) for name in names)
    ibq = says_ibq(config)
    return is_vqgan(names) and not (averaged if ibq is None else ibq)


def _config(target: str, **more: int) -> Config:
    return {"model": {"target": f"{target}.VQModel", "params": more}}


_TAMING, _LDM = _config("taming.models.vqgan"), _config("ldm.models.autoencoder")
FAMILY = Family(
    title="VQGAN",
    licence="MIT",
    recognises=_recognises,
    convert=_convert,
    models=(
        Model(
            "vqgan-f16-1024", 256, 1024, "GitHub CompVis/taming-transformers", 7.94, _TAMING,
            True,
        ),
        Model("vqgan-f16-16384", 256, 16384, "GitHub CompVis/taming-transformers", 4.98, _TAMING),
        Model("ldm-vq-f4", 4096, 8192, "GitHub CompVis/latent-diffusion", 0.58, _LDM),
        Model("ldm-vq-f4-noattn", 4096, 8192, "GitHub CompVis/latent-diffusion", 1.06, _LDM),
        Model("ldm-vq-f8", 1024, 16384, "GitHub CompVis/latent-diffusion", 1.14, _LDM),
        Model("ldm-vq-f8-n256", 1024, 256, "GitHub CompVis/latent-diffusion", 1.49, _LDM),
        Model("ldm-vq-f16", 256, 16384, "GitHub CompVis/latent-diffusion", 5.15, _LDM),
        Model(
            "chameleon", 1024, 8192, "GitHub facebookresearch/chameleon", None,
            _config("taming.models.vqgan", **_CHAMELEON), licence="Chameleon Research License",
            image_size=512,
        ),
    ),
)  # fmt: skip
