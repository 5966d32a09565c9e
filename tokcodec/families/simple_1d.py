"""simple-1d-tokenizer: TiTok's later layout under other names, on normalized pixels.

Its code ignores ``use_l2_norm`` and ``finetune_decoder`` in its config.
"""

import re

from tokcodec.config import ModelConfig
from tokcodec.errors import CheckpointError
from tokcodec.families import titok
from tokcodec.families.family import Config, Family, Model
from tokcodec.families.reading import Arrays, Section, Tensors

_USED = {
    "codebook_size",
    "num_latent_tokens",
    "token_size",
    "vit_dec_model_size",
    "vit_dec_patch_size",
    "vit_enc_model_size",
    "vit_enc_patch_size",
}
_UNUSED = {"commitment_cost", "finetune_decoder", "predict_pixels", "use_l2_norm"}
_BLOCK = r"{}\.(?:transformer\.(\d{{1,6}})|model\.(\d{{1,6}}))\.ln_1\.weight"
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _convert(source: Tensors, config: Config, image_size: int | None) -> tuple[ModelConfig, Arrays]:
    source = _without_copies(source)
    if "decoder.ffn.2.weight" in source:
        raise CheckpointError(
            "a simple-1d-tokenizer that gives tokens of another model in place of pixels; "
            "only those that predict pixels can be decoded"
        )
    section = Section(config, "model", "vq_model")
    section.only(_USED | _UNUSED)
    fields = {name: value for name, value in section.fields.items() if name in _USED}
    fields |= {"use_l2_norm": False, "is_legacy": False}
    titok_config = {**config, "model": {"vq_model": fields}}
    names = {name: name for name in source.names()}
    names["quantize.embedding.weight"] = names.pop("quantizer.embedding_table.weight")
    ours, tensors = titok.convert(source.renamed(names), titok_config, image_size)
    pixels = ours.preprocessing.replace(mean=_IMAGENET_MEAN, std=_IMAGENET_STD)
    return ours.replace(preprocessing=pixels), tensors


def _without_copies(source: Tensors) -> Tensors:
    """Rename or drop the copies of layers: a file has the layers, copies in ``model``, or both."""
    names: dict[str, str] = {}
    for side in ("encoder", "decoder"):
        layers = len(
            {
                int(match[1] or int(match[2]) - 2)
                for name in source.names()
                if (match := re.fullmatch(_BLOCK.format(side), name))
            }
        )
        # The numbers between these are of layers without tensors.
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
    title="simple-1d-tokenizer",
    licence="none stated",
    recognises=lambda names, config: "quantizer.embedding_table.weight" in names,  # noqa: ARG005
    convert=_convert,
    models=(
        Model(
            "simple-1d-tokenizer",
            128,
            512,
            "no weights known; GitHub AndrewBoessen/simple-1d-tokenizer",
            config={
                "model": {
                    "vq_model": {"vit_enc_model_size": "small", "vit_dec_model_size": "small"}
                },
                "dataset": {"preprocessing": {"crop_size": 256}},
            },
            verified=True,
        ),
    ),
    needs_config=True,
)
