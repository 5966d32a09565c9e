"""Checkpoints in the layouts that other programs publish, with weights drawn from a seed."""

import json
import zlib

import numpy as np
from conftest import GOLDEN
from safetensors.numpy import save_file

FOLDER = GOLDEN / "published"


def draw(name, shape, seed):
    """A tensor from its own frozen stream, of a size that keeps activations in bounds."""
    stream = np.random.RandomState([seed, zlib.crc32(name.encode())])
    x = stream.standard_normal(shape).astype(np.float32)
    leaf = name.rpartition(".")[2]
    if leaf == "weight" and x.ndim == 1:
        x = 1 + 0.05 * x
    elif leaf in ("bias", "in_proj_bias"):
        x = 0.02 * x
    elif name.endswith(("quantize.embedding.weight", "embedding_table.weight")):
        pass
    elif any(part in name for part in ("embedding", "latent_tokens", "mask_token")):
        x = 0.3 * x
    else:
        gain = 3.0 if leaf == "in_proj_weight" else 4.0 if "patch_embed" in name else 1.0
        x = gain * x / np.sqrt(np.prod(shape[1:], dtype=int) if len(shape) > 1 else shape[0])
    return x.astype(np.float32)


def golden(name):
    """Config and tensors of a set in golden/published, copies included."""
    parameters = json.loads((FOLDER / name / "parameters.json").read_text())
    tensors = {
        key: draw(key, shape, parameters["seed"]) for key, shape in parameters["shapes"].items()
    }
    tensors |= {copy: tensors[key].copy() for copy, key in parameters["aliases"].items()}
    return json.loads((FOLDER / name / "config.json").read_text()), tensors


def titok_shapes(
    encoder, decoder, num_latents, codebook, image=256, patch=16, vqgan=(1024, 256, 128)
):
    """Tensor names and shapes of a TiTok.

    ``encoder`` and ``decoder`` are (width, layers), ``codebook`` is (K, d), ``vqgan`` (proxy
    codes, their channels, channels at full resolution), or None where the decoder gives pixels.
    """
    _, code_dim = codebook
    shapes = {
        "latent_tokens": (num_latents, encoder[0]),
        "quantize.embedding.weight": codebook,
        "encoder.patch_embed.weight": (encoder[0], 3, patch, patch),
        "encoder.patch_embed.bias": (encoder[0],),
        "encoder.conv_out.weight": (code_dim, encoder[0], 1, 1),
        "encoder.conv_out.bias": (code_dim,),
        "decoder.mask_token": (1, 1, decoder[0]),
        "decoder.decoder_embed.weight": (decoder[0], code_dim),
        "decoder.decoder_embed.bias": (decoder[0],),
    }
    for side, (width, layers) in (("encoder", encoder), ("decoder", decoder)):
        shapes[f"{side}.class_embedding"] = (1, width)
        shapes[f"{side}.positional_embedding"] = ((image // patch) ** 2 + 1, width)
        shapes[f"{side}.latent_token_positional_embedding"] = (num_latents, width)
        sizes = {"ln_pre": (width,), "ln_post": (width,)}
        for layer in range(layers):
            block = f"transformer.{layer}."
            sizes[block + "ln_1"] = sizes[block + "ln_2"] = (width,)
            sizes[block + "attn.out_proj"] = (width, width)
            sizes[block + "mlp.c_fc"] = (4 * width, width)
            sizes[block + "mlp.c_proj"] = (width, 4 * width)
            shapes[f"{side}.{block}attn.in_proj_weight"] = (3 * width, width)
            shapes[f"{side}.{block}attn.in_proj_bias"] = (3 * width,)
        for name, shape in sizes.items():
            shapes[f"{side}.{name}.weight"] = shape
            shapes[f"{side}.{name}.bias"] = shape[:1]
    width = decoder[0]
    if vqgan is None:
        shapes["decoder.ffn.0.weight"] = (3 * patch**2, width, 1, 1)
        shapes["decoder.ffn.0.bias"] = (3 * patch**2,)
        shapes["decoder.conv_out.weight"] = (3, 3, 3, 3)
        shapes["decoder.conv_out.bias"] = (3,)
        return shapes
    proxies, channels_in, channels = vqgan
    shapes["decoder.ffn.0.weight"] = (2 * width, width, 1, 1)
    shapes["decoder.ffn.0.bias"] = (2 * width,)
    shapes["decoder.ffn.2.weight"] = (proxies, 2 * width, 1, 1)
    shapes["decoder.ffn.2.bias"] = (proxies,)
    shapes["pixel_quantize.embedding.weight"] = (proxies, channels_in)
    widths = [channels * m for m in (1, 1, 2, 2, 4)[: patch.bit_length()]]

    def convolution(name, outputs, inputs, bias=True, side=3):
        shapes[f"pixel_decoder.{name}.weight"] = (outputs, inputs, side, side)
        if bias:
            shapes[f"pixel_decoder.{name}.bias"] = (outputs,)

    def block(name, before, after):
        for number, width in ((1, before), (2, after)):
            shapes[f"pixel_decoder.{name}.norm{number}.weight"] = (width,)
            shapes[f"pixel_decoder.{name}.norm{number}.bias"] = (width,)
            convolution(f"{name}.conv{number}", after, width, bias=False)
        if before != after:
            convolution(f"{name}.nin_shortcut", after, after, bias=False, side=1)

    convolution("conv_in", widths[-1], channels_in)
    for number in range(2):
        block(f"mid.{number}", widths[-1], widths[-1])
    for level, width in enumerate(widths):
        above = widths[min(level + 1, len(widths) - 1)]
        block(f"up.{level}.block.0", above, width)
        block(f"up.{level}.block.1", width, width)
        if level:
            convolution(f"up.{level}.upsample_conv", width, width)
    shapes["pixel_decoder.norm_out.weight"] = shapes["pixel_decoder.norm_out.bias"] = (widths[0],)
    convolution("conv_out", 3, widths[0])
    return shapes


def tiny(prefix=False, num_latents=6):
    """A TiTok of the first kind, or a One-D-Piece: 6 codes of 32, squares of 16 pixels."""
    shapes = titok_shapes(
        (32, 1), (48, 2), num_latents, (32, 4), image=16, patch=4, vqgan=(8, 12, 32)
    )
    model = {
        "codebook_size": 32,
        "token_size": 4,
        "use_l2_norm": True,
        "commitment_cost": 0.25,
        "vit_enc_model_size": "small",
        "vit_dec_model_size": "large",
        "vit_enc_patch_size": 4,
        "vit_dec_patch_size": 4,
        "num_latent_tokens": num_latents,
        "finetune_decoder": True,
    }
    config = {"model": {"vq_model": model}, "dataset": {"preprocessing": {"crop_size": 16}}}
    if prefix:
        config["model"]["type"] = "one_d_piece"
    return config, {name: draw(name, shape, 5) for name, shape in shapes.items()}


def write(folder, config, tensors):
    """The two files that such a model is published as."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder
