import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.convolutional import ConvolutionalDecoderConfig, ConvolutionalEncoderConfig
from tokcodec.config.quantizers import BinaryConfig, CodebookConfig, FiniteScalarConfig
from tokcodec.config.vit import (
    LatentDecoderConfig,
    LatentEncoderConfig,
    PatchDecoderConfig,
    ProxyDecoderConfig,
    VqganConfig,
)
from tokcodec.errors import ConfigError
from tokcodec.train.presets import PRESETS

CONFIG, _ = PRESETS["tokcodec"]


def vits(kind, **more):
    return st.builds(
        lambda heads, wide, layers, ratio, **rest: kind(
            width=heads * wide, layers=layers, heads=heads, patch_size=8, mlp_ratio=ratio, **rest
        ),
        st.integers(1, 8),
        st.integers(1, 64),
        st.integers(1, 24),
        st.floats(0.5, 8),
        **more,
    )


preprocessing = st.builds(
    PreprocessingConfig,
    image_size=st.sampled_from([64, 256]),
    pixel_scale=st.sampled_from([1, 2, 4]),
    mean=st.tuples(*[st.floats(0, 1)] * 3),
    reduced_jpeg=st.booleans(),
    resize=st.sampled_from(["bicubic", "adm", "lanczos", "direct"]),
)
quantizers = st.one_of(
    st.builds(
        CodebookConfig,
        codebook_size=st.integers(2, 2**20),
        embedding_dim=st.integers(1, 256),
        metric=st.sampled_from(["euclidean", "cosine", "dot"]),
    ),
    st.builds(
        BinaryConfig,
        embedding_dim=st.integers(1, 20),
        first_bit=st.sampled_from(["lowest", "highest"]),
    ),
    st.builds(
        FiniteScalarConfig, levels=st.lists(st.integers(2, 9), min_size=1, max_size=6).map(tuple)
    ),
)
common = {
    "quantizer": quantizers,
    "preprocessing": preprocessing,
    "rounding": st.sampled_from(["nearest", "down"]),
    "default_fit": st.sampled_from(["stretch", "crop", "pad", "tile"]),
}
convolutional = {
    "channels": st.sampled_from([32, 64]),
    "multipliers": st.lists(st.integers(1, 4), min_size=4, max_size=4).map(tuple),
    "blocks": st.integers(1, 3),
    "attention": st.lists(st.integers(0, 3), unique=True).map(tuple),
    "bias": st.booleans(),
    "shortcut": st.sampled_from(["input", "output"]),
    "embedding_channels": st.integers(0, 9),
}
latents = vits(LatentEncoderConfig, num_latents=st.integers(1, 256), legacy_latents=st.booleans())
heads = {"pixel_overlap": st.integers(0, 8), "pixel_convolution": st.booleans()}
configs = st.one_of(
    st.builds(
        ModelConfig,
        encoder=latents,
        decoder=st.one_of(
            vits(LatentDecoderConfig, prefix_tokens=st.booleans(), **heads),
            vits(
                ProxyDecoderConfig,
                prefix_tokens=st.booleans(),
                vqgan=st.builds(VqganConfig, multipliers=st.just((1, 1, 2, 2))),
            ),
        ),
        **common,
    ),
    st.builds(
        ModelConfig,
        encoder=st.builds(ConvolutionalEncoderConfig, **convolutional),
        decoder=st.one_of(
            st.builds(ConvolutionalDecoderConfig, **convolutional),
            vits(PatchDecoderConfig, **heads),
        ),
        **common,
    ),
)


@given(configs)
def test_json_round_trip(config):
    assert ModelConfig.from_json(config.to_json()) == config
    assert ModelConfig.from_json(json.dumps(json.loads(config.to_json()), indent=4)) == config


def test_json_is_canonical_and_leaves_defaults_out():
    assert CONFIG.to_json() == (
        '{"decoder":{"heads":4,"layers":4,"patch_size":16,"width":256},'
        '"encoder":{"heads":4,"layers":3,"patch_size":16,"width":256},"layout":"patch",'
        '"pixel_overlap":8,"preprocessing":{"pixel_scale":4,"reduced_jpeg":true,"resize":"direct"},'
        '"quantizer":{"embedding_dim":32,"codebook_size":8192}}'
    )
    assert json.loads(CONFIG.encode_side_json()).keys() == {
        "encoder",
        "layout",
        "preprocessing",
        "quantizer",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "config.colour: unknown field"),
        ({"encoder": {"width": 8, "layers": 1, "heads": 1, "patch_size": 8, "x": 1}}, "encoder.x"),
        ({"encoder": {"width": 8, "layers": 1, "heads": 1}}, "config.encoder.patch_size: missing"),
        ({"encoder": 3}, "config.encoder: expected an object"),
        ({"encoder": {"kind": "cube"}}, "config.encoder.kind: 'cube' is none of patch, latent, "),
        ({"quantizer": {"kind": ["binary"]}}, "config.quantizer.kind: ['binary'] is none of"),
        ({"layout": "grid"}, "config.layout: 'grid' is none of patch, latent"),
        ({"layout": "latent", "num_latents": 1.0}, "config.encoder.num_latents: 1.0"),
        ({"layout": "latent", "num_latents": True}, "config.encoder.num_latents: True"),
        ({"num_latents": 4}, "config.encoder.num_latents: unknown field"),
        ({"vqgan": {}}, "config.decoder.pixel_overlap: unknown field"),
        (
            {"quantizer": {"kind": "binary", "embedding_dim": 99}},
            "embedding_dim must be from 1 to 32",
        ),
        ({"rounding": "up"}, "config.rounding: 'up' is not a valid value"),
        ({"preprocessing": {"mean": [0, 0]}}, "config.preprocessing.mean"),
        ({"preprocessing": {"std": [1, 1, "1"]}}, "config.preprocessing.std"),
        ({"preprocessing": {"std": [1, 1, float("nan")]}}, "config.preprocessing.std"),
        ({"preprocessing": {"version": 2}}, "version 2 needs another tokcodec"),
        ({"preprocessing": {"pixel_scale": 3}}, "pixel_scale must divide image_size"),
        ({"quantizer": {"codebook_size": 1, "embedding_dim": 4}}, "codebook_size"),
        ({"default_fit": "fill"}, "config.default_fit"),
    ],
)
def test_strict_parsing(change, message):
    fields = {**json.loads(CONFIG.to_json()), **change}
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_json(json.dumps(fields))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("size", "bits"), [(2, 1), (3, 2), (4096, 12), (8192, 13), (8193, 14)])
def test_bits_per_token(size, bits):
    assert CodebookConfig(codebook_size=size, embedding_dim=4).bits == bits


def test_number_of_tokens():
    assert {name: config.num_tokens for name, (config, _) in PRESETS.items()} == {
        "tokcodec": 16,
        "tokcodec": 64,
        "tokcodec": 256,
        "tokcodec": 256,
        "original": 16,
        **{f"base-{tokens}": tokens for tokens in (16, 64, 256)},
        **{f"base-latent-{tokens}": tokens for tokens in (16, 64, 256)},
    }


def test_numbers_have_one_text():
    whole = PreprocessingConfig(mean=(0, 0, 0), std=(1, 1, 1))
    config = dataclasses.replace(CONFIG, preprocessing=whole)
    assert ModelConfig.from_json(config.to_json()).to_json() == config.to_json()
    assert '"mean":[0.0,0.0,0.0]' in config.to_json()
