"""Checkpoints in the layouts that other programs publish, with weights drawn from a seed."""

import json
import re
import shutil
import sys
import types
import zlib

import numpy as np
import torch
from conftest import GOLDEN
from safetensors.numpy import save_file

FOLDER = GOLDEN / "published"


def draw(name, shape, seed, convolutional=False):
    """A tensor from its own frozen stream, of a size that keeps activations in bounds."""
    stream = np.random.RandomState([seed, zlib.crc32(name.encode())])
    x = stream.standard_normal(shape).astype(np.float32)
    leaf = name.rpartition(".")[2]
    if leaf == "running_mean":
        return (0.1 * x).astype(np.float32)
    if leaf == "running_var":
        return (0.5 + 0.25 * np.abs(x)).astype(np.float32)
    fan_in = np.prod(shape[1:], dtype=int) if len(shape) > 1 else shape[0]
    if leaf == "weight" and x.ndim == 1:
        x = 1 + 0.05 * x
    elif leaf in ("bias", "in_proj_bias"):
        x = 0.02 * x
    elif convolutional:
        gain = 3.0 if name.startswith("encoder.") and "conv_in" in name else 1.0
        x = 0.3 * x if name.endswith("embedding.weight") else gain * x / np.sqrt(fan_in)
    elif name.endswith(("quantize.embedding.weight", "embedding_table.weight")):
        pass
    elif any(part in name for part in ("embedding", "latent_tokens", "mask_token")):
        x = 0.3 * x
    else:
        gain = 3.0 if leaf == "in_proj_weight" else 4.0 if "patch_embed" in name else 1.0
        x = gain * x / np.sqrt(fan_in)
    return x.astype(np.float32)


def golden(name):
    """Config and tensors of a set in golden/published, copies included."""
    parameters = json.loads((FOLDER / name / "parameters.json").read_text())
    tensors = {
        key: draw(key, shape, parameters["seed"]) for key, shape in parameters["shapes"].items()
    }
    tensors |= {copy: tensors[key].copy() for copy, key in parameters["aliases"].items()}
    return json.loads((FOLDER / name / "config.json").read_text()), tensors


def widened(name, factor):
    """Tensor names and shapes of a set of golden/published, with so many times the channels."""
    spec = json.loads((FOLDER / name / "parameters.json").read_text())
    return {
        key: tuple(shape)
        if key.startswith("quantize.")
        else tuple(n * factor if n % 32 == 0 else n for n in shape)
        for key, shape in spec["shapes"].items()
    } | {key: array.shape for key, array in constants(spec).items()}


def write_golden(name, folder):
    """A convolutional set of golden/published, in the file and form that it is published in."""
    spec = json.loads((FOLDER / name / "parameters.json").read_text())

    def drawn(seed):
        return {
            key: np.zeros(shape, np.float32)
            if key in spec["zeros"]
            else draw(key, shape, seed, convolutional=True) * gain(key)
            for key, shape in spec["shapes"].items()
        }

    def zero_rows(weights):
        for key, row in spec.get("zero_rows", {}).items():
            weights[key][row] = 0
        return weights

    def gain(key):
        gains = (np.float32(g) for part, g in spec.get("gains", []) if re.search(part, key))
        return next(gains, np.float32(1))

    weights = zero_rows(drawn(spec["seed"])) | constants(spec)
    if "ema" in spec:  # what counts are the averages, under names without dots
        averages = {spec["ema"] + key.replace(".", ""): x for key, x in weights.items()}
        counters = {"decay": np.float32(0.999), "num_updates": np.int32(-1)}
        weights = drawn(spec["seed"] + 1000) | averages
        weights |= {spec["ema"] + key: np.asarray(x) for key, x in counters.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for config in ("config.json", "config.yaml"):
        if (FOLDER / name / config).exists():
            shutil.copy(FOLDER / name / config, folder)
    for file, names in spec.get("archives", {}).items():
        save_torchscript({key: weights[source] for key, source in names.items()}, folder / file)
    if "archives" in spec:
        return folder
    path = folder / spec["file"]
    if path.suffix == ".safetensors":
        save_file(weights, path)
    elif "wrap" in spec:  # a state dict alone, or beneath these keys; copies share their storage
        state = {key: torch.from_numpy(x) for key, x in weights.items()}
        state |= {copy: state[key] for copy, key in spec["aliases"].items()}
        for key in reversed(spec["wrap"]):
            state = {key: state}
        torch.save(state, path)
    else:
        save_torch({key: torch.from_numpy(np.asarray(x)) for key, x in weights.items()}, path)
    return path


def constants(spec):
    """Tensors of a set that are not drawn."""
    kinds = dict.fromkeys(spec.get("int32", []), np.int32)
    found = {k: np.array(x, kinds.get(k, np.int64)) for k, x in spec.get("integers", {}).items()}
    found |= {k: np.array(x, np.float32) for k, x in spec.get("floats", {}).items()}
    for name, levels in spec.get("grids", {}).items():
        sizes, basis = np.array(levels), np.cumprod([1, *levels[:-1]])
        digits = np.arange(sizes.prod())[:, None] // basis % sizes
        found[name] = ((digits - sizes // 2) / (sizes // 2)).astype(np.float32)
    for name, (rows, bits) in spec.get("signs", {}).items():
        places = np.arange(rows)[:, None] >> np.arange(bits)[::-1]
        found[name] = (places & 1).astype(np.float32) * 2 - 1
    return found


def save_torchscript(weights, path):
    """An archive of modules in bfloat16 that carry tensors, as tracing a network leaves them."""

    class Carrier(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    root = Carrier()
    for name, array in weights.items():
        module, *inner, leaf = [root, *name.split(".")]
        for part in inner:
            if part not in module._modules:
                module.add_module(part, Carrier())
            module = module._modules[part]
        tensor = torch.from_numpy(np.array(array))
        module.register_buffer(leaf, tensor.bfloat16() if tensor.is_floating_point() else tensor)
    torch.jit.save(torch.jit.script(root.eval()), str(path))


def save_torch(state, path):
    """A file of torch as trainers leave it, with what they keep beside the weights."""
    if path.suffix == ".pt":
        state = {"model": state, "optimizer": {"state": {}}, "steps": 300_000, "args": None}
    elif path.suffix == ".ckpt":  # Lightning's has objects of a class that a reader has not
        module = types.ModuleType("some_trainer.callbacks")
        callback = type("Checkpoint", (), {"__module__": module.__name__})
        module.Checkpoint = callback
        sys.modules |= {"some_trainer": types.ModuleType("some_trainer"), module.__name__: module}
        state = {**state, "loss.discriminator.main.0.weight": torch.zeros(4, 3, 4, 4)}
        state = {"epoch": 3, "callbacks": {callback: {"best": callback()}}, "state_dict": state}
    torch.save(state, path)
    for name in ("some_trainer", "some_trainer.callbacks"):
        sys.modules.pop(name, None)


def vqgan_shapes(
    channels, multipliers, blocks, embedding_channels, codebook, attention, middle=True
):
    """Tensor names and shapes of a VQGAN, with ``attention`` at these levels."""
    shapes = {}

    def convolution(name, outputs, inputs, side=3):
        shapes[name + ".weight"], shapes[name + ".bias"] = (outputs, inputs, side, side), (outputs,)

    def norm(name, width):
        shapes[name + ".weight"] = shapes[name + ".bias"] = (width,)

    def block(name, before, after):
        norm(name + ".norm1", before)
        convolution(name + ".conv1", after, before)
        norm(name + ".norm2", after)
        convolution(name + ".conv2", after, after)
        if before != after:
            convolution(name + ".nin_shortcut", after, before, 1)

    def attend(name, width):
        norm(name + ".norm", width)
        for part in ("q", "k", "v", "proj_out"):
            convolution(f"{name}.{part}", width, width, 1)

    widths = [channels * multiplier for multiplier in multipliers]
    convolution("encoder.conv_in", channels, 3)
    convolution("decoder.conv_in", widths[-1], embedding_channels)
    for side, kind, step, count in (
        ("encoder", "down", "downsample", blocks),
        ("decoder", "up", "upsample", blocks + 1),
    ):
        numbers = range(len(widths)) if kind == "down" else range(len(widths) - 1, -1, -1)
        before = channels if kind == "down" else widths[-1]
        for level in numbers:
            for number in range(count):
                block(f"{side}.{kind}.{level}.block.{number}", before, widths[level])
                before = widths[level]
                if level in attention:
                    attend(f"{side}.{kind}.{level}.attn.{number}", before)
            if level != numbers[-1]:
                convolution(f"{side}.{kind}.{level}.{step}.conv", before, before)
        for number in (1, 2):
            block(f"{side}.mid.block_{number}", widths[-1], widths[-1])
        if middle:
            attend(f"{side}.mid.attn_1", widths[-1])
        norm(f"{side}.norm_out", before)
    convolution("encoder.conv_out", embedding_channels, widths[-1])
    convolution("decoder.conv_out", 3, channels * multipliers[0])
    convolution("quant_conv", codebook[1], embedding_channels, 1)
    convolution("post_quant_conv", embedding_channels, codebook[1], 1)
    shapes["quantize.embedding.weight"] = codebook
    return shapes


def diffusers_names(shapes):
    """A VQGAN's shapes under the names of diffusers, whose attentions have linear layers."""
    levels = 1 + max(int(name.split(".")[2]) for name in shapes if ".down." in name)
    parts = {
        r"\.down\.(\d+)\.": r".down_blocks.\1.",
        r"\.up\.(\d+)\.": lambda match: f".up_blocks.{levels - 1 - int(match[1])}.",
        r"\.block\.": ".resnets.",
        r"\.attn\.": ".attentions.",
        r"\.mid\.block_(\d)": lambda match: f".mid_block.resnets.{int(match[1]) - 1}",
        r"\.mid\.attn_1": ".mid_block.attentions.0",
        r"\.(down|up)sample\.": r".\1samplers.0.",
        "nin_shortcut": "conv_shortcut",
        r"\.norm_out": ".conv_norm_out",
        r"(attentions\.\d)\.norm\.norm_layer": r"\1.spatial_norm.norm_layer",
        r"(attentions\.\d)\.norm\.conv": r"\1.spatial_norm.conv",
        r"(attentions\.\d)\.norm\.": r"\1.group_norm.",
        r"(attentions\.\d)\.([qkv])\.": r"\1.to_\2.",
        r"(attentions\.\d)\.proj_out\.": r"\1.to_out.0.",
    }
    renamed = {}
    for name, shape in shapes.items():
        for theirs, ours in parts.items():
            name = re.sub(theirs, ours, name)
        renamed[name] = shape[:2] if ".to_" in name else shape
    return renamed


def spatial(shapes, channels):
    """A VQGAN's shapes with norms in its decoder that take the tokens, of so many channels."""
    out = {}
    for name, shape in shapes.items():
        owner, _, leaf = name.rpartition(".")
        if not name.startswith("decoder.") or "norm" not in owner:
            out[name] = shape
            continue
        out[f"{owner}.norm_layer.{leaf}"] = shape
        for part in ("conv_y", "conv_b"):
            more = (channels, 1, 1) if leaf == "weight" else ()
            out[f"{owner}.{part}.{leaf}"] = (*shape, *more)
    return out


def llamagen_names(shapes):
    """A VQGAN's shapes under the names of LlamaGen."""
    levels = 1 + max(int(name.split(".")[2]) for name in shapes if ".down." in name)
    renamed = {}
    for name, shape in shapes.items():
        for number, part in enumerate(("block_1", "attn_1", "block_2")):
            name = name.replace(f".mid.{part}", f".mid.{number}")
        parts = name.split(".")
        if parts[1] in ("down", "up"):
            place = int(parts[2]) if parts[1] == "down" else levels - 1 - int(parts[2])
            parts[1:3] = ["conv_blocks", str(place)]
            parts[3] = parts[3].replace("block", "res")
        renamed[".".join(parts)] = shape
    return renamed


def unbiased_shapes(multipliers, blocks, embedding_dim, codebook_size=None, channels=128):
    """Of an Open-MAGVIT2; of a MaskGIT-VQGAN where there is a codebook."""
    maskgit = codebook_size is not None
    shapes = {"quantize.embedding.weight": (codebook_size, embedding_dim)} if maskgit else {}
    middle = "mid" if maskgit else "mid_block"

    def layer(name, *shape, bias=True):
        shapes[name + ".weight"] = shape
        if bias:
            shapes[name + ".bias"] = shape[:1]

    def block(name, before, after):
        layer(name + ".norm1", before)
        layer(name + ".conv1", after, before, 3, 3, bias=False)
        layer(name + ".norm2", after)
        layer(name + ".conv2", after, after, 3, 3, bias=False)
        if before != after:
            start = after if maskgit else before
            layer(name + ".nin_shortcut", after, start, 1, 1, bias=False)

    widths = [channels * multiplier for multiplier in multipliers]
    before = channels
    layer("encoder.conv_in", channels, 3, 3, 3, bias=False)
    for level, width in enumerate(widths):
        for number in range(blocks):
            block(f"encoder.down.{level}.block.{number}", before, width)
            before = width
        if level < len(widths) - 1 and not maskgit:
            layer(f"encoder.down.{level}.downsample", width, width, 3, 3)
    for side in ("encoder", "decoder"):
        for number in range(blocks):
            block(f"{side}.{middle}.{number}", before, before)
    layer("encoder.norm_out", before)
    layer("encoder.conv_out", embedding_dim, before, 1, 1)
    layer("decoder.conv_in", before, embedding_dim, 3, 3)
    for level, width in reversed(list(enumerate(widths))):
        if not maskgit:
            for part in ("gamma", "beta"):
                layer(f"decoder.adaptive.{level}.{part}", before, embedding_dim)
        for number in range(blocks):
            block(f"decoder.up.{level}.block.{number}", before, width)
            before = width
        if level and maskgit:
            layer(f"decoder.up.{level}.upsample_conv", width, width, 3, 3)
        elif level:
            layer(f"decoder.up.{level}.upsample.conv1", 4 * width, width, 3, 3)
    layer("decoder.norm_out", before)
    layer("decoder.conv_out", 3, before, 3, 3)
    return shapes


def titok_shapes(
    encoder, decoder, num_latents, codebook, image=256, patch=16, vqgan=(1024, 256, 128)
):
    """Tensor names and shapes of a TiTok.

    ``encoder`` and ``decoder`` are (width, layers), ``codebook`` is (K, d), ``vqgan`` (proxy
    tokens, their channels, channels at full resolution), or None where the decoder gives pixels.
    """
    _, embedding_dim = codebook
    shapes = {
        "latent_tokens": (num_latents, encoder[0]),
        "quantize.embedding.weight": codebook,
        "encoder.patch_embed.weight": (encoder[0], 3, patch, patch),
        "encoder.patch_embed.bias": (encoder[0],),
        "encoder.conv_out.weight": (embedding_dim, encoder[0], 1, 1),
        "encoder.conv_out.bias": (embedding_dim,),
        "decoder.mask_token": (1, 1, decoder[0]),
        "decoder.decoder_embed.weight": (decoder[0], embedding_dim),
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
    """A TiTok of the first kind, or a One-D-Piece: 6 tokens of 32, tiles of 16 pixels."""
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
