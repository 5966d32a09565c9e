"""TiTok (arXiv 2406.07550): the first checkpoints, with a MaskGIT-VQGAN behind the decoder, and the
later ones (``vq8k`` in their names), which give pixels themselves."""

from collections.abc import Mapping
from typing import Any

from tokcodec.config import (
    ModelConfig,
    PreprocessingConfig,
    QuantizerConfig,
    VqganConfig,
)
from tokcodec.convert.published import Array, Arrays, Section, Tensors
from tokcodec.convert.vit import (
    HEADS,
    pixel_patch_size,
    require_sizes,
    take_1x1,
    take_decoder,
    take_encoder,
    take_pixel_head,
)
from tokcodec.errors import CheckpointError

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
# Of training, or better told by the tensors.
_UNUSED = {
    "commitment_cost",
    "finetune_decoder",
    "pretrained_tokenizer_weight",
    "strict_length_assertion",
}


def convert(
    config: Mapping[str, Any], tensors: Mapping[str, Array], prefix_codes: bool = False
) -> tuple[ModelConfig, Arrays]:
    """TiTok's config and tensors as ours.

    Raises:
        CheckpointError: something is missing, over, of another shape or not finite; or it is a
            checkpoint of a first training stage, whose proxy codes it cannot decode itself.
    """
    source = Tensors(tensors)
    section = Section(config, "model", "vq_model")
    section.only(_USED | _UNUSED)
    section.choice("quantize_mode", ["vq"], default="vq")
    image_size = Section(config, "dataset", "preprocessing").integer("crop_size")
    codebook_size, code_dim = source.shape("quantize.embedding.weight", 2)
    size = section.choice("vit_enc_model_size", HEADS)
    encoder, num_latents, out = take_encoder(source, size, image_size, code_dim)

    proxies = "decoder.ffn.2.weight" in source
    if section.boolean("is_legacy", default=True) != proxies:
        raise CheckpointError(
            f"its config: model.vq_model.is_legacy: {not proxies} (true if absent), "
            f"but its tensors say {proxies}"
        )
    vqgan = _vqgan_config(source) if proxies else None
    patch_size = 2 ** (len(vqgan.multipliers) - 1) if vqgan else pixel_patch_size(source)
    size = section.choice("vit_dec_model_size", HEADS)
    decoder, part = take_decoder(source, size, image_size, patch_size, num_latents, code_dim)
    out |= part
    if vqgan:
        out |= _take_vqgan(source, decoder.width, vqgan)
    else:
        out |= take_pixel_head(source, decoder.width, patch_size)
    out["quantizer.codebook"] = source.take("quantize.embedding.weight", codebook_size, code_dim)
    source.finish()
    converted = ModelConfig(
        layout="latent",
        encoder=encoder,
        decoder=decoder,
        quantizer=QuantizerConfig(codebook_size, code_dim, section.boolean("use_l2_norm")),
        preprocessing=PreprocessingConfig(
            image_size=image_size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
        ),
        num_latents=num_latents,
        legacy_latents=proxies,
        prefix_codes=prefix_codes,
        pixel_convolution=not proxies,
        vqgan=vqgan,
        default_fit="crop",
    )
    require_sizes(section, converted)
    return converted, out


def _vqgan_config(source: Tensors) -> VqganConfig:
    if "pixel_decoder.conv_in.weight" not in source:
        raise CheckpointError(
            "a checkpoint of TiTok's first training stage: it gives codes of MaskGIT-VQGAN and "
            "lacks their decoder; use the one of the second stage"
        )
    proxy_codes, code_dim = source.shape("pixel_quantize.embedding.weight", 2)
    levels = max(1, source.count("pixel_decoder.up."))
    widths = [
        source.shape(f"pixel_decoder.up.{level}.block.0.conv1.weight", 4)[0]
        for level in range(levels)
    ]
    return VqganConfig(
        proxy_codes=proxy_codes,
        code_dim=code_dim,
        channels=widths[0],
        multipliers=tuple(width // max(1, widths[0]) for width in widths),
        blocks=source.count("pixel_decoder.mid."),
    )


def _take_vqgan(source: Tensors, width: int, vqgan: VqganConfig) -> Arrays:
    head = "decoder.to_pixels."
    proxy_codes, code_dim, hidden = vqgan.proxy_codes, vqgan.code_dim, 2 * width
    out = {
        head + "to_proxy.0.weight": take_1x1(source, "decoder.ffn.0.weight", hidden, width),
        head + "to_proxy.0.bias": source.take("decoder.ffn.0.bias", hidden),
        head + "to_proxy.2.weight": take_1x1(source, "decoder.ffn.2.weight", proxy_codes, hidden),
        head + "to_proxy.2.bias": source.take("decoder.ffn.2.bias", proxy_codes),
        head + "proxy_codebook": source.take(
            "pixel_quantize.embedding.weight", proxy_codes, code_dim
        ),
    }

    def take(theirs: str, ours: str, *shape: int, bias: bool = True) -> None:
        out[f"{head}{ours}.weight"] = source.take(f"pixel_decoder.{theirs}.weight", *shape)
        if bias:
            out[f"{head}{ours}.bias"] = source.take(f"pixel_decoder.{theirs}.bias", shape[0])

    def take_block(theirs: str, ours: str, before: int, after: int) -> None:
        take(f"{theirs}.norm1", f"{ours}.norm1", before)
        take(f"{theirs}.conv1", f"{ours}.conv1", after, before, 3, 3, bias=False)
        take(f"{theirs}.norm2", f"{ours}.norm2", after)
        take(f"{theirs}.conv2", f"{ours}.conv2", after, after, 3, 3, bias=False)
        if before != after:
            take(f"{theirs}.nin_shortcut", f"{ours}.shortcut", after, after, 1, 1, bias=False)

    widths = [vqgan.channels * multiplier for multiplier in vqgan.multipliers]
    before = widths[-1]
    take("conv_in", "enter", before, code_dim, 3, 3)
    for block in range(vqgan.blocks):
        take_block(f"mid.{block}", f"middle.{block}", before, before)
    for place, level in enumerate(reversed(range(len(widths)))):
        after = widths[level]
        for block in range(vqgan.blocks):
            theirs, ours = f"up.{level}.block.{block}", f"levels.{place}.blocks.{block}"
            take_block(theirs, ours, before, after)
            before = after
        if level:
            take(f"up.{level}.upsample_conv", f"levels.{place}.enlarge", after, after, 3, 3)
    take("norm_out", "norm", before)
    take("conv_out", "leave", 3, before, 3, 3)
    return out
