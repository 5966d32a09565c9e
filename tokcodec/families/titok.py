"""TiTok (arXiv 2406.07550, section 3.2): the first checkpoints, with a MaskGIT-VQGAN after the
decoder, and the later ones (``vq8k`` in their names), whose decoder gives pixels."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.config.vit import (
    LatentDecoderConfig,
    LatentEncoderConfig,
    ProxyDecoderConfig,
    VqganConfig,
)
from tokcodec.errors import CheckpointError, quoted
from tokcodec.families.convolutional import Decoder
from tokcodec.families.family import Config, Family, Model
from tokcodec.families.maskgit_vqgan import NAMES as VQGAN_NAMES
from tokcodec.families.reading import Array, Arrays, Section, Tensors

_USED = {
    "codebook_size",
    "is_legacy",
    "num_latent_tokens",
    "quantize_mode",
    "token_size",
    "use_l2_norm",
    "vit_dec_model_size",
    "vit_dec_patch_size",
    "vit_enc_model_size",
    "vit_enc_patch_size",
}
# Fields of the training, or that the tensors decide.
_UNUSED = {
    "commitment_cost",
    "finetune_decoder",
    "pretrained_tokenizer_weight",
    "strict_length_assertion",
}
# Width and attention heads by the config's name of a size. No tensor shows the number of heads.
_SIZES = {"small": (512, 8), "base": (768, 12), "large": (1024, 16)}


def convert(
    source: Tensors, config: Config, image_size: int | None, prefix_tokens: bool = False
) -> tuple[ModelConfig, Arrays]:
    """Convert a TiTok, or with ``prefix_tokens`` a One-D-Piece.

    Raises:
        CheckpointError: a tensor is missing, left over, of another shape or not finite; or it is a
            checkpoint of the first training stage, which cannot decode its tokens itself.
    """
    section = Section(config, "model", "vq_model")
    section.only(_USED | _UNUSED)
    section.choice("quantize_mode", ["vq"], default="vq")
    side = Section(config, "dataset", "preprocessing").integer("crop_size")
    if image_size not in (None, side):
        raise CheckpointError(f"sees squares of {side} pixels only, not of {image_size}")
    proxies = "decoder.ffn.2.weight" in source
    if section.boolean("is_legacy", default=True) != proxies:
        raise CheckpointError(
            f"its config: model.vq_model.is_legacy: {not proxies} (true if absent), "
            f"but its tensors say {proxies}"
        )
    codebook_size, embedding_dim = source.shape("quantize.embedding.weight", 2)
    out = {
        "quantizer.codebook": source.take("quantize.embedding.weight", codebook_size, embedding_dim)
    }
    encoder = _take_encoder(source, out, section, side, embedding_dim)
    latents = encoder["num_latents"]
    decoder = _take_decoder(source, out, section, side, embedding_dim, latents, prefix_tokens)
    source.finish()
    section.require(
        codebook_size=codebook_size,
        token_size=embedding_dim,
        num_latent_tokens=latents,
        vit_enc_patch_size=encoder["patch_size"],
        vit_dec_patch_size=decoder.patch_size,
    )
    converted = ModelConfig(
        encoder=LatentEncoderConfig(**encoder, legacy_latents=proxies),
        quantizer=CodebookConfig(
            codebook_size=codebook_size,
            embedding_dim=embedding_dim,
            metric="cosine" if section.boolean("use_l2_norm") else "euclidean",
        ),
        decoder=decoder,
        preprocessing=PreprocessingConfig(image_size=side, mean=(0.0,) * 3, std=(1.0,) * 3),
        default_fit="crop",
    )
    return converted, out


def is_kind(names: Collection[str], config: Config | None, kind: str) -> bool:
    """Whether it is a checkpoint of this ``model.type``, with TiTok's tensors.

    Raises:
        CheckpointError: it has no tokens, or needs a text.
    """
    if any("text_guidance" in name for name in names):
        raise CheckpointError("a text-conditioned TA-TiTok, which decodes only with its caption")
    if "latent_tokens" not in names or "quantizer.embedding_table.weight" in names:
        return False
    if "quantize.embedding.weight" not in names:
        raise CheckpointError("a continuous TiTok (vae in its name), which has no tokens")
    model = (config or {}).get("model")
    found = model.get("type", "titok") if isinstance(model, Mapping) else "titok"
    if found not in ("titok", "one_d_piece"):
        raise CheckpointError(
            f"its config: model.type: {quoted(found)} is neither titok nor one_d_piece"
        )
    return found == kind


def sizes(encoder: str, decoder: str, num_latents: int, first: bool, kind: str = "titok") -> Config:
    """The config for a file without one."""
    model = {
        "vit_enc_model_size": encoder,
        "vit_dec_model_size": decoder,
        "num_latent_tokens": num_latents,
        "use_l2_norm": first,
        "is_legacy": first,
    }
    return {
        "model": {"type": kind, "vq_model": model},
        "dataset": {"preprocessing": {"crop_size": 256}},
    }


def _take_encoder(
    source: Tensors, out: Arrays, section: Section, image_size: int, embedding_dim: int
) -> dict[str, Any]:
    """Take the encoder; return the fields of its config."""
    width, _, size, _ = source.shape("encoder.patch_embed.weight", 4)
    out |= source.take_layer("encoder.patch_embed", "encoder.patch_embed", width, 3, size, size)
    out["encoder.patch_embed.weight"] = out["encoder.patch_embed.weight"].reshape(width, -1)
    num_latents, _ = source.shape("latent_tokens", 2)
    tokens = source.take("latent_tokens", num_latents, width)
    positions = source.take("encoder.latent_token_positional_embedding", num_latents, width)
    out["encoder.latent_tokens"] = tokens + positions  # only their sum is ever used
    out |= _take_linear(source, "encoder.conv_out", "encoder.to_embedding", embedding_dim, width)
    fields = _take_trunk(source, out, section, "encoder", width, size, image_size)
    return fields | {"num_latents": num_latents}


def _take_decoder(
    source: Tensors,
    out: Arrays,
    section: Section,
    image_size: int,
    embedding_dim: int,
    num_latents: int,
    prefix_tokens: bool,
) -> LatentDecoderConfig | ProxyDecoderConfig:
    """Take the decoder; return its config."""
    embed, positions = "decoder.decoder_embed", "decoder.latent_token_positional_embedding"
    width, _ = source.shape(f"{embed}.weight", 2)
    out |= source.take_layer(embed, "decoder.from_embedding", width, embedding_dim)
    out["decoder.mask_token"] = source.take("decoder.mask_token", 1, 1, width).reshape(width)
    out["decoder.token_positions"] = source.take(positions, num_latents, width)
    if "decoder.ffn.2.weight" not in source:
        size = _take_pixels(source, out, width)
        fields = _take_trunk(source, out, section, "decoder", width, size, image_size)
        return LatentDecoderConfig(**fields, pixel_convolution=True, prefix_tokens=prefix_tokens)
    vqgan = _take_vqgan(source, out, width)
    size = 2 ** (len(vqgan.multipliers) - 1)
    fields = _take_trunk(source, out, section, "decoder", width, size, image_size)
    return ProxyDecoderConfig(**fields, vqgan=vqgan, prefix_tokens=prefix_tokens)


def _take_trunk(
    source: Tensors,
    out: Arrays,
    section: Section,
    side: str,
    width: int,
    patch_size: int,
    image_size: int,
) -> dict[str, Any]:
    """Take a transformer and the positions of its patches; return the fields of its config."""
    size = section.choice(f"vit_{side[:3]}_model_size", _SIZES)
    usual_width, heads = _SIZES[size]
    # Some programs have other widths, but the width of another size is a mistake.
    if width != usual_width and width in (known for known, _ in _SIZES.values()):
        raise CheckpointError(
            f"the {side} is {size} by its config or its name, but {width} wide, which is another "
            "size; the number of its attention heads would be wrong"
        )
    class_token = f"{side}.class_embedding" in source
    patches = (image_size // patch_size) ** 2 if patch_size else 0
    positions = source.take(f"{side}.positional_embedding", class_token + patches, width)
    out[f"{side}.patch_positions"] = positions[class_token:]
    if class_token:
        token = source.take(f"{side}.class_embedding", 1, width)
        out[f"{side}.class_token"] = (token + positions[:1]).reshape(width)
    layers = source.count(f"{side}.transformer.")
    hidden, _ = source.shape(f"{side}.transformer.0.mlp.c_fc.weight", 2)
    shapes: dict[tuple[str, str], tuple[int, ...]] = {
        ("ln_pre", "norm_in"): (width,),
        ("ln_post", "norm_out"): (width,),
    }
    for layer in range(layers):
        theirs, ours = f"transformer.{layer}", f"blocks.{layer}"
        qkv, name = f"{side}.{ours}.attention.qkv", f"{side}.{theirs}.attn.in_proj_"
        out[qkv + ".weight"] = source.take(name + "weight", 3 * width, width)
        out[qkv + ".bias"] = source.take(name + "bias", 3 * width)
        shapes |= {
            (f"{theirs}.ln_1", f"{ours}.norm_attention"): (width,),
            (f"{theirs}.attn.out_proj", f"{ours}.attention.out"): (width, width),
            (f"{theirs}.ln_2", f"{ours}.norm_mlp"): (width,),
            (f"{theirs}.mlp.c_fc", f"{ours}.mlp.0"): (hidden, width),
            (f"{theirs}.mlp.c_proj", f"{ours}.mlp.2"): (width, hidden),
        }
    for (theirs, ours), shape in shapes.items():
        out |= source.take_layer(f"{side}.{theirs}", f"{side}.{ours}", *shape)
    return {
        "width": width,
        "layers": layers,
        "heads": heads,
        "patch_size": patch_size,
        "mlp_ratio": hidden / width,
        "class_token": class_token,
        "outer_norms": True,
    }


def _take_linear(source: Tensors, theirs: str, ours: str, outputs: int, inputs: int) -> Arrays:
    """A linear layer, which is published as a 1x1 convolution."""
    layer = source.take_layer(theirs, ours, outputs, inputs, 1, 1)
    return {name: array.reshape(array.shape[:2]) for name, array in layer.items()}


def _take_pixels(source: Tensors, out: Arrays, width: int) -> int:
    """Take the layers after the transformer that give pixels; return the size of a patch."""
    outputs = source.shape("decoder.ffn.0.weight", 4)[0]
    patch_size = math.isqrt(outputs // 3)
    head = _take_linear(source, "decoder.ffn.0", "decoder.to_pixels", 3 * patch_size**2, width)
    out |= {name: _channels_first(array, patch_size) for name, array in head.items()}
    out |= source.take_layer("decoder.conv_out", "decoder.to_pixels.convolution", 3, 3, 3, 3)
    return patch_size


def _channels_first(rows: Array, patch_size: int) -> Array:
    """Rows of a patch's numbers from (row, column, channel) order to (channel, row, column)."""
    cells = rows.reshape(patch_size, patch_size, 3, *rows.shape[1:])
    return np.moveaxis(cells, 2, 0).reshape(rows.shape)


def _take_vqgan(source: Tensors, out: Arrays, width: int) -> VqganConfig:
    """Take the layers after the transformer that give proxy tokens, and the VQGAN's decoder."""
    if "pixel_decoder.conv_in.weight" not in source:
        raise CheckpointError(
            "a checkpoint of TiTok's first training stage: it gives tokens of MaskGIT-VQGAN and "
            "lacks their decoder; use the one of the second stage"
        )
    head = "decoder.to_pixels."
    size, dim = source.shape("pixel_quantize.embedding.weight", 2)
    out[head + "proxy_codebook"] = source.take("pixel_quantize.embedding.weight", size, dim)
    out |= _take_linear(source, "decoder.ffn.0", head + "to_proxy.0", 2 * width, width)
    out |= _take_linear(source, "decoder.ffn.2", head + "to_proxy.2", size, 2 * width)
    network = Decoder(source, VQGAN_NAMES, "pixel_decoder")
    found = network.take(dim)
    out |= {name.replace("pixel_decoder.", head, 1): x for name, x in network.out.items()}
    vqgan = VqganConfig(
        proxy_codebook_size=size,
        embedding_dim=dim,
        channels=found.channels,
        multipliers=found.multipliers,
        blocks=found.middle_blocks,
    )
    if vqgan.convolutional() != found:
        raise CheckpointError("its pixel decoder is not MaskGIT-VQGAN's")
    return vqgan


def _model(name: str, tokens: int, codebook_size: int, rfid: float, config: Config) -> Model:
    where = f"yucornetto/tokenizer_{name.replace('-', '_')}_imagenet"
    return Model(
        name,
        tokens,
        codebook_size,
        where,
        rfid,
        config,
        verified=name == "titok-s128",
    )


FAMILY = Family(
    title="TiTok",
    licence="Apache-2.0",
    recognises=lambda names, config: is_kind(names, config, "titok"),
    convert=convert,
    models=(
        _model("titok-l32", 32, 4096, 2.21, sizes("large", "large", 32, True)),
        _model("titok-b64", 64, 4096, 1.70, sizes("base", "base", 64, True)),
        _model("titok-s128", 128, 4096, 1.71, sizes("small", "small", 128, True)),
        _model("titok-bl64-vq8k", 64, 8192, 2.06, sizes("base", "large", 64, False)),
        _model("titok-bl128-vq8k", 128, 8192, 1.49, sizes("base", "large", 128, False)),
        _model("titok-sl256-vq8k", 256, 8192, 1.03, sizes("small", "large", 256, False)),
    ),
    needs_config=True,
)
