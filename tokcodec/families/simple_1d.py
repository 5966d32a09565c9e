"""simple-1d-tokenizer: TiTok's transformers without class tokens, on normalized pixels.

Its config also names ``use_l2_norm`` and ``finetune_decoder``; its code does neither.
"""

import re

from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.config.vit import LatentDecoderConfig, LatentEncoderConfig
from tokcodec.errors import CheckpointError
from tokcodec.families.family import Config, Family, Model
from tokcodec.families.reading import Arrays, Section, Tensors
from tokcodec.families.vit import (
    HEADS,
    pixel_patch_size,
    require_image_size,
    require_sizes,
    take_decoder,
    take_encoder,
    take_pixel_head,
)

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


def convert(source: Tensors, config: Config, image_size: int | None) -> tuple[ModelConfig, Arrays]:
    """The config and tensors of simple-1d-tokenizer as ours.

    Raises:
        CheckpointError: something is missing, over, of another shape or not finite; or it gives
            tokens of another model in place of pixels.
    """
    source = _without_copies(source)
    if "decoder.ffn.2.weight" in source:
        raise CheckpointError(
            "a simple-1d-tokenizer that gives tokens of another model in place of pixels; "
            "only those that predict pixels can be decoded"
        )
    section = Section(config, "model", "vq_model")
    section.only(_USED | _UNUSED)
    side = require_image_size(Section(config, "dataset", "preprocessing"), image_size)
    codebook_size, embedding_dim = source.shape("quantizer.embedding_table.weight", 2)
    size = section.choice("vit_enc_model_size", HEADS)
    encoder, out = take_encoder(source, size, side, embedding_dim)
    patch_size = pixel_patch_size(source)
    size = section.choice("vit_dec_model_size", HEADS)
    decoder, part = take_decoder(
        source, size, side, patch_size, encoder["num_latents"], embedding_dim
    )
    out |= part
    out |= take_pixel_head(source, decoder["width"], patch_size)
    out["quantizer.codebook"] = source.take(
        "quantizer.embedding_table.weight", codebook_size, embedding_dim
    )
    source.finish()
    converted = ModelConfig(
        encoder=LatentEncoderConfig(**encoder),
        quantizer=CodebookConfig(codebook_size=codebook_size, embedding_dim=embedding_dim),
        decoder=LatentDecoderConfig(**decoder, pixel_convolution=True),
        preprocessing=PreprocessingConfig(image_size=side, mean=_IMAGENET_MEAN, std=_IMAGENET_STD),
        default_fit="crop",
    )
    require_sizes(section, converted, encoder["patch_size"], patch_size)
    return converted, out


def _without_copies(source: Tensors) -> Tensors:
    """Its code has the layers a second time, in ``model``; files hold either name or both."""
    names: dict[str, str] = {}
    for side in ("encoder", "decoder"):
        layers = len(
            {
                int(match[1] or int(match[2]) - 2)
                for name in source.names()
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
    kept: dict[str, str] = {}
    for name in source.names():
        head = ".".join(name.split(".")[:3])
        original = names[head] + name[len(head) :] if head in names else name
        other = kept.setdefault(original, name)
        if other != name and not source.equal(other, name):
            raise CheckpointError(f"tensor {original} and its copy in model differ")
    return source.renamed(kept)


FAMILY = Family(
    name="simple_1d",
    title="simple-1d-tokenizer",
    paper=None,
    licence="none stated",
    recognises=lambda names, config: "quantizer.embedding_table.weight" in names,  # noqa: ARG005
    convert=convert,
    models=(
        Model(
            "simple-1d-tokenizer",
            128,
            512,
            "no weights known; GitHub AndrewBoessen/simple-1d-tokenizer",
            config={
                "model": {
                    "vq_model": {
                        "vit_enc_model_size": "small",
                        "vit_dec_model_size": "small",
                        "num_latent_tokens": 128,
                    }
                },
                "dataset": {"preprocessing": {"crop_size": 256}},
            },
            verified="tokens",
        ),
    ),
    needs_config=True,
)
