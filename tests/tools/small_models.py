"""Small models: of the kind ``patch``, with every option of it between them, and of squares."""

import torch

from tokcodec import checkpoint
from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.config.vit import (
    LatentDecoderConfig,
    LatentEncoderConfig,
    PatchDecoderConfig,
    PatchEncoderConfig,
)
from tokcodec.model.tokenizer import Tokenizer


def config(metric="euclidean", **both):
    size = {"width": 32, "layers": 2, "heads": 2, "positions": 5, **both}
    return ModelConfig(
        encoder=PatchEncoderConfig(patch_size=4, **size),
        quantizer=CodebookConfig(codebook_size=500, embedding_dim=6, metric=metric),
        decoder=PatchDecoderConfig(
            patch_size=8,
            pixel_overlap=4,
            pixel_convolution=both.get("class_token", False),
            **size,
        ),
        preprocessing=PreprocessingConfig(image_size=32, pixel_scale=2, mean=(0.4, 0.5, 0.6)),
        rounding="down" if metric == "dot" else "nearest",
    )


CONFIGS = {
    "euclidean": config(),
    "cosine": config("cosine", class_token=True),
    "dot": config("dot", outer_norms=True),
}


def squares(size):
    """A config of squares of this size, of which any first tokens are decoded alone."""
    part = {"width": 32, "layers": 1, "heads": 2, "patch_size": 16}
    return ModelConfig(
        encoder=LatentEncoderConfig(**part, num_latents=64),
        decoder=LatentDecoderConfig(**part, prefix_tokens=True),
        quantizer=CodebookConfig(codebook_size=64, embedding_dim=4),
        preprocessing=PreprocessingConfig(image_size=size),
    )


def write(path, made):
    """A checkpoint of a config, with weights drawn from a seed."""
    torch.manual_seed(0)
    model = Tokenizer(made)
    for tensor in model.state_dict().values():
        tensor.normal_(0, tensor.shape[-1] ** -0.5)
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return checkpoint.write(path, made, tensors, {})
