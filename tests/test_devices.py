"""What runs on other devices than a processor, without one: on ``meta``, where tensors have a shape
but no numbers, so that nothing can wait for a number; and what is asked of a device."""

import contextlib
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import get_args

import numpy as np
import pytest
import torch
from conftest import DATA, GOLDEN

from tokcodec import Codec, checkpoint
from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.convolutional import ConvolutionalDecoderConfig, ConvolutionalEncoderConfig
from tokcodec.config.model import Decoder, Encoder, Quantizer
from tokcodec.config.parts import ModelShape
from tokcodec.config.quantizers import (
    BinaryConfig,
    CodebookConfig,
    FiniteScalarConfig,
    ResidualConfig,
)
from tokcodec.config.vit import (
    LatentDecoderConfig,
    LatentEncoderConfig,
    ProxyDecoderConfig,
    VqganConfig,
)
from tokcodec.model import binary, finite_scalar
from tokcodec.model.binary import Binary
from tokcodec.model.codebook import Codebook
from tokcodec.model.finite_scalar import FiniteScalar
from tokcodec.model.loading import fastest_dtype
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.model.torch_runtime import BATCHES_AT_ONCE, TorchRuntime
from tokcodec.train.presets import PRESETS

VIT = {"width": 32, "layers": 1, "heads": 2, "patch_size": 4}
CONVOLUTIONAL = {"channels": 32, "multipliers": (1, 2, 2), "blocks": 1}
VQGAN = VqganConfig(
    proxy_codebook_size=8, embedding_dim=12, channels=32, multipliers=(1, 1, 2), blocks=1
)
HEAD = {
    "attention": (2,),
    "kept_levels": 2,
    "haar_steps": 1,
    "embedding_channels": 3,
    "head_widths": (6, 3),
    "head_blocks": 1,
}
SQUARE = {"preprocessing": PreprocessingConfig(image_size=32)}
CONFIGS = PRESETS | {
    "latent": ModelConfig(
        encoder=LatentEncoderConfig(**VIT, num_latents=6),
        quantizer=CodebookConfig(codebook_size=60, embedding_dim=5),
        decoder=LatentDecoderConfig(**VIT),
        **SQUARE,
    ),
    "proxy": ModelConfig(
        encoder=LatentEncoderConfig(
            **VIT, num_latents=6, class_token=True, outer_norms=True, legacy_latents=True
        ),
        quantizer=CodebookConfig(codebook_size=60, embedding_dim=5, metric="cosine"),
        decoder=ProxyDecoderConfig(**VIT, vqgan=VQGAN, prefix_tokens=True),
        **SQUARE,
    ),
    "binary": ModelConfig(
        encoder=ConvolutionalEncoderConfig(**CONVOLUTIONAL, halving="average", last_kernel=1),
        quantizer=BinaryConfig(embedding_dim=7),
        decoder=ConvolutionalDecoderConfig(**CONVOLUTIONAL, doubling="depth", adaptive_norm=True),
        rounding="down",
        **SQUARE,
    ),
    "finite scalar": ModelConfig(
        encoder=ConvolutionalEncoderConfig(**CONVOLUTIONAL, **HEAD),
        quantizer=FiniteScalarConfig(levels=(8, 5, 4)),
        decoder=ConvolutionalDecoderConfig(**CONVOLUTIONAL, **HEAD, norm="spatial"),
        **SQUARE,
    ),
    "residual": ModelConfig(
        encoder=ConvolutionalEncoderConfig(**CONVOLUTIONAL),
        quantizer=ResidualConfig(
            stage=CodebookConfig(codebook_size=60, embedding_dim=5),
            scales=(1, 3, 8),
            filters=(0, 1, 1),
        ),
        decoder=ConvolutionalDecoderConfig(
            **CONVOLUTIONAL, embedding_channels=4, embedding_kernel=3
        ),
        **SQUARE,
    ),
}
TINY = GOLDEN / "patch.safetensors"


@pytest.fixture
def _on_meta(monkeypatch):
    """``meta`` has no autocast; there the dtypes are those of float32."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


def on_meta(config):
    with torch.device("meta"):
        model = Tokenizer(config)
    return TorchRuntime(model.eval().requires_grad_(False), 2)


def test_there_is_one_of_each_kind():
    for part, kinds in (("encoder", Encoder), ("quantizer", Quantizer), ("decoder", Decoder)):
        found = {type(getattr(config, part)) for config in CONFIGS.values()}
        assert found == set(get_args(get_args(kinds)[0]))


@pytest.mark.usefixtures("_on_meta")
@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_up_to_z_and_from_tokens_waits_for_no_number(name):
    config = CONFIGS[name]
    runtime = on_meta(config)
    model, side = runtime.model, config.preprocessing.image_size
    with torch.inference_mode():
        pixels = torch.empty(2, side, side, 3, dtype=torch.uint8, device="meta")
        pixels = runtime.preprocess(pixels, config.preprocessing.pixel_scale)
        z = model.z(pixels)
        z_shape = config.encoder.z_shape(*pixels.shape[2:])
        assert (z.shape, z.dtype) == ((2, *z_shape, config.quantizer.embedding_dim), torch.float32)
        shape = config.token_shape(side, side)
        tokens = torch.empty(2, *shape, dtype=torch.int64, device="meta")
        drawn = runtime.to_uint8(model.decode(tokens))
    assert (drawn.shape, drawn.dtype) == ((2, side, side, 3), torch.uint8)
    assert {t.device.type for t in (pixels, z, drawn)} == {"meta"}


@pytest.mark.parametrize("module", [binary, finite_scalar], ids=["binary", "finite scalar"])
def test_what_rounds_channels_waits_once(module, monkeypatch):
    """Once a batch the host waits for ``require_finite``: NaN must not become a token. All else of
    ``tokens`` goes without."""
    quantizer = (
        Binary(BinaryConfig(embedding_dim=5), ModelShape(0, (), 5))
        if module is binary
        else FiniteScalar(FiniteScalarConfig(levels=(8, 5, 4)), ModelShape(0, (), 3))
    )
    z = torch.empty(2, 4, 5 if module is binary else 3, device="meta")
    with pytest.raises(RuntimeError, match="meta"):
        quantizer.tokens(z)
    asked = []
    monkeypatch.setattr(module, "require_finite", asked.append)
    tokens = quantizer.tokens(z)
    assert (tokens.shape, tokens.dtype, tokens.device.type) == ((2, 4), torch.int64, "meta")
    assert len(asked) == 1
    assert quantizer.lookup(tokens).shape == z.shape


@pytest.mark.usefixtures("_on_meta")
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
def test_what_searches_waits(metric):
    """How many candidates lie within the rounding error of the best depends on the numbers, and so
    do the shapes of the exact comparison: only ``lookup`` can go without."""
    config = CodebookConfig(codebook_size=64, embedding_dim=3, metric=metric)
    with torch.device("meta"):
        quantizer = Codebook(config, ModelShape(0, (), 3))
    tokens = torch.empty(2, 4, dtype=torch.int64, device="meta")
    assert quantizer.lookup(tokens).shape == (2, 4, 3)
    with pytest.raises(RuntimeError, match="meta"):
        quantizer.tokens(torch.empty(2, 4, 3, device="meta"))


def test_a_gpu_has_four_batches_at_once_and_never_more(monkeypatch):
    """With streams that only count, as there are none without a GPU."""
    runtime = TorchRuntime.load(checkpoint.find(str(TINY)), "cpu", 4)
    begun, most, lock = [], [], threading.Lock()
    together = threading.Barrier(BATCHES_AT_ONCE, timeout=60)

    @contextlib.contextmanager
    def on(stream):
        with lock:
            begun.append(stream)
            most.append(len(begun))
        yield
        begun.remove(stream)

    runtime._streams = SimpleQueue()
    streams = [types.SimpleNamespace(wait_stream=lambda _: None) for _ in range(BATCHES_AT_ONCE)]
    for stream in streams:
        runtime._streams.put(stream)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda _: None)
    monkeypatch.setattr(torch.cuda, "stream", on)
    encode = runtime.model.encode

    def all_four(pixels):
        together.wait()
        return encode(pixels)

    monkeypatch.setattr(runtime.model, "encode", all_four)
    tiles = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    scale = runtime.model.config.preprocessing.pixel_scale
    expected = TorchRuntime.load(checkpoint.find(str(TINY)), "cpu", 4).encode(tiles, scale)
    with ThreadPoolExecutor(4 * BATCHES_AT_ONCE) as pool:
        for found in pool.map(lambda _: runtime.encode(tiles, scale), range(4 * BATCHES_AT_ONCE)):
            assert np.array_equal(found, expected)
    assert max(most) == BATCHES_AT_ONCE
    # A batch that fails gives its stream back.
    with pytest.raises(IndexError):
        runtime.decode(np.full((2, 4, 4), 1 << 20))
    assert runtime._streams.qsize() == BATCHES_AT_ONCE


# Where bfloat16 is fast


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16"), ((12, 0), "bfloat16")],
)
def test_the_fastest_dtype_of_a_gpu(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert fastest_dtype(torch.device("cuda")) == expected


@pytest.mark.parametrize(("has_it", "expected"), [(False, "float32"), (True, "bfloat16")])
def test_the_fastest_dtype_of_a_processor(monkeypatch, has_it, expected):
    assert isinstance(torch.cpu._is_amx_tile_supported(), bool)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_it)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert fastest_dtype(torch.device("cpu")) == expected
    assert fastest_dtype(torch.device("mps")) == "float32"


# In bfloat16


@pytest.mark.parametrize("name", ["tokcodec"])
def test_the_last_layer_before_the_quantizer_is_float32(name):
    one, low = (Codec.load(name, "cpu", dtype=dtype) for dtype in ("float32", "bfloat16"))
    features = []
    for layer in (one.model.encoder, low.model.encoder):
        layer.to_embedding.register_forward_pre_hook(lambda _, given: features.append(given[0]))
    noise = np.random.default_rng(0)
    side = one.config.preprocessing.read_size
    tiles = noise.integers(0, 256, (2, side, side, 3), np.uint8)
    one.encode_tiles(tiles)
    tokens = low.encode_tiles(tiles)
    assert not torch.equal(features[0][:2], features[1][:2])  # autocast was at work before it
    assert features[1].dtype == torch.float32
    encoder, quantizer = low.model.encoder, low.model.quantizer
    with torch.inference_mode():
        z = torch.nn.functional.linear(
            features[1], encoder.to_embedding.weight, encoder.to_embedding.bias
        )
        assert np.array_equal(quantizer.tokens(z)[:2].flatten(), tokens.flatten())


def test_decoding_in_bfloat16(run, tmp_path):
    run("encode", DATA / "coffee.png", "-o", tmp_path / "a.tok")
    for dtype in ("float32", "bfloat16"):
        where = ("--device", "cpu", "--dtype", dtype)
        run("decode", tmp_path / "a.tok", "-o", tmp_path / f"{dtype}.png", *where)
    from PIL import Image

    one, low = (
        np.asarray(Image.open(tmp_path / f"{dtype}.png")).astype(int)
        for dtype in ("float32", "bfloat16")
    )
    assert 0 < abs(one - low).max() <= 4  # of 255; weights and activations have 8 bits each
