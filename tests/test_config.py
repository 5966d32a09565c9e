import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokcodec.config import ModelConfig, PreprocessingConfig, QuantizerConfig, VitConfig
from tokcodec.errors import ConfigError
from tokcodec.train.presets import PRESETS

CONFIG = PRESETS["tokcodec-16"]

vits = st.builds(
    lambda heads, wide, layers, ratio: VitConfig(heads * wide, layers, heads, 8, ratio),
    st.integers(1, 8),
    st.integers(1, 64),
    st.integers(1, 24),
    st.floats(0.5, 8),
)
configs = st.builds(
    ModelConfig,
    layout=st.just("latent"),
    encoder=vits,
    decoder=vits,
    quantizer=st.builds(QuantizerConfig, st.integers(2, 2**20), st.integers(1, 256), st.booleans()),
    preprocessing=st.builds(
        PreprocessingConfig,
        image_size=st.sampled_from([64, 256]),
        pixel_scale=st.sampled_from([1, 2, 4]),
        mean=st.tuples(*[st.floats(0, 1)] * 3),
        reduced_jpeg=st.booleans(),
    ),
    num_latents=st.integers(1, 256),
    default_fit=st.sampled_from(["stretch", "crop", "pad", "tile"]),
)


@given(configs)
def test_json_round_trip(config):
    assert ModelConfig.from_json(config.to_json()) == config
    assert ModelConfig.from_json(json.dumps(json.loads(config.to_json()), indent=4)) == config


def test_json_is_canonical_and_leaves_defaults_out():
    assert CONFIG.to_json() == (
        '{"decoder":{"heads":4,"layers":4,"patch_size":16,"width":256},'
        '"encoder":{"heads":4,"layers":3,"patch_size":16,"width":256},"layout":"patch",'
        '"pixel_overlap":8,"preprocessing":{"pixel_scale":4,"reduced_jpeg":true},'
        '"quantizer":{"code_dim":32,"codebook_size":8192}}'
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
        ({"layout": "grid"}, "config.layout: 'grid' is not a valid value"),
        ({"num_latents": 1.0}, "config.num_latents: 1.0"),
        ({"num_latents": True}, "config.num_latents: True"),
        ({"num_latents": 4}, "num_latents belongs to the latent layout"),
        ({"preprocessing": {"mean": [0, 0]}}, "config.preprocessing.mean"),
        ({"preprocessing": {"std": [1, 1, "1"]}}, "config.preprocessing.std"),
        ({"preprocessing": {"std": [1, 1, float("nan")]}}, "config.preprocessing.std"),
        ({"preprocessing": {"version": 2}}, "version 2 needs another tokcodec"),
        ({"preprocessing": {"pixel_scale": 3}}, "pixel_scale must divide image_size"),
        ({"quantizer": {"codebook_size": 1, "code_dim": 4}}, "codebook_size"),
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
def test_bits_per_code(size, bits):
    assert QuantizerConfig(size, 4).bits == bits


def test_number_of_codes():
    assert {name: config.num_codes for name, config in PRESETS.items()} == {
        "tokcodec-16": 16,
        "tokcodec-64": 64,
        "tokcodec-256": 256,
        "tokcodec-latent": 256,
        "original": 16,
    }


def test_numbers_have_one_text():
    whole = PreprocessingConfig(mean=(0, 0, 0), std=(1, 1, 1))
    config = dataclasses.replace(CONFIG, preprocessing=whole)
    assert ModelConfig.from_json(config.to_json()).to_json() == config.to_json()
    assert '"mean":[0.0,0.0,0.0]' in config.to_json()
