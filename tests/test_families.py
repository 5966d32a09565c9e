"""Published checkpoints of other programs: the same tokens, the same images, and bad ones."""

import json
import os
import shutil
import sys

import numpy as np
import published
import pytest
import torch
from conftest import GOLDEN, PHOTOS, read_fitted, results
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tokcodec import Codec, checkpoint
from tokcodec.checkpoint import find
from tokcodec.checkpoint import write_converted as write
from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.errors import CheckpointError, ConfigError, OutputError
from tokcodec.families import convert, known, locate, recognise
from tokcodec.families.reading import Tensors
from tokcodec.model.loading import load
from tokcodec.model.tokenizer import Tokenizer

CPU = torch.device("cpu")
IMAGES = np.load(published.FOLDER / "images.npy")


def converted(name):
    """A golden set, converted in memory."""
    config, tensors = published.golden(name)
    return network(*recognise(tensors, config).convert(Tensors(tensors), config, None))


def network(config, tensors):
    with torch.device("meta"):
        model = Tokenizer(config)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()}, assign=True)
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def check(model, name):
    """Tokens, z and reconstructions are those of the published implementation."""
    folder = published.FOLDER / name
    golden = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    pixels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        z = model.z(pixels)
        # In float32, what processors of several kinds give lies up to 1.2e-3 from float64's z here,
        # and up to 2.4e-3 from its pixels.
        np.testing.assert_allclose(z.transpose(1, 2).numpy(), golden["z"], rtol=0, atol=2.4e-3)
        tokens = model.encode(pixels).numpy()
        decided = golden["margins"] > 1e-3
        assert decided.mean() > 0.95
        assert np.array_equal(tokens[decided], golden["tokens"][decided])
        for file, count in (("reconstruction", None), ("reconstruction_64", 64)):
            if file in golden:
                some = torch.from_numpy(golden["tokens"][:1, :count]).long()
                decoded = model.decoder(model.quantizer.lookup(some)).permute(0, 2, 3, 1)
                np.testing.assert_allclose(decoded.numpy(), golden[file], rtol=0, atol=4.8e-3)
    return len(golden)


# Metric, family, pixels of a token's side.
CONVOLUTIONAL = {
    "taming_f16": ("euclidean", "VQGAN", 16),
    "llamagen_vq16": ("cosine", "LlamaGen", 16),
    "ibq_f16": ("dot", "IBQ", 16),
    "open_magvit2": (None, "Open-MAGVIT2", 16),
    "maskgit_vqgan": ("euclidean", "MaskGIT-VQGAN", 16),
    "diffusers_vq": ("euclidean", "diffusers' VQModel", 16),
    "movqgan": ("euclidean", "MoVQGAN", 8),
    "showo_magvit2": (None, "Show-o's MAGVITv2", 16),
    "emu3_vq": ("euclidean", "Emu3", 8),
    "cosmos_di16": (None, "Cosmos DI", 16),
}


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_convolutional_golden_tokens(name, tmp_path):
    metric, title, multiple = CONVOLUTIONAL[name]
    side = 256 // multiple
    source = locate(str(published.write_golden(name, tmp_path)))
    with source.open() as stored:
        assert recognise(stored, source.read_config()).title == title
    config, tensors = convert(source, image_size=256)
    assert ModelConfig.from_json(config.to_json()) == config
    assert getattr(config.quantizer, "metric", None) == metric
    assert (config.num_tokens, config.multiple) == (side**2, multiple)
    assert config.default_fit == "crop"
    model = network(config, tensors)
    golden = {path.stem: np.load(path) for path in (published.FOLDER / name).glob("*.npy")}
    pixels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        z = model.z(pixels)
        theirs = golden["z"].reshape(3, -1, side, side).transpose(0, 2, 3, 1)
        np.testing.assert_allclose(z.numpy(), theirs, rtol=0, atol=1e-3)
        decided = golden["margins"] > 1e-3
        assert decided.mean() > 0.95
        tokens = model.quantizer.tokens(z).flatten(1).numpy()
        assert np.array_equal(tokens[decided], golden["tokens"][decided])
        margins = model.quantizer.margins(z).flatten(1).numpy()
        if config.quantizer.kind == "finite_scalar":
            margins = margins / 2  # the distance to the border, not to the second best
        np.testing.assert_allclose(margins, golden["margins"], rtol=0, atol=2e-3)
        given = torch.from_numpy(golden["tokens"][:1]).long().view(1, side, side)
        decoded = model.decoder(model.quantizer.lookup(given)).permute(0, 2, 3, 1)
    expected = golden["reconstruction"]
    step = 256 // expected.shape[1]  # of some sets only every fourth row and column is kept
    levels = 255 * (1 if name in ("maskgit_vqgan", "diffusers_vq") else 0.5)
    decoded = decoded.numpy()[:, ::step, ::step]
    np.testing.assert_allclose(levels * decoded, levels * expected, rtol=0, atol=0.1)


F4, F8, F16 = (1, 2, 4), (1, 2, 2, 4), (1, 1, 2, 2, 4)
JANUS = "gen_vision_model."
vqgan, unbiased = published.vqgan_shapes, published.unbiased_shapes


def llamagen(levels, prefix=""):
    attention = (len(levels) - 1,)
    shapes = published.llamagen_names(vqgan(128, levels, 2, 256, (16384, 8), attention))
    shapes["quantize.codebook_used"] = (65536,)
    return {prefix + name: shape for name, shape in shapes.items()}


def janus():
    return llamagen(F16, JANUS) | {"gen_embed.weight": (16384, 8), "language_model.norm": (2048,)}


diffusers = published.diffusers_names
AMUSED = (diffusers(vqgan(128, (1, 2, 2, 4, 6), 2, 64, (8192, 64), (), False)), 146_244_675)


def movqgan(channels, blocks):
    shapes = vqgan(channels, F8, blocks, 4, (16384, 4), (3,))
    return published.spatial(shapes, 4)


def cosmos(halvings):
    """Of those with two Haar transforms and three levels."""
    kept = [f"encoder.down.{level}.downsample" for level in range(halvings, 3)]
    kept += [f"decoder.up.{level}.upsample" for level in range(3 - halvings)]
    shapes = published.widened("cosmos_di16", 4)
    return {name: shape for name, shape in shapes.items() if not name.startswith(tuple(kept))}


def commavq(shapes):
    """A VQGAN's as one file of an encoder and one of a decoder, both with the codebook."""
    moved = {
        "quant_conv": "encoder.quant_conv",
        "post_quant_conv": "decoder.post_quant_conv",
        "quantize.embedding": "encoder.quantize._embedding",
    }
    out = {}
    for name, value in shapes.items():
        owner, _, leaf = name.rpartition(".")
        out[f"{moved.get(owner, owner)}.{leaf}"] = value
    copy = "quantize._embedding.weight"
    return {**out, f"decoder.{copy}": out[f"encoder.{copy}"]}


def var():
    shapes = vqgan(160, F16, 2, 32, (4096, 32), (4,))
    for side in ("quant_conv", "post_quant_conv"):
        shapes[f"{side}.weight"] = (32, 32, 3, 3)
    for name in [name for name in shapes if ".q." in name]:
        shapes[name.replace(".q.", ".qkv.")] = (3 * 640, *shapes[name][1:])
        for part in "qkv":
            del shapes[name.replace(".q.", f".{part}.")]
    for number in range(4):
        filter_ = f"quantize.quant_resi.qresi_ls.{number}"
        shapes |= {f"{filter_}.weight": (32, 32, 3, 3), f"{filter_}.bias": (32,)}
    return shapes | {"quantize.ema_vocab_hit_SV": (10, 4096)}


def rq_vae(size, attention):
    shapes = vqgan(128, (1, 1, 2, 2, 4, 4), 2, 256, (size, 256), (attention,))
    del shapes["quantize.embedding.weight"]
    for depth in range(4):
        codebook = f"quantizer.codebooks.{depth}"
        shapes |= {f"{codebook}.weight": (size + 1, 256), f"{codebook}.embed_ema": (size, 256)}
    return shapes


def infinity(bits, channels=128):
    """Without attention, every layer in a module, and the quantizer under both of its names."""
    shapes = vqgan(channels, (1, 2, 4, 4, 4), 2, bits, (2, bits), (), False)
    kept = {name: shape for name, shape in shapes.items() if name.startswith(("enc", "dec"))}
    wrapped = {}
    for name, shape in kept.items():
        owner, _, leaf = name.rpartition(".")
        wrapped[f"{owner}.{'norm' if 'norm' in owner else 'conv'}.{leaf}"] = shape
    return wrapped | dict.fromkeys(("quantizer.lfq.mask", "quantize.lfq.mask"), (bits,))


# The tensors of every convolutional model, and how many parameters it has without its training's,
# counted from the published code.
SIZES = {
    "vqgan-f16-1024": (vqgan(128, F16, 2, 256, (1024, 256), (4,)), 72_141_699),
    "vqgan-f16-16384": (vqgan(128, F16, 2, 256, (16384, 256), (4,)), 76_073_859),
    "ldm-vq-f4": (vqgan(128, F4, 2, 3, (8192, 3), ()), 55_322_782),
    "ldm-vq-f4-noattn": (vqgan(128, F4, 2, 3, (8192, 3), (), False), 53_219_486),
    "ldm-vq-f8": (vqgan(128, F8, 2, 4, (16384, 4), (3,)), 67_717_295),
    "ldm-vq-f8-n256": (vqgan(128, F8, 2, 4, (256, 4), (3,)), 67_717_295 - 4 * (16384 - 256)),
    "ldm-vq-f16": (vqgan(128, F16, 2, 8, (16384, 8), (4,)), 69_593_371),
    "chameleon": (vqgan(128, F16, 2, 256, (8192, 256), ()), 68_718_467),
    "llamagen-vq16": (llamagen(F16), 71_883_403),
    "llamagen-vq16-t2i": (llamagen(F16), 71_883_403),
    "llamagen-vq8": (llamagen(F8), 70_109_835),
    "janus": (janus(), 71_883_403),
    "janus-pro": (janus(), 71_883_403),
    "ibq-1024": (vqgan(128, F16, 4, 256, (1024, 256), (4,)), 110_982_019 - 15360 * 256),
    "ibq-8192": (vqgan(128, F16, 4, 256, (8192, 256), (4,)), 110_982_019 - 8192 * 256),
    "ibq-16384": (vqgan(128, F16, 4, 256, (16384, 256), (4,)), 110_982_019),
    "ibq-262144": (vqgan(128, F16, 4, 256, (262144, 256), (4,)), 173_896_579),
    "ibq-16384-pretrain": (vqgan(128, F16, 4, 256, (16384, 256), (4,)), 110_982_019),
    "ibq-262144-pretrain": (vqgan(128, F16, 4, 256, (262144, 256), (4,)), 173_896_579),
    "emu3.5": (vqgan(256, F16, 4, 256, (131072, 256), (4,)), 455_336_963),
    "open-magvit2-16384": (unbiased(F16, 4, 14), 115_094_033),
    "open-magvit2-262144": (unbiased(F16, 4, 18), 115_127_829),
    "open-magvit2-262144-pretrain": (unbiased(F16, 4, 18), 115_127_829),
    "open-magvit2-262144-128": (unbiased(F8, 4, 18), 112_021_653),
    "maskgit-vqgan": (unbiased(F16, 2, 256, 1024), 54_515_587),
    **dict.fromkeys(("amused-256", "amused-512", "lumina-dimoo", "meissonic"), AMUSED),
    "movqgan-67m": (movqgan(128, 2), 67_832_495),
    "movqgan-102m": (movqgan(128, 4), 101_614_255),
    "movqgan-270m": (movqgan(256, 2), 270_669_103),
    "var-256": (var(), 108_948_355),
    "var-512": (var(), 108_948_355),
    "infinity-d16": (infinity(16), 109_970_579),
    "infinity-d24": (infinity(24), 110_044_315),
    "infinity-d32": (infinity(32), 110_118_051),
    "infinity-d32-reg": (infinity(32), 110_118_051),
    "rq-vae-8x8x4": (rq_vae(16384, 5), 104_401_795),
    "rq-vae-8x8x4-ffhq": (rq_vae(2048, 4), 100_731_779),
    "commavq": (commavq(vqgan(128, F16, 2, 256, (1024, 256), (4,))), 72_141_699),
    "showo-magvit2": (published.widened("showo_magvit2", 4), 95_387_004),
    "emu3": (published.widened("emu3_vq", 8), 270_736_739),
    "cosmos-di16x16": (cosmos(2), 83_723_958),
    "cosmos-di8x8": (cosmos(1), 79_004_342),
    "kandinsky-2.1": (diffusers(movqgan(128, 2)), 67_832_495),
    "kandinsky-2.2": (diffusers(movqgan(128, 2)), 67_832_495),
    "kandinsky-3": (diffusers(movqgan(256, 2)), 270_669_103),
    "ldm-celebahq-256": (diffusers(vqgan(128, F4, 2, 3, (8192, 3), ())), 55_322_782),
}


def test_every_convolutional_model_has_its_sizes_here():
    others = {"TiTok", "One-D-Piece", "simple-1d-tokenizer"}
    assert SIZES.keys() == {n for n, (family, _) in known().items() if family.title not in others}


@pytest.mark.parametrize("name", SIZES)
def test_published_convolutional_sizes(name):
    shapes, parameters = SIZES[name]
    family, model = known()[name]
    assert recognise(shapes, model.config) is family
    zero = np.zeros((), np.float32)
    arrays = {key: np.broadcast_to(zero, shape) for key, shape in shapes.items()}
    if "quantizer._levels" in shapes:
        arrays["quantizer._levels"] = np.array([8, 8, 8, 5, 5, 5], np.float32)
    ours, tensors = family.convert(Tensors(arrays), model.config, None)
    with torch.device("meta"):
        expected = Tokenizer(ours).state_dict()
    assert {k: v.shape for k, v in tensors.items()} == {k: v.shape for k, v in expected.items()}
    assert sum(value.numel() for value in expected.values()) == parameters
    assert (ours.num_tokens, ours.quantizer.codebook_size) == (model.tokens, model.codebook_size)
    assert ours.preprocessing.image_size == model.image_size


def test_the_same_network_under_the_names_of_diffusers(tmp_path):
    with locate(str(published.write_golden("movqgan", tmp_path))).open() as stored:
        theirs = {name: tensor.read() for name, tensor in stored.items()}
    _, expected = recognise(theirs, None).convert(Tensors(theirs), {}, None)
    for older in (False, True):
        shapes = diffusers({name: array.shape for name, array in theirs.items()})
        pairs = zip(theirs.values(), shapes.items(), strict=True)
        renamed = {name: array.reshape(shape) for array, (name, shape) in pairs}
        if older:
            new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
            for to, name in new.items():
                renamed = {key.replace(to, name): x for key, x in renamed.items()}
        config = {"_class_name": "VQModel", "norm_type": "spatial"}
        ours, tensors = recognise(renamed, config).convert(Tensors(renamed), config, None)
        assert (ours.decoder.norm, ours.preprocessing.mean) == ("spatial", (0.5,) * 3)
        assert tensors.keys() == expected.keys()
        assert all(np.array_equal(x, expected[name]) for name, x in tensors.items())
    for config, message in (
        ({"norm_type": "group"}, "norm_type: 'group'"),
        ({"norm_num_groups": 16}, "norm_num_groups: 16"),
        ({"act_fn": "relu"}, "act_fn: 'relu'"),
    ):
        with pytest.raises(CheckpointError, match=message):
            recognise(renamed, config).convert(Tensors(renamed), config, None)
    with pytest.raises(CheckpointError, match="continuous"):
        recognise([name for name in renamed if not name.startswith("quantize.")], None)


def test_half_and_damaged_torchscript_tokenizers_are_refused(tmp_path):
    folder = published.write_golden("cosmos_di16", tmp_path)
    with locate(str(folder)).open() as stored:
        names = list(stored)
    encoder = [name for name in names if not name.startswith("decoder.")]
    decoder = [name.replace("quantizer.", "inv_quant.quantizer.") for name in names]
    for half in (encoder, decoder):
        with pytest.raises(CheckpointError, match=r"autoencoder\.jit"):
            recognise(half, None)
    (archive,) = folder.iterdir()
    archive.write_bytes(archive.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"autoencoder\.jit: damaged"):
        convert(locate(str(folder)))


@pytest.mark.parametrize("levels", [[8, 8, 8, 5, 5, 0], [8, 8, 8, 5, 5, np.nan], [1e30] * 6, []])
def test_levels_of_a_hostile_cosmos_are_refused(levels):
    zero = np.zeros((), np.float32)
    arrays = {k: np.broadcast_to(zero, shape) for k, shape in cosmos(2).items()}
    arrays["quantizer._levels"] = np.array(levels, np.float32)
    with pytest.raises((CheckpointError, ConfigError)):
        known()["cosmos-di16x16"][0].convert(Tensors(arrays), {}, None)


def test_variances_below_zero_are_refused():
    ones = np.ones((), np.float32)
    arrays = {k: np.broadcast_to(ones, shape) for k, shape in SIZES["emu3"][0].items()}
    name = "encoder.time_res_stack.1.norm2.running_var"
    arrays[name] = np.full(4, -1, np.float32)
    with pytest.raises(CheckpointError, match=r"encoder\.head\.blocks\.1\.conv1"):
        known()["emu3"][0].convert(Tensors(arrays), {}, None)


def test_kin_that_cannot_run_are_refused_and_doubt_is_named():
    shapes = published.vqgan_shapes(32, (1, 2), 1, 8, (16, 8), ())
    assert recognise(shapes, {"model": {"target": "taming.VQModel"}}).title == "VQGAN"
    assert recognise(shapes, {"model": {"class_path": "src.IBQ.models.ibqgan.IBQ"}}).title == "IBQ"
    assert recognise({**shapes, "model_ema.decay": ()}, None).title == "IBQ"
    # Chameleon's config names no class; Emu3.5's has its fields at the top.
    assert recognise(shapes, {"model": {"params": {"embed_dim": 8}}}).title == "VQGAN"
    assert recognise(shapes, {"embed_dim": 8, "ddconfig": {"resolution": 256}}).title == "IBQ"
    for more, message in (
        ("quantize.embed.weight", "Gumbel"),
        ("quantize.used", "renumbered tokens"),
    ):
        with pytest.raises(CheckpointError, match=message):
            recognise({**shapes, more: ()}, None)
    with pytest.raises(CheckpointError, match=r"VQGAN or IBQ, .*vqgan-f16-1024, "):
        recognise(shapes, None)


def test_family_decides_where_the_tensors_do_not(run, tmp_path):
    shapes = published.vqgan_shapes(32, (1, 2), 1, 8, (16, 8), ())
    tensors = {k: torch.from_numpy(published.draw(k, v, 1, True)) for k, v in shapes.items()}
    published.save_torch(tensors, tmp_path / "last.ckpt")
    said = run("convert", "last.ckpt", "-o", "a.safetensors", cwd=tmp_path, status=1).stderr
    assert said.startswith(b"tokcodec: last.ckpt: its tensors may be of VQGAN or IBQ, ")
    assert b"--family" in said
    assert b"vqgan-f16-1024, " in said
    assert not (tmp_path / "a.safetensors").exists()
    metrics = {"vqgan-f16-1024": "euclidean", "ibq-8192": "dot"}
    for model, metric in metrics.items():
        run("convert", "last.ckpt", "-f", "-o", "a.safetensors", "--family", model, cwd=tmp_path)
        header = checkpoint.read_header(tmp_path / "a.safetensors")
        assert header.config.quantizer.metric == metric


def test_averages_count_and_none_may_lack():
    family, model = known()["ibq-1024"]
    shapes = published.vqgan_shapes(32, (1, 2), 1, 8, (16, 8), (1,))
    live = {name: published.draw(name, shape, 1, True) for name, shape in shapes.items()}
    averages = {"model_ema." + n.replace(".", ""): x + 1 for n, x in live.items()}
    _, tensors = family.convert(Tensors({**live, **averages}), model.config, None)
    codebook = live["quantize.embedding.weight"] + 1
    assert np.array_equal(tensors["quantizer.codebook"], codebook)
    del averages["model_ema.encoderconv_inweight"]
    with pytest.raises(CheckpointError, match=r"encoder\.conv_in\.weight has no moving average"):
        family.convert(Tensors({**live, **averages}), model.config, None)


def test_llamagen_as_the_hub_has_it(tmp_path):
    file = published.write_golden("llamagen_vq16", tmp_path / "file")
    with locate(str(file)).open() as stored:
        tensors = {name: tensor.read() for name, tensor in stored.items()}
    hub = published.write(tmp_path / "hub", {"codebook_size": 16384, "dropout_p": 0.0}, tensors)
    (ours, expected), (other, found) = convert(locate(str(file))), convert(locate(str(hub)))
    assert ours == other
    assert all(np.array_equal(array, found[name]) for name, array in expected.items())


def test_commavq_is_two_files_and_sees_levels(tmp_path):
    shapes = vqgan(32, (1, 2), 1, 8, (16, 8), (1,))
    plain = {name: published.draw(name, shape, 1, True) for name, shape in shapes.items()}
    family, model = known()["vqgan-f16-1024"]
    reference = network(*family.convert(Tensors(plain), model.config, 16))
    theirs = commavq(plain)
    theirs["encoder.conv_in.weight"] = theirs["encoder.conv_in.weight"] / 255
    for side in ("encoder", "decoder"):
        state = {n: torch.from_numpy(x) for n, x in theirs.items() if n.startswith(side)}
        state = {name.removeprefix(f"{side}."): tensor for name, tensor in state.items()}
        torch.save(state, tmp_path / f"{side}_pytorch_model.bin")
    config, tensors = convert(locate(str(tmp_path)), image_size=16)
    found = network(config, tensors)
    pixels = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        # VQGAN's encoder sees [-1, 1], this one 0 to 255.
        z = found.encoder(255 * pixels)
        torch.testing.assert_close(z, reference.encoder(pixels), rtol=0, atol=1e-4)
        torch.testing.assert_close(found.z(pixels), z, rtol=0, atol=1e-4)
        tokens = torch.arange(16).view(1, 8, 2)
        shown, expected = found.decode(tokens), reference.decode(tokens)
        torch.testing.assert_close(shown, expected, rtol=0, atol=1e-5)
    theirs["decoder.quantize._embedding.weight"] = theirs["encoder.quantize._embedding.weight"] + 1
    with pytest.raises(CheckpointError, match="different codebooks"):
        recognise(theirs, None).convert(Tensors(theirs), {}, None)
    (tmp_path / "decoder_pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"decoder_pytorch_model\.bin"):
        convert(locate(str(tmp_path)))


def test_other_squares_and_janus(run, tmp_path):
    shapes = published.llamagen_names(published.vqgan_shapes(32, (1, 2), 1, 8, (16, 8), (1,)))
    tensors = {
        name: torch.from_numpy(published.draw(name, shape, 1, True))
        for name, shape in shapes.items()
    }
    tensors["quantize.codebook_used"] = torch.zeros(65536)
    published.save_torch(tensors, tmp_path / "vq.pt")
    whole = {"gen_vision_model." + name: tensor for name, tensor in tensors.items()}
    whole["language_model.embed.weight"] = torch.full((4, 4), torch.nan)
    torch.save(whole, tmp_path / "janus.bin")
    facts = {}
    for name, source, options in (
        ("small", "vq.pt", ("--image-size", "32")),
        ("plain", "vq.pt", ()),
        ("janus", "janus.bin", ()),
    ):
        run("convert", source, "-o", f"{name}.safetensors", *options, cwd=tmp_path)
        facts[name] = checkpoint.find(str(tmp_path / f"{name}.safetensors"))
    sizes = {name: header.config.preprocessing.image_size for name, header in facts.items()}
    assert sizes == {"small": 32, "plain": 256, "janus": 384}
    assert facts["small"].config.num_tokens == 16**2
    assert len({header.model_id for header in facts.values()}) == 3
    assert {header.config.preprocessing.resize for header in facts.values()} == {"adm"}
    assert [header.config.rounding for header in facts.values()] == ["nearest"] * 2 + ["down"]
    run("encode", PHOTOS[0], "--weights", tmp_path / "small.safetensors", "-o", tmp_path / "a.tok")
    run("decode", tmp_path / "a.tok", "--weights", tmp_path / "small.safetensors")
    assert Image.open(tmp_path / "a.png").size == (512, 512)
    published.write(tmp_path / "titok", *published.tiny())
    said = run("convert", "titok", "--image-size", "64", cwd=tmp_path, status=1).stderr.decode()
    assert said.endswith("sees squares of 16 pixels only, not of 64\n")


def test_a_malicious_lightning_checkpoint_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    published.write_golden("taming_f16", tmp_path / "good")
    with locate("good").open() as stored:
        state = {name: torch.from_numpy(tensor.read()) for name, tensor in stored.items()}
    whole = {"callbacks": Malicious(), "state_dict": state, "x": [Malicious()]}
    torch.save(whole, tmp_path / "good" / "last.ckpt")
    monkeypatch.setenv("TOKCODEC_CACHE", str(tmp_path / "cache"))
    assert find("good").config.num_tokens == 256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "good"]


@pytest.fixture(scope="session")
def s128(tmp_path_factory):
    """TiTok-S-128 as it is published, a folder of 334 MB."""
    folder = tmp_path_factory.mktemp("published") / "titok_s128"
    yield published.write(folder, *published.golden("titok_s128"))
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["titok_ss64_vq8k", "simple_1d_tokenizer", "one_d_piece_s256"])
def test_golden_tokens(name):
    assert check(converted(name), name) == (5 if name == "one_d_piece_s256" else 4)


def test_golden_tokens_through_the_command(s128, run, tmp_path):
    said = run("convert", s128, "-o", tmp_path / "s128.safetensors")
    assert said.stdout.decode().strip() == str(tmp_path / "s128.safetensors")
    assert b"128 tokens, a codebook of 4,096" in said.stderr
    header = checkpoint.read_header(tmp_path / "s128.safetensors")
    assert header.config.default_fit == "crop"
    assert check(load(header, CPU), "titok_s128") == 4
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    run("encode", "a.png", "--weights", header.path, cwd=tmp_path)
    tokens = json.loads(run("inspect", "a.png.tok", "--tokens", "--json", cwd=tmp_path).stdout)
    golden = np.load(published.FOLDER / "titok_s128" / "tokens.npy")[0]
    decided = np.load(published.FOLDER / "titok_s128" / "margins.npy")[0] > 1e-3
    assert tokens["payload_bytes"] == 192
    assert np.array_equal(np.array(tokens["tokens"])[decided], golden[decided])


# The arrays were made once by golden/make_torchvision.py.
def test_pixels_are_torchvisions():
    with np.load(GOLDEN / "torchvision" / "squares.npz") as tiles:
        assert len(tiles) == 6
        for name, expected in tiles.items():
            path = GOLDEN / "torchvision" / f"{name}.jpg"
            pixels = read_fitted(path, PreprocessingConfig(), "crop").pixels
            assert np.array_equal(pixels[0], expected), name


@pytest.mark.parametrize(
    ("name", "encoder", "decoder", "codebook", "num_latents"),
    [
        ("titok-l32", (1024, 24), (1024, 24), (4096, 12), 32),
        ("titok-b64", (768, 12), (768, 12), (4096, 12), 64),
        ("titok-s128", (512, 8), (512, 8), (4096, 12), 128),
        ("titok-bl64-vq8k", (768, 12), (1024, 24), (8192, 64), 64),
        ("titok-bl128-vq8k", (768, 12), (1024, 24), (8192, 64), 128),
        ("titok-sl256-vq8k", (512, 8), (1024, 24), (8192, 64), 256),
        ("one-d-piece-s256", (512, 8), (512, 8), (4096, 12), 256),
        ("one-d-piece-b256", (768, 12), (768, 12), (4096, 12), 256),
        ("one-d-piece-l256", (1024, 24), (1024, 24), (4096, 12), 256),
    ],
)
def test_published_sizes(name, encoder, decoder, codebook, num_latents):
    later = "vq8k" in name
    more = {"vqgan": None} if later else {}
    shapes = published.titok_shapes(encoder, decoder, num_latents, codebook, **more)
    zero = np.zeros((), np.float32)
    family, model = known()[name]
    zeros = {k: np.broadcast_to(zero, v) for k, v in shapes.items()}
    ours, tensors = family.convert(Tensors(zeros), model.config, None)
    with torch.device("meta"):
        expected = Tokenizer(ours).state_dict()
    assert {k: v.shape for k, v in tensors.items()} == {k: v.shape for k, v in expected.items()}
    assert (ours.encoder.heads, ours.decoder.heads) == (encoder[0] // 64, decoder[0] // 64)
    assert (ours.num_tokens, ours.quantizer.codebook_size) == (num_latents, codebook[0])
    assert (ours.quantizer.metric == "cosine") == ours.encoder.legacy_latents == (not later)
    assert (len(ours.token_counts) > 1) == name.startswith("one-d-piece")


def test_titok_takes_any_depth_width_and_patch():
    @settings(max_examples=30)
    @given(
        encoder=st.tuples(st.sampled_from([32, 48]), st.integers(1, 3)),
        decoder=st.tuples(st.sampled_from([16, 64]), st.integers(1, 3)),
        num_latents=st.integers(1, 5),
        codebook=st.tuples(st.sampled_from([2, 9]), st.sampled_from([1, 3])),
        patch=st.sampled_from([2, 4, 8]),
        pixels=st.booleans(),
    )
    def check(encoder, decoder, num_latents, codebook, patch, pixels):
        shapes = published.titok_shapes(
            encoder, decoder, num_latents, codebook, 16, patch, None if pixels else (5, 7, 32)
        )
        config, _ = published.tiny()
        config["model"]["vq_model"] |= {
            "num_latent_tokens": num_latents,
            "codebook_size": codebook[0],
            "token_size": codebook[1],
            "vit_enc_patch_size": patch,
            "vit_dec_patch_size": patch,
            "vit_dec_model_size": "small",
            "is_legacy": not pixels,
        }
        tensors = {name: published.draw(name, shape, 1) for name, shape in shapes.items()}
        family = recognise(tensors, config)
        ours, tensors = family.convert(Tensors(tensors), config, None)
        model = Tokenizer(ours)
        model.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()})
        with torch.inference_mode():
            tokens = model.encode(torch.rand(2, 3, 16, 16))
            assert tokens.shape == (2, num_latents)
            assert model.decode(tokens).shape == (2, 3, 16, 16)

    check()


def test_weights_takes_a_published_folder(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKCODEC_CACHE", str(tmp_path / "cache"))
    published.write(tmp_path / "mine", *published.tiny())
    shutil.copy(PHOTOS[0], tmp_path / "a.png")
    run("encode", "a.png", "--weights", "mine", cwd=tmp_path)
    (cached,) = (tmp_path / "cache").glob("*/*")
    assert cached.name == "mine.safetensors"
    before = cached.stat().st_mtime_ns
    run("encode", "a.png", "--weights", "mine", cwd=tmp_path)
    assert cached.stat().st_mtime_ns == before
    # Decoding needs no --weights: the cache is searched by model_id.
    decoded = run("decode", "a.png.tok", "--json", cwd=tmp_path).stdout
    assert json.loads(decoded)["checkpoint"] == "mine"
    assert Image.open(tmp_path / "a.png.png").size == (512, 512)
    # Other weights are another entry, under whatever name.
    config, tensors = published.tiny()
    tensors["latent_tokens"] += 1
    published.write(tmp_path / "mine", config, tensors)
    said = run("encode", "a.png", "--weights", "mine", cwd=tmp_path, status=1).stderr
    assert b"of another model" in said
    assert len(list((tmp_path / "cache").glob("*/*"))) == 2


def test_the_default_name_and_what_is_there(start, run, tmp_path):
    published.write(tmp_path / "mine", *published.tiny())
    assert start("convert", "mine", cwd=tmp_path).stdout == b"mine.safetensors\n"
    whole = checkpoint.read_header(tmp_path / "mine.safetensors")
    said = run("convert", "mine", cwd=tmp_path, status=1).stderr.decode()
    assert said.startswith("tokcodec: mine.safetensors: ")
    assert "-f" in said
    run("convert", "mine", "-f", cwd=tmp_path)
    assert checkpoint.read_header(tmp_path / "mine.safetensors") == whole
    facts = json.loads(run("inspect", "mine.safetensors", "--json", cwd=tmp_path).stdout)
    assert facts["provenance"]["converted_from"] == "mine"
    assert facts["config"]["decoder"]["vqgan"] == {
        "proxy_codebook_size": 8,
        "embedding_dim": 12,
        "channels": 32,
        "multipliers": [1, 1, 2],
    }


def test_a_pickle_gives_the_same(run, tmp_path):
    config, tensors = published.golden("simple_1d_tokenizer")
    folder = published.write(tmp_path / "folder", config, tensors)
    torch.save({k: torch.from_numpy(v) for k, v in tensors.items()}, tmp_path / "alone.bin")
    header = write(locate(str(folder)), tmp_path / "a.safetensors")
    said = run("convert", "alone.bin", "-o", "b.safetensors", cwd=tmp_path, status=1).stderr
    assert said.startswith(b"tokcodec: alone.bin: ")
    assert b"simple-1d-tokenizer" in said
    assert b"--family" in said
    family = ("--family", "simple-1d-tokenizer")
    run("convert", "alone.bin", "-o", "b.safetensors", *family, cwd=tmp_path)
    again = checkpoint.read_header(tmp_path / "b.safetensors")
    assert (again.model_id, again.checkpoint_id) == (header.model_id, header.checkpoint_id)


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("it-ran",)


@pytest.mark.parametrize(
    "content", [Malicious(), {"a": Malicious()}, {"a": 1}, [torch.ones(1)], {3: torch.ones(1)}]
)
def test_pickles_run_nothing(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "bad.pth")
    with pytest.raises(CheckpointError, match=r"^bad\.pth: .*tensors"):
        find("bad.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pth"]


def test_a_malicious_pickle_at_the_command_line(run, tmp_path):
    torch.save(Malicious(), tmp_path / "bad.pth")
    said = run("encode", PHOTOS[0], "-o", "a.tok", "--weights", "bad.pth", cwd=tmp_path, status=1)
    assert said.stderr.decode() == ("tokcodec: bad.pth: expected tensors by name, found none\n")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pth"]


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float64"])
def test_other_dtypes_become_float32(kind, tmp_path):
    from safetensors.torch import save_file

    config, tensors = published.tiny()
    published.write(tmp_path, config, {})
    tensors = {k: torch.from_numpy(v).to(getattr(torch, kind)) for k, v in tensors.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    write(locate(str(tmp_path)), tmp_path / "out" / "a.safetensors")
    _, ours = checkpoint.read(tmp_path / "out" / "a.safetensors")
    assert {tensor.dtype for tensor in ours.values()} == {np.dtype(np.float32)}
    codebook = tensors["quantize.embedding.weight"].float().numpy()
    assert np.array_equal(ours["quantizer.codebook"], codebook)


def spoiled(fields=(), drop=(), **changes):
    """The tiny TiTok with other fields of vq_model, fewer tensors, or other ones."""
    config, tensors = published.tiny()
    for name, value in dict(fields).items():
        config["model"]["vq_model"][name] = value
        if value is None:
            del config["model"]["vq_model"][name]
    for name in drop:
        del tensors[name]
    for name, tensor in changes.items():
        tensors[name.replace("__", ".")] = tensor
    return config, tensors


NAN = np.full(32, np.nan, np.float32)
ONES = np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (spoiled({"use_rope": True}), "model.vq_model.use_rope: unknown"),
        (spoiled({"codebook_size": 0}), "model.vq_model.codebook_size: 0, but its tensors say 32"),
        (spoiled({"token_size": "4"}), "model.vq_model.token_size: '4', but its tensors say 4"),
        (spoiled({"num_latent_tokens": 7}), "num_latent_tokens: 7, but its tensors say 6"),
        (spoiled({"vit_dec_patch_size": 8}), "vit_dec_patch_size: 8, but its tensors say 4"),
        (spoiled({"vit_enc_model_size": "huge"}), "'huge' is none of small, base, large"),
        (spoiled({"use_l2_norm": None}), "use_l2_norm: None is neither true nor false"),
        (spoiled({"is_legacy": False}), "is_legacy: False (true if absent), but its tensors say"),
        (spoiled({"quantize_mode": "lfq"}), "quantize_mode: 'lfq' is none of vq"),
        (spoiled({"vit_enc_model_size": "base"}), "heads must divide width"),
        (spoiled({"vit_enc_model_size": ["small"]}), "['small'] is none of small, base, large"),
        (spoiled(drop=["encoder.transformer.0.ln_1.bias"]), "0.ln_1.bias is missing"),
        (spoiled(encoder__transformer__99999999999__ln_1__bias=ONES), "not part of this family"),
        (spoiled(encoder__transformer__foo__bias=ONES), "tensor encoder.transformer.foo.bias"),
        (spoiled(drop=["latent_tokens"]), "tokcodec knows no family with these tensors"),
        (spoiled(drop=["encoder.ln_post.bias"]), "tensor encoder.ln_post.bias is missing"),
        (spoiled(drop=["decoder.transformer.0.ln_1.weight"]), "0.ln_1.weight is missing"),
        (spoiled(drop=["quantize.embedding.weight"]), "a continuous TiTok"),
        (spoiled(drop=["pixel_decoder.conv_in.weight"]), "TiTok's first training stage"),
        (spoiled(decoder__extra=ONES, encoder__extra=ONES), "tensor decoder.extra and 1 more"),
        (spoiled(encoder__ln_pre__bias=ONES), "ln_pre.bias: expected shape [32], not [3]"),
        (spoiled(latent_tokens=ONES), "latent_tokens: expected 2 axes, not shape [3]"),
        (spoiled(encoder__ln_pre__bias=NAN), "tensor encoder.ln_pre.bias holds NaN"),
        (spoiled(decoder__text_guidance_proj__bias=ONES), "text-conditioned TA-TiTok"),
        (({}, published.tiny()[1]), "its config has no model.vq_model"),
        (({"model": 3}, published.tiny()[1]), "its config has no model.vq_model"),
    ],
)
def test_bad_checkpoints(what, message, tmp_path):
    folder = published.write(tmp_path / "bad", *what)
    with pytest.raises(CheckpointError) as caught:
        write(locate(str(folder)), tmp_path / "out.safetensors")
    assert str(caught.value).startswith(f"{folder}/model.safetensors: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()


def test_copies_must_be_equal(tmp_path):
    config, tensors = published.golden("simple_1d_tokenizer")
    originals = {k: v for k, v in tensors.items() if ".model." not in k}
    copies = {k: v for k, v in tensors.items() if "transformer" not in k}
    assert len(originals) < len(tensors) > len(copies)
    ids = {
        write(locate(str(published.write(tmp_path / "a", config, some))), tmp_path / "b").model_id
        for some in (tensors, originals, copies)
    }
    assert len(ids) == 1
    tensors["encoder.model.2.ln_1.bias"] = tensors["encoder.model.2.ln_1.bias"] + 1
    published.write(tmp_path / "a", config, tensors)
    with pytest.raises(CheckpointError, match=r"encoder\.transformer\.0\.ln_1\.bias and its copy"):
        write(locate(str(tmp_path / "a")), tmp_path / "b")


@pytest.mark.parametrize("family", ["one-d-piece-l256", "titok-b64"])
def test_a_wrong_size_is_refused(family):
    shapes = published.titok_shapes((512, 1), (512, 1), 256, (16, 4), vqgan=(4, 4, 32))
    tensors = {k: np.broadcast_to(np.zeros(1, np.float32), v) for k, v in shapes.items()}
    known_as, model = known()[family]
    with pytest.raises(CheckpointError, match="512 wide, which is another size"):
        known_as.convert(Tensors(tensors), model.config, None)


def test_a_wrong_family_is_refused(tmp_path):
    source = locate(str(published.write(tmp_path / "mine", *published.tiny())))
    with pytest.raises(CheckpointError, match="are not those of simple-1d-tokenizer"):
        write(source, tmp_path / "out.safetensors", "simple-1d-tokenizer")


def test_a_source_is_never_overwritten(run, tmp_path):
    published.write(tmp_path, *published.tiny())
    (tmp_path / "model.safetensors").rename(tmp_path / "t.safetensors")
    before = (tmp_path / "t.safetensors").read_bytes()
    said = run("convert", "t.safetensors", "-f", cwd=tmp_path, status=1).stderr.decode()
    assert said.startswith("tokcodec: t.safetensors: ")
    assert (tmp_path / "t.safetensors").read_bytes() == before
    (tmp_path / "out").mkdir()
    run("convert", "t.safetensors", "-o", "out", cwd=tmp_path)
    said = run("convert", "out/t.safetensors", cwd=tmp_path, status=1).stderr.decode()
    assert said.startswith("tokcodec: out/t.safetensors: ")


def test_a_damaged_cache_is_mended(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKCODEC_CACHE", str(tmp_path / "cache"))
    folder = str(published.write(tmp_path / "mine", *published.tiny()))
    header = find(folder)
    header.path.write_bytes(header.path.read_bytes()[:-1])
    header.path.write_bytes(b"junk")
    assert find(folder) == header
    assert Codec.load(folder, "cpu").header == header
    monkeypatch.setenv("TOKCODEC_CACHE", "/proc/nowhere")
    with pytest.raises(OutputError, match="TOKCODEC_CACHE"):
        find(folder)


@pytest.mark.parametrize("name", ["a.PTH", "a.bin"])
def test_damaged_pickles_and_parameters(name, tmp_path):
    config, tensors = published.tiny()
    published.write(tmp_path, config, {})
    (tmp_path / "model.safetensors").unlink()
    parameters = {k: torch.nn.Parameter(torch.from_numpy(v)) for k, v in tensors.items()}
    torch.save(parameters, tmp_path / name)
    assert find(str(tmp_path / name)).config.num_tokens == 6
    whole = (tmp_path / name).read_bytes()
    for data in (b"", b"plain text\n", whole[:1000], whole[:-100], b"\x80" + whole):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(
            CheckpointError,
            match=rf"{name}: damaged, or not written by torch\.save .*; fetch it again",
        ):
            find(str(tmp_path / name))
    odd = "encoder.ln_pre.bias"
    for tensor in (torch.ones(32).to_sparse(), torch.ones(32, dtype=torch.complex64)):
        torch.save(parameters | {odd: tensor}, tmp_path / name)
        with pytest.raises(CheckpointError, match=f"{name}: tensor {odd} is missing"):
            find(str(tmp_path / name))


def test_images_do_not_depend_on_the_batch(tmp_path):
    codec = Codec.load(str(published.write(tmp_path / "mine", *published.tiny())), "cpu")
    x = torch.randn(4, 16, codec.config.decoder.width)
    x[3] = x[0]
    with torch.inference_mode():
        together = codec.model.decoder.to_pixels(x, 4)
        for row in range(4):
            alone = codec.model.decoder.to_pixels(x[row : row + 1], 4)
            torch.testing.assert_close(together[row], alone[0], atol=1e-4, rtol=0)
    tokens = torch.randint(0, 32, (3, 6))
    assert torch.equal(codec.decode(tokens)[:1], codec.decode(tokens[:1]))


@pytest.mark.parametrize("config", ["[", "[]", "\udc80"])
def test_a_config_that_is_none(config, tmp_path):
    published.write(tmp_path, *published.tiny())
    (tmp_path / "config.json").write_bytes(config.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError) as caught:
        find(str(tmp_path))
    assert caught.value.name == str(tmp_path / "config.json")


def test_prefixes(run, tmp_path):
    published.write(tmp_path / "piece", *published.tiny(prefix=True))
    published.write(tmp_path / "titok", *published.tiny())
    for name in ("piece", "titok"):
        run("convert", name, cwd=tmp_path)
    shutil.copy(PHOTOS[0], tmp_path / "a.png")
    piece = ("--weights", "piece.safetensors")
    run("encode", "a.png", *piece, "-o", "6.tok", cwd=tmp_path)
    run("encode", "a.png", *piece, "--tokens", "4", "-o", "4.tok", cwd=tmp_path)
    run("encode", "a.png", *piece, "--tokens", "4", "-o", "4.tok", cwd=tmp_path)  # skipped
    assert (
        b"with 4 tokens"
        in run("encode", "a.png", *piece, "-o", "4.tok", cwd=tmp_path, status=1).stderr
    )
    codec = Codec.load(str(tmp_path / "piece.safetensors"), "cpu")
    whole = codec.compress(tmp_path / "a.png")
    for tokens, file in ((6, "6.tok"), (4, "4.tok")):
        kept = codec.compress(tmp_path / "a.png", tokens=tokens)
        assert np.array_equal(kept.tokens, whole.tokens[:tokens])
        assert kept.to_bytes() == (tmp_path / file).read_bytes()
    assert (tmp_path / "6.tok").stat().st_size - (tmp_path / "4.tok").stat().st_size == 1

    # Fewer of a whole file, or all of a short one: the same image.
    run("decode", "6.tok", *piece, "--tokens", "4", "-o", "from6.png", cwd=tmp_path)
    run("decode", "4.tok", *piece, "-o", "from4.png", cwd=tmp_path)
    run("decode", "6.tok", *piece, "-o", "all.png", cwd=tmp_path)
    images = [np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("from6", "from4", "all")]
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])
    pixels = codec.decode(torch.from_numpy(whole.tokens[None, :4]))
    assert pixels.shape == (1, 3, 16, 16)

    # Tiles keep a prefix each.
    tiles = codec.compress(
        Image.open(tmp_path / "a.png").crop((0, 0, 40, 20)), fit="tile", tokens=2
    )
    assert len(tiles.tokens) == 3 * 2 * 2
    assert codec.decompress(tiles).size == (40, 20)
    mixed = results(codec.decompress_stream(enumerate([whole, tiles, whole, tiles])))
    assert [np.asarray(image).tobytes() for image in mixed[:2]] == [
        np.asarray(image).tobytes() for image in mixed[2:]
    ]

    # Refused: more than there are, more than the file has, a checkpoint not trained for it.
    for arguments, name in (
        (("encode", "a.png", *piece, "--tokens", "7"), "piece: "),
        (("encode", "a.png", "--weights", "titok.safetensors", "--tokens", "4"), "titok: "),
        (("decode", "6.tok", *piece, "--tokens", "7"), "6.tok: "),
        (("decode", "4.tok", *piece, "--tokens", "5"), "4.tok: "),
    ):
        (said,) = run(*arguments, "-o", "new", cwd=tmp_path, status=1).stderr.decode().splitlines()
        assert said.startswith(f"tokcodec: {name}")
        assert "tokens" in said
    assert not (tmp_path / "new").exists()


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the hub as huggingface_hub leaves it, with one model in it, and no network."""
    model = tmp_path / "hub" / "models--some-one--titok"
    published.write(model / "snapshots" / COMMIT, *published.tiny())
    _, tensors = published.tiny(prefix=True)
    tensors = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    torch.save(tensors, model / "snapshots" / COMMIT / "other.bin")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))  # as read at import


@pytest.mark.hub
@pytest.mark.usefixtures("hub")
def test_the_hub_offline(tmp_path):
    snapshot = tmp_path / "hub" / "models--some-one--titok" / "snapshots" / COMMIT
    # Weights under the other name are found; a config that may exist is not taken for absent.
    (snapshot / "other.bin").rename(snapshot / "pytorch_model.bin")
    (snapshot / "model.safetensors").unlink()
    assert find("some-one/titok").name == "titok"
    (snapshot / "config.json").unlink()
    with pytest.raises(CheckpointError, match="the hub cannot be reached"):
        find("some-one/titok")


@pytest.mark.hub
@pytest.mark.usefixtures("hub")
def test_the_hub(run, tmp_path):
    headers = []
    for source in ("some-one/titok", "some-one/titok@main", f"some-one/titok@{COMMIT}:other.bin"):
        headers.append(write(locate(source), tmp_path / "out.safetensors"))
    assert len({header.checkpoint_id for header in headers}) == 1
    assert headers[0].provenance["converted_from"] == f"some-one/titok@{COMMIT}"
    assert headers[2].provenance["converted_from"] == f"some-one/titok@{COMMIT}:other.bin"
    shutil.copy(PHOTOS[0], tmp_path / "a.png")
    run("encode", "a.png", "--weights", "some-one/titok", cwd=tmp_path)
    decoded = run("decode", "a.png.tok", "--json", cwd=tmp_path).stdout
    assert json.loads(decoded)["checkpoint"] == "titok"
    for source in ("no-one/nothing", "some-one/titok@v2", "some-one/titok:absent.bin"):
        with pytest.raises(CheckpointError) as caught:
            locate(source)
        assert str(caught.value) == (
            f"{source}: no such file or folder, and not in the hub's cache, while the hub cannot "
            "be reached; go online once, or name a file"
        )


def test_without_the_extra_hub(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    done = run("convert", "some-one/titok", status=1, cwd=tmp_path)
    assert done.stderr == (
        b"tokcodec: some-one/titok: no such file or folder; "
        b"for models on the hub install huggingface_hub, tokcodec's extra hub\n"
    )


@pytest.mark.parametrize(
    "source",
    ["no-such-file.bin", "a/no-such.pth", "./a", "a/b/c", "https://example.org/x", "a" * 300],
)
def test_no_such_source(source, run, tmp_path):
    (said,) = run("convert", source, cwd=tmp_path, status=1).stderr.decode().splitlines()
    assert said.startswith(f"tokcodec: {source}: ")
    assert "owner/name of a model on the hub" in said or "File name too long" in said


def test_an_unknown_family(run, tmp_path):
    published.write(tmp_path, *published.tiny())
    said = run("convert", tmp_path, "--family", "titok-xl", status=2).stderr.decode()
    assert "titok-l32" in said
