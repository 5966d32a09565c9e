"""The transformers of TiTok (arXiv 2406.07550, section 3.2), which all families here share, from
the published tensor names to ours."""

import math
from typing import Any

import numpy as np

from tokcodec.config import ModelConfig
from tokcodec.errors import CheckpointError
from tokcodec.families.reading import Array, Arrays, Section, Tensors

# By the config's name of a size, attention heads: the one thing of it that no tensor tells.
HEADS = {"small": 8, "base": 12, "large": 16}
_WIDTHS = {"small": 512, "base": 768, "large": 1024}


def take_encoder(
    source: Tensors, size: str, image_size: int, embedding_dim: int
) -> tuple[dict[str, Any], Arrays]:
    """The fields of the encoder's config, and its tensors under our names."""
    width, _, patch_size, _ = source.shape("encoder.patch_embed.weight", 4)
    num_latents, _ = source.shape("latent_tokens", 2)
    patch_embed = source.take("encoder.patch_embed.weight", width, 3, patch_size, patch_size)
    tokens = source.take("latent_tokens", num_latents, width)
    positions = source.take("encoder.latent_token_positional_embedding", num_latents, width)
    part, out = _take_trunk(source, "encoder", width, size, patch_size, image_size)
    out |= {
        "encoder.patch_embed.weight": patch_embed.reshape(width, -1),
        "encoder.patch_embed.bias": source.take("encoder.patch_embed.bias", width),
        # Token and position are only ever used as their sum.
        "encoder.latent_tokens": tokens + positions,
        "encoder.to_embedding.weight": take_1x1(
            source, "encoder.conv_out.weight", embedding_dim, width
        ),
        "encoder.to_embedding.bias": source.take("encoder.conv_out.bias", embedding_dim),
    }
    return {**part, "num_latents": num_latents}, out


def take_decoder(
    source: Tensors,
    size: str,
    image_size: int,
    patch_size: int,
    num_latents: int,
    embedding_dim: int,
) -> tuple[dict[str, Any], Arrays]:
    """The fields of the decoder's config, and its tensors under our names, but for its head."""
    width, _ = source.shape("decoder.decoder_embed.weight", 2)
    part, out = _take_trunk(source, "decoder", width, size, patch_size, image_size)
    out |= {
        "decoder.from_embedding.weight": source.take(
            "decoder.decoder_embed.weight", width, embedding_dim
        ),
        "decoder.from_embedding.bias": source.take("decoder.decoder_embed.bias", width),
        "decoder.mask_token": source.take("decoder.mask_token", 1, 1, width).reshape(width),
        "decoder.token_positions": source.take(
            "decoder.latent_token_positional_embedding", num_latents, width
        ),
    }
    return part, out


def take_pixel_head(source: Tensors, width: int, patch_size: int) -> Arrays:
    """The map from tokens to patches and the 3x3 convolution behind it."""
    size = 3 * patch_size**2
    weight = take_1x1(source, "decoder.ffn.0.weight", size, width)
    bias = source.take("decoder.ffn.0.bias", size)
    return {
        "decoder.to_pixels.weight": _channels_first(weight, patch_size),
        "decoder.to_pixels.bias": _channels_first(bias, patch_size),
        "decoder.to_pixels.convolution.weight": source.take("decoder.conv_out.weight", 3, 3, 3, 3),
        "decoder.to_pixels.convolution.bias": source.take("decoder.conv_out.bias", 3),
    }


def pixel_patch_size(source: Tensors) -> int:
    """The decoder's patch size, from its map to 3·P·P numbers."""
    size = source.shape("decoder.ffn.0.weight", 4)[0]
    return math.isqrt(size // 3)


def require_sizes(section: Section, config: ModelConfig, enc: int, dec: int) -> None:
    """What the tensors' shapes said of a model and its patches, and its published config must not
    deny.

    Raises:
        CheckpointError: the published config says otherwise.
    """
    section.require(
        codebook_size=config.quantizer.codebook_size,
        token_size=config.quantizer.embedding_dim,
        num_latent_tokens=config.num_tokens,
        vit_enc_patch_size=enc,
        vit_dec_patch_size=dec,
    )


def require_image_size(section: Section, wanted: int | None) -> int:
    """The side of the square that the model was made for, which its positions fix.

    Raises:
        CheckpointError: another is wanted.
    """
    image_size = section.integer("crop_size")
    if wanted not in (None, image_size):
        raise CheckpointError(f"sees squares of {image_size} pixels only, not of {wanted}")
    return image_size


def take_1x1(source: Tensors, name: str, outputs: int, inputs: int) -> Array:
    """A 1x1 convolution as the matrix [outputs, inputs] that it is."""
    return source.take(name, outputs, inputs, 1, 1).reshape(outputs, inputs)


def _channels_first(rows: Array, patch_size: int) -> Array:
    """Rows of a patch's numbers from (row, column, channel) order to (channel, row, column)."""
    cells = rows.reshape(patch_size, patch_size, 3, *rows.shape[1:])
    return np.moveaxis(cells, 2, 0).reshape(rows.shape)


def _take_trunk(
    source: Tensors, side: str, width: int, size: str, patch_size: int, image_size: int
) -> tuple[dict[str, Any], Arrays]:
    layers = source.count(f"{side}.transformer.")
    hidden = source.shape(f"{side}.transformer.0.mlp.c_fc.weight", 2)[0]
    # Sizes may have other widths in some programs, but not those of each other.
    if width != _WIDTHS[size] and width in _WIDTHS.values():
        raise CheckpointError(
            f"the {side} is {size} by its config or its name, but {width} wide, which is another "
            "size; the number of its attention heads would be wrong"
        )
    class_token = f"{side}.class_embedding" in source
    part = {
        "width": width,
        "layers": layers,
        "heads": HEADS[size],
        "patch_size": patch_size,
        "mlp_ratio": hidden / width,
        "class_token": class_token,
        "outer_norms": True,
    }
    patches = (image_size // patch_size) ** 2
    positions = source.take(f"{side}.positional_embedding", class_token + patches, width)
    out = {f"{side}.patch_positions": positions[class_token:]}
    if class_token:
        token = source.take(f"{side}.class_embedding", 1, width)
        out[f"{side}.class_token"] = (token + positions[:1]).reshape(width)

    def take(theirs: str, ours: str, *shape: int) -> None:
        out[f"{side}.{ours}.weight"] = source.take(f"{side}.{theirs}.weight", *shape)
        out[f"{side}.{ours}.bias"] = source.take(f"{side}.{theirs}.bias", shape[0])

    take("ln_pre", "norm_in", width)
    for layer in range(layers):
        theirs, ours = f"transformer.{layer}", f"blocks.{layer}"
        qkv, name = f"{side}.{ours}.attention.qkv", f"{side}.{theirs}.attn.in_proj_"
        out[qkv + ".weight"] = source.take(name + "weight", 3 * width, width)
        out[qkv + ".bias"] = source.take(name + "bias", 3 * width)
        take(f"{theirs}.ln_1", f"{ours}.norm_attention", width)
        take(f"{theirs}.attn.out_proj", f"{ours}.attention.out", width, width)
        take(f"{theirs}.ln_2", f"{ours}.norm_mlp", width)
        take(f"{theirs}.mlp.c_fc", f"{ours}.mlp.0", hidden, width)
        take(f"{theirs}.mlp.c_proj", f"{ours}.mlp.2", width, hidden)
    take("ln_post", "norm_out", width)
    return part, out
