import json
import math
import pickle
import subprocess
import sys
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config import model as parts
from tokcodec.config.convolutional import ConvolutionalDecoderConfig, ConvolutionalEncoderConfig
from tokcodec.config.quantizers import (
    BinaryConfig,
    CodebookConfig,
    FiniteScalarConfig,
    ResidualConfig,
)
from tokcodec.config.vit import (
    LatentDecoderConfig,
    LatentEncoderConfig,
    PatchDecoderConfig,
    PatchEncoderConfig,
    ProxyDecoderConfig,
    VqganConfig,
)
from tokcodec.errors import ConfigError
from tokcodec.train.presets import PRESETS

CONFIG = PRESETS["tokcodec"]
KINDS = [
    kind
    for part in (parts.Encoder, parts.Quantizer, parts.Decoder)
    for kind in get_args(get_args(part)[0])
]
VIT = {"width": 8, "layers": 1, "heads": 2, "patch_size": 8}
CONVOLUTIONAL = {"channels": 32, "multipliers": (1, 2), "blocks": 1}
FEWEST = {  # the fields without a default
    PatchEncoderConfig: VIT,
    LatentEncoderConfig: {**VIT, "num_latents": 4},
    ConvolutionalEncoderConfig: CONVOLUTIONAL,
    CodebookConfig: {"codebook_size": 60, "embedding_dim": 4},
    BinaryConfig: {"embedding_dim": 4},
    FiniteScalarConfig: {"levels": (3, 3)},
    ResidualConfig: {"stage": BinaryConfig(embedding_dim=4), "scales": (1, 2)},
    PatchDecoderConfig: VIT,
    LatentDecoderConfig: VIT,
    ProxyDecoderConfig: {**VIT, "vqgan": VqganConfig(multipliers=(1, 1, 1, 1))},
    ConvolutionalDecoderConfig: CONVOLUTIONAL,
    PreprocessingConfig: {},
    VqganConfig: {},
}
EVERY = [kind(**fields) for kind, fields in FEWEST.items()]


def vits(kind, patch_size=8, **more):
    return st.builds(
        lambda heads, wide, layers, ratio, **rest: kind(
            width=heads * wide,
            layers=layers,
            heads=heads,
            patch_size=patch_size,
            mlp_ratio=ratio,
            **rest,
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
    mean=st.tuples(*[st.one_of(st.floats(-1, 1), st.integers(-1, 1))] * 3),
    reduced_jpeg=st.booleans(),
    crop_scale=st.sampled_from([1.0, 1.125]),
    resize=st.sampled_from(["bicubic", "bilinear", "lanczos", "adm", "chameleon", "direct"]),
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
        unit_length=st.booleans(),
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
grids = {"positions": st.integers(1, 64)}
configs = st.one_of(
    st.builds(
        lambda scale, preprocessing, **rest: ModelConfig(
            preprocessing=preprocessing.replace(pixel_scale=scale), **rest
        ),
        scale=st.just(2),
        encoder=vits(PatchEncoderConfig, 4, **grids),
        decoder=vits(PatchDecoderConfig, **heads, **grids),
        **common | {"default_fit": st.sampled_from(["aspect", "native", "stretch"])},
    ),
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
            vits(PatchDecoderConfig, **heads, **grids),
        ),
        **common,
    ),
)


@given(configs)
def test_json_round_trip(config):
    text = config.to_json()
    assert ModelConfig.from_json(text) == config
    assert ModelConfig.from_json(text).to_json() == text
    assert ModelConfig.from_json(json.dumps(json.loads(text), indent=4)) == config
    assert pickle.loads(pickle.dumps(config)) == config


@given(configs)
def test_the_text_is_canonical(config):
    text = config.to_json()
    fields = json.loads(text)
    assert text == json.dumps(fields, sort_keys=True, separators=(",", ":"))
    for name in ("encoder", "quantizer", "decoder"):
        assert fields[name].pop("kind") == getattr(config, name).kind
    for name in fields.keys() & {"encoder", "quantizer", "decoder", "preprocessing"}:
        part = getattr(config, name)
        for field in fields[name]:
            assert getattr(part, field) != type(part).model_fields[field].default


def test_the_text_of_a_preset():
    assert CONFIG.to_json() == (
        '{"decoder":{"heads":4,"kind":"patch","layers":6,"patch_size":16,"pixel_overlap":8,'
        '"width":256},"default_fit":"aspect","encoder":{"heads":4,"kind":"patch","layers":4,'
        '"patch_size":8,"width":256},"preprocessing":{"image_size":128,"pixel_scale":2,'
        '"reduced_jpeg":true,"resize":"direct"},"quantizer":{"codebook_size":8192,'
        '"embedding_dim":33,"kind":"codebook"}}'
    )
    encode_side = json.loads(CONFIG.encode_side_json())
    assert encode_side == {
        name: json.loads(CONFIG.to_json())[name]
        for name in ("encoder", "preprocessing", "quantizer")
    }


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"colour": 1}, "config.colour"),
        ({"encoder": {"kind": "patch", **VIT, "x": 1}}, "config.encoder.x"),
        ({"encoder": {"kind": "patch", "width": 8}}, "config.encoder.layers"),
        ({"encoder": {"kind": "patch", **VIT, "num_latents": 4}}, "config.encoder.num_latents"),
        ({"encoder": {"kind": "patch", **VIT, "heads": 3}}, "config.encoder"),
        ({"encoder": 3}, "config.encoder"),
        ({"encoder": None}, "config.encoder"),
        ({"encoder": VIT}, "config.encoder.kind"),
        ({"encoder": {"kind": "cube"}}, "config.encoder.kind"),
        ({"encoder": {"kind": "binary"}}, "config.encoder.kind"),
        ({"quantizer": {"kind": ["binary"]}}, "config.quantizer.kind"),
        ({"quantizer": {"kind": "binary", "embedding_dim": 99}}, "config.quantizer.embedding_dim"),
        ({"quantizer": {"kind": "finite_scalar", "levels": []}}, "config.quantizer.levels"),
        ({"quantizer": {"kind": "finite_scalar", "levels": [2**20] * 2}}, "config.quantizer"),
        ({"quantizer": {"kind": "finite_scalar", "levels": [3, 1]}}, "config.quantizer.levels.1"),
        ({"quantizer": {"kind": "residual", "scales": [4]}}, "config.quantizer.stage"),
        (
            {"quantizer": {"kind": "residual", "stage": {"kind": "residual"}, "scales": [4]}},
            "config.quantizer.stage.kind",
        ),
        (
            {"quantizer": {"kind": "residual", "stage": {"kind": "binary"}, "scales": [4]}},
            "config.quantizer.stage.embedding_dim",
        ),
        (
            {"decoder": {"kind": "proxy", **VIT, "vqgan": {"blocks": 0}}},
            "config.decoder.vqgan.blocks",
        ),
        ({"decoder": {"kind": "proxy", **VIT, "vqgan": {}}}, "config.decoder"),
        ({"decoder": {"kind": "patch", **VIT}}, "config"),
        ({"rounding": "up"}, "config.rounding"),
        ({"preprocessing": {"mean": [0, 0]}}, "config.preprocessing.mean.2"),
        ({"preprocessing": {"mean": [0] * 4}}, "config.preprocessing.mean"),
        ({"preprocessing": {"std": [1, 1, "1"]}}, "config.preprocessing.std.2"),
        ({"preprocessing": {"std": [1, math.nan, 1]}}, "config.preprocessing.std.1"),
        ({"preprocessing": {"std": [math.inf, 1, 1]}}, "config.preprocessing.std.0"),
        ({"preprocessing": {"pixel_scale": 3}}, "config.preprocessing"),
        ({"preprocessing": {"reduced_jpeg": 1}}, "config.preprocessing.reduced_jpeg"),
        ({"default_fit": "fill"}, "config.default_fit"),
    ],
)
def test_a_bad_field_is_refused_with_its_path(change, path):
    fields = {**json.loads(CONFIG.to_json()), **change}
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_json(json.dumps(fields))
    assert caught.value.name == path
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["", "[", "[]", "null", "3", '{"a":1,"a":2}', "[" * 10**5])
def test_what_is_not_a_config_is_refused(text):
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_json(text)
    assert caught.value.name == "config"


@pytest.mark.parametrize("name", ["encoder", "quantizer", "decoder"])
def test_every_part_is_needed(name):
    fields = json.loads(CONFIG.to_json())
    del fields[name]
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_json(json.dumps(fields))
    assert caught.value.name == f"config.{name}"


def test_every_kind_is_tried():
    assert {*KINDS, PreprocessingConfig, VqganConfig} == FEWEST.keys()


@pytest.mark.parametrize("config", EVERY, ids=lambda config: type(config).__name__)
def test_every_field_is_checked_in_python_too(config):
    """Numbers have bounds, whatever they decide; nothing is taken for what it is not."""
    kind = type(config)
    for name in kind.model_fields:
        for value in (10**30, -1, math.nan, math.inf, 1e-320, (10**30,) * 3, [], None, "NaN"):
            with pytest.raises(ConfigError) as caught:
                config.replace(**{name: value})
            assert caught.value.name.startswith(f"{kind.__name__}.{name}")
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 220
    with pytest.raises(ConfigError) as caught:
        config.replace(colour=1)
    assert caught.value.name == f"{kind.__name__}.colour"


@pytest.mark.parametrize(
    "build",
    [
        lambda: PatchEncoderConfig(**VIT | {"heads": 3}),
        lambda: PatchDecoderConfig(**VIT, pixel_overlap=9),
        lambda: ConvolutionalEncoderConfig(**CONVOLUTIONAL, attention=(2,)),
        lambda: ConvolutionalEncoderConfig(**CONVOLUTIONAL | {"channels": 33}),
        lambda: FiniteScalarConfig(levels=(2**20, 2**20)),
        lambda: PreprocessingConfig(image_size=9, pixel_scale=2),
        lambda: CONFIG.replace(decoder=CONFIG.decoder.replace(patch_size=32)),
        lambda: ModelConfig(
            encoder=LatentEncoderConfig(**VIT, num_latents=4),
            quantizer=BinaryConfig(embedding_dim=4),
            decoder=LatentDecoderConfig(**VIT),
            default_fit="aspect",
        ),
    ],
)
def test_fields_that_contradict_each_other_are_refused(build):
    with pytest.raises(ConfigError):
        build()


def test_configs_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        CONFIG.rounding = "down"
    assert hash(CONFIG) == hash(CONFIG.replace())


@pytest.mark.parametrize(("size", "bits"), [(2, 1), (3, 2), (4096, 12), (8192, 13), (8193, 14)])
def test_bits_per_token(size, bits):
    assert CodebookConfig(codebook_size=size, embedding_dim=4).bits == bits


def test_number_of_tokens():
    assert {name: config.num_tokens for name, config in PRESETS.items()} == {
        "tokcodec": 64,
        "base": 64,
        "original": 16,
    }


def test_numbers_have_one_text():
    one = CONFIG.preprocessing.replace(mean=(0, 4, -0.0), std=(1, 2, 4))
    other = CONFIG.preprocessing.replace(mean=(-0.0, 4.0, 0), std=(1.0, 2, 4.0))
    texts = {CONFIG.replace(preprocessing=numbers).to_json() for numbers in (one, other)}
    assert texts == {ModelConfig.from_json(text).to_json() for text in texts}
    assert len(texts) == 1
    assert '"mean":[0.0,4.0,0.0]' in texts.pop()


def test_configs_need_no_torch_and_their_package_no_pydantic():
    program = (
        "import sys, tokcodec.config.geometry\n"
        "print('pydantic' in sys.modules)\n"
        "from tokcodec.config import ModelConfig\n"
        "print({'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == ["False", "set()"]
