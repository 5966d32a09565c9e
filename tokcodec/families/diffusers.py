"""The ``VQModel`` of diffusers: aMUSEd (arXiv 2401.01808) and its successors, and Kandinsky's movq.

A pipeline has it in the folder ``vqvae`` or ``movq``.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from tokcodec.config import ModelConfig
from tokcodec.errors import CheckpointError
from tokcodec.families.convolutional import Names, take_vq
from tokcodec.families.family import Config, Family, Model
from tokcodec.families.reading import Arrays, Section, Tensors

_NAMES = Names(
    encoder_level="down_blocks.",
    decoder_level="up_blocks.",
    decoder_counts="place",
    block=".resnets.",
    attention=".attentions.",
    widen=".conv_shortcut",
    attention_norms=("group_norm", "spatial_norm"),
    attention_layers=("to_q", "to_k", "to_v", "to_out.0"),
    norm_out="conv_norm_out",
    middle=("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
    reduce=".downsamplers.0.conv",
    enlarge=".upsamplers.0.conv",
)
_OLDER = replace(_NAMES, attention_layers=("query", "key", "value", "proj_attn"))
_FIRST = "encoder.down_blocks.0.resnets.0.norm1.weight"


def _convert(source: Tensors, config: Config, image_size: int | None) -> tuple[ModelConfig, Arrays]:
    older = any(name.endswith(".query.weight") for name in source.names())
    norm = "spatial" if source.has_below("decoder.conv_norm_out.norm_layer.") else "group"
    stated = Section({"VQModel": config}, "VQModel")
    stated.choice("act_fn", ("silu",), "silu")
    stated.choice("norm_type", (norm,), norm)
    # aMUSEd's pipelines and their successors use pixels in [0, 1] and Lanczos' filter.
    amused = stated.boolean("lookup_from_codebook", False)
    pixels: dict[str, Any] = (
        {"mean": (0.0,) * 3, "std": (1.0,) * 3, "resize": "lanczos"} if amused else {}
    )
    ours, tensors = take_vq(
        source, _OLDER if older else _NAMES,
        rounding="nearest", image_size=image_size or 256, **pixels,
    )  # fmt: skip
    stated.require(num_vq_embeddings=ours.quantizer.codebook_size, norm_num_groups=32)
    return ours, tensors


def _recognises(names: Collection[str], _config: Config | None) -> bool:
    if _FIRST not in names:
        return False
    if "quantize.embedding.weight" not in names:
        raise CheckpointError("a continuous autoencoder of diffusers, which has no tokens")
    return True


def _model(
    name: str, tokens: int, size: int, file: str, licence: str, amused: bool = True
) -> Model:
    config = {"lookup_from_codebook": True} if amused else {}
    verified = name.startswith("amused")
    return Model(name, tokens, size, file, None, config, verified, licence)


_MOVQ = "movq/diffusion_pytorch_model.safetensors"
_VQVAE = "vqvae/diffusion_pytorch_model.safetensors"
FAMILY = Family(
    title="diffusers' VQModel",
    licence="Apache-2.0",
    recognises=_recognises,
    convert=_convert,
    models=(
        _model("amused-256", 256, 8192, f"amused/amused-256:{_VQVAE}", "OpenRAIL++"),
        _model("amused-512", 256, 8192, f"amused/amused-512:{_VQVAE}", "OpenRAIL++"),
        _model("lumina-dimoo", 256, 8192, f"Alpha-VLLM/Lumina-DiMOO:{_VQVAE}", "Apache-2.0"),
        _model("meissonic", 256, 8192, f"MeissonFlow/Meissonic:{_VQVAE}", "Apache-2.0"),
        _model(
            "kandinsky-2.1", 1024, 16384, f"kandinsky-community/kandinsky-2-1:{_MOVQ}",
            "Apache-2.0", False,
        ),
        _model(
            "kandinsky-2.2", 1024, 16384, f"kandinsky-community/kandinsky-2-2-decoder:{_MOVQ}",
            "Apache-2.0", False,
        ),
        _model(
            "kandinsky-3", 1024, 16384, f"kandinsky-community/kandinsky-3:{_MOVQ}", "Apache-2.0",
            False,
        ),
        _model(
            "ldm-celebahq-256", 4096, 8192,
            "CompVis/ldm-celebahq-256:vqvae/diffusion_pytorch_model.bin", "Apache-2.0", False,
        ),
    ),
    needs_config=True,
)  # fmt: skip
