"""simple-1d-tokenizer: TiTok's transformers without class tokens, on normalized pixels.

Its config also names ``use_l2_norm`` and ``finetune_decoder``; its code does neither.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tokcodec.config import ModelConfig, PreprocessingConfig, QuantizerConfig
from tokcodec.convert.published import Array, Arrays, Section, Tensors
from tokcodec.convert.vit import (
    HEADS,
    pixel_patch_size,
    require_sizes,
    take_decoder,
    take_encoder,
    take_pixel_head,
)
from tokcodec.errors import CheckpointError

_USED = {
    "codebook_size",
    "num_latent_tokens",
    "token_size",
    "vit_dec_model_size",
    "vit_dec_patch_size",
    "vit_enc_model_size",
    "vit_enc_patch_size",
}
_UNUSED = {
    "commitment_cost",
    "finetune_decoder",
    "predict_pixels",
    "use_l2_norm",
}
_BLOCK = r"{}\.(?:transformer\.(\d{{1,6}})|model\.(\d{{1,6}}))\.ln_1\.weight"
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def convert(config: Mapping[str, Any], tensors: Mapping[str, Array]) -> tuple[ModelConfig, Arrays]:
    """The config and tensors of simple-1d-tokenizer as ours.

    Raises:
        CheckpointError: something is missing, over, of another shape or not finite; or it gives
            codes of another model in place of pixels.
    """
    source = Tensors(_without_copies(tensors))
    if "decoder.ffn.2.weight" in source:
        raise CheckpointError(
            "a simple-1d-tokenizer that gives codes of another model in place of pixels; "
            "only those that predict pixels can be decoded"
        )
    section = Section(config, "model", "vq_model")
    section.only(_USED | _UNUSED)
    image_size = Section(config, "dataset", "preprocessing").integer("crop_size")
    codebook_size, code_dim = source.shape("quantizer.embedding_table.weight", 2)
    size = section.choice("vit_enc_model_size", HEADS)
    encoder, num_latents, out = take_encoder(source, size, image_size, code_dim)
    patch_size = pixel_patch_size(source)
    size = section.choice("vit_dec_model_size", HEADS)
    decoder, part = take_decoder(source, size, image_size, patch_size, num_latents, code_dim)
    out |= part
    out |= take_pixel_head(source, decoder.width, patch_size)
    out["quantizer.codebook"] = source.take(
        "quantizer.embedding_table.weight", codebook_size, code_dim
    )
    source.finish()
    converted = ModelConfig(
        layout="latent",
        encoder=encoder,
        decoder=decoder,
        quantizer=QuantizerConfig(codebook_size, code_dim),
        preprocessing=PreprocessingConfig(
            image_size=image_size, mean=_IMAGENET_MEAN, std=_IMAGENET_STD
        ),
        num_latents=num_latents,
        pixel_convolution=True,
        default_fit="crop",
    )
    require_sizes(section, converted)
    return converted, out


def _without_copies(tensors: Mapping[str, Array]) -> Arrays:
    """Its code has the layers a second time, in ``model``; files hold either name or both."""
    names: dict[str, str] = {}
    for side in ("encoder", "decoder"):
        layers = len(
            {
                int(match[1] or int(match[2]) - 2)
                for name in tensors
                if (match := re.fullmatch(_BLOCK.format(side), name))
            }
        )
        # Between these stand layers without tensors.
        order = {0: "ln_pre", 4 + layers: "ln_post"}
        order |= {2 + layer: f"transformer.{layer}" for layer in range(layers)}
        if side == "decoder":
            order |= {6 + layers: "ffn", 7 + layers: "conv_out"}
        else:
            order |= {6 + layers: "conv_out"}
        names |= {f"{side}.model.{place}": f"{side}.{name}" for place, name in order.items()}
    out: Arrays = {}
    for name, tensor in tensors.items():
        head = ".".join(name.split(".")[:3])
        original = names[head] + name[len(head) :] if head in names else name
        if not np.array_equal(out.setdefault(original, tensor), tensor, equal_nan=True):
            raise CheckpointError(f"tensor {original} and its copy in model differ")
    return out
