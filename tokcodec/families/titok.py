"""TiTok (arXiv 2406.07550): the first checkpoints, with a MaskGIT-VQGAN behind the decoder, and the
later ones (``vq8k`` in their names), which give pixels themselves."""

from collections.abc import Collection, Mapping

from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.parts import DecoderConfig
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.config.vit import (
    LatentDecoderConfig,
    LatentEncoderConfig,
    ProxyDecoderConfig,
    VqganConfig,
)
from tokcodec.errors import CheckpointError, quoted
from tokcodec.families.family import Config, Family, Model
from tokcodec.families.reading import Arrays, Section, Tensors
from tokcodec.families.vit import (
    HEADS,
    pixel_patch_size,
    require_image_size,
    require_sizes,
    take_1x1,
    take_decoder,
    take_encoder,
    take_pixel_head,
)

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
    source: Tensors, config: Config, image_size: int | None, prefix_tokens: bool = False
) -> tuple[ModelConfig, Arrays]:
    """TiTok's config and tensors as ours.

    Raises:
        CheckpointError: something is missing, over, of another shape or not finite; or it is a
            checkpoint of a first training stage, whose proxy tokens it cannot decode itself.
    """
    section = Section(config, "model", "vq_model")
    section.only(_USED | _UNUSED)
    section.choice("quantize_mode", ["vq"], default="vq")
    side = require_image_size(Section(config, "dataset", "preprocessing"), image_size)
    codebook_size, embedding_dim = source.shape("quantize.embedding.weight", 2)
    size = section.choice("vit_enc_model_size", HEADS)
    encoder, out = take_encoder(source, size, side, embedding_dim)

    proxies = "decoder.ffn.2.weight" in source
    if section.boolean("is_legacy", default=True) != proxies:
        raise CheckpointError(
            f"its config: model.vq_model.is_legacy: {not proxies} (true if absent), "
            f"but its tensors say {proxies}"
        )
    vqgan = _vqgan_config(source) if proxies else None
    patch_size = 2 ** (len(vqgan.multipliers) - 1) if vqgan else pixel_patch_size(source)
    size = section.choice("vit_dec_model_size", HEADS)
    fields, part = take_decoder(
        source, size, side, patch_size, encoder["num_latents"], embedding_dim
    )
    out |= part
    decoder: DecoderConfig
    if vqgan:
        decoder = ProxyDecoderConfig(**fields, vqgan=vqgan, prefix_tokens=prefix_tokens)
        out |= _take_vqgan(source, fields["width"], vqgan)
    else:
        decoder = LatentDecoderConfig(**fields, pixel_convolution=True, prefix_tokens=prefix_tokens)
        out |= take_pixel_head(source, fields["width"], patch_size)
    out["quantizer.codebook"] = source.take(
        "quantize.embedding.weight", codebook_size, embedding_dim
    )
    source.finish()
    converted = ModelConfig(
        encoder=LatentEncoderConfig(**encoder, legacy_latents=proxies),
        quantizer=CodebookConfig(
            codebook_size=codebook_size,
            embedding_dim=embedding_dim,
            metric="cosine" if section.boolean("use_l2_norm") else "euclidean",
        ),
        decoder=decoder,
        preprocessing=PreprocessingConfig(
            image_size=side, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
        ),
        default_fit="crop",
    )
    require_sizes(section, converted, encoder["patch_size"], patch_size)
    return converted, out


def is_kind(names: Collection[str], config: Config | None, kind: str) -> bool:
    """Whether it is a TiTok, or another ``model.type`` of the same tensors.

    Raises:
        CheckpointError: it has no tokens or needs a text.
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
    """What a file without a config leaves open."""
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


def _vqgan_config(source: Tensors) -> VqganConfig:
    if "pixel_decoder.conv_in.weight" not in source:
        raise CheckpointError(
            "a checkpoint of TiTok's first training stage: it gives tokens of MaskGIT-VQGAN and "
            "lacks their decoder; use the one of the second stage"
        )
    proxy_codebook_size, embedding_dim = source.shape("pixel_quantize.embedding.weight", 2)
    levels = max(1, source.count("pixel_decoder.up."))
    widths = [
        source.shape(f"pixel_decoder.up.{level}.block.0.conv1.weight", 4)[0]
        for level in range(levels)
    ]
    return VqganConfig(
        proxy_codebook_size=proxy_codebook_size,
        embedding_dim=embedding_dim,
        channels=widths[0],
        multipliers=tuple(width // max(1, widths[0]) for width in widths),
        blocks=source.count("pixel_decoder.mid."),
    )


def _take_vqgan(source: Tensors, width: int, vqgan: VqganConfig) -> Arrays:
    head = "decoder.to_pixels."
    proxy_codebook_size, embedding_dim, hidden = (
        vqgan.proxy_codebook_size,
        vqgan.embedding_dim,
        2 * width,
    )
    out = {
        head + "to_proxy.0.weight": take_1x1(source, "decoder.ffn.0.weight", hidden, width),
        head + "to_proxy.0.bias": source.take("decoder.ffn.0.bias", hidden),
        head + "to_proxy.2.weight": take_1x1(
            source, "decoder.ffn.2.weight", proxy_codebook_size, hidden
        ),
        head + "to_proxy.2.bias": source.take("decoder.ffn.2.bias", proxy_codebook_size),
        head + "proxy_codebook": source.take(
            "pixel_quantize.embedding.weight", proxy_codebook_size, embedding_dim
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
    take("conv_in", "enter", before, embedding_dim, 3, 3)
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


def _model(name: str, tokens: int, codebook_size: int, rfid: float, config: Config) -> Model:
    where = f"yucornetto/tokenizer_{name.replace('-', '_')}_imagenet"
    return Model(
        name,
        tokens,
        codebook_size,
        where,
        rfid,
        config,
        verified="tokens" if name == "titok-s128" else "shapes",
    )


FAMILY = Family(
    name="titok",
    title="TiTok",
    paper="2406.07550",
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
