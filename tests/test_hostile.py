"""Files that anyone may have written: what they say decides no memory, and steers no terminal."""

import json
import math
import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DATA, GOLDEN, PHOTOS
from safetensors import safe_open
from safetensors.numpy import save, save_file

from tokcodec import checkpoint
from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.convolutional import ConvolutionalDecoderConfig, ConvolutionalEncoderConfig
from tokcodec.config.quantizers import FiniteScalarConfig
from tokcodec.config.vit import (
    LatentEncoderConfig,
    ProxyDecoderConfig,
    VqganConfig,
)
from tokcodec.errors import CheckpointError, ConfigError, TokcodecError
from tokcodec.families import convert, locate
from tokcodec.families.reading import Section
from tokcodec.model.loading import load
from tokcodec.model.tokenizer import Tokenizer

CPU = torch.device("cpu")
EVIL = "a\x1b[31m\x9b2J\n\u202e[red]"
VIT = {"width": 8, "layers": 1, "heads": 2, "patch_size": 8}
CONVOLUTIONAL = {"channels": 32, "multipliers": (1, 1), "blocks": 1}
SMALL = {
    "convolutional": ModelConfig(
        encoder=ConvolutionalEncoderConfig(**CONVOLUTIONAL, attention=(1,)),
        quantizer=FiniteScalarConfig(levels=(3, 3)),
        decoder=ConvolutionalDecoderConfig(**CONVOLUTIONAL),
        preprocessing=PreprocessingConfig(image_size=16),
    ),
    "spatial": ModelConfig(
        encoder=ConvolutionalEncoderConfig(**CONVOLUTIONAL, haar_steps=1),
        quantizer=FiniteScalarConfig(levels=(3, 3)),
        decoder=ConvolutionalDecoderConfig(
            **CONVOLUTIONAL,
            haar_steps=1,
            norm="spatial",
            embedding_channels=2,
            head_widths=(2,),
            head_blocks=1,
        ),
        preprocessing=PreprocessingConfig(image_size=16),
    ),
    "proxy": ModelConfig(
        encoder=LatentEncoderConfig(**VIT, num_latents=4),
        quantizer=FiniteScalarConfig(levels=(3, 3)),
        decoder=ProxyDecoderConfig(
            **VIT,
            vqgan=VqganConfig(
                proxy_codebook_size=8, channels=32, multipliers=(1, 1, 1, 1), blocks=1
            ),
        ),
        preprocessing=PreprocessingConfig(image_size=16),
    ),
}
VALUES = (
    0,
    -1,
    256,
    10**6,
    10**9,
    10**30,
    1e-320,
    math.nan,
    math.inf,
    "NaN",
    [],
    [10**9] * 3,
    {},
    None,
)


def models(folder):
    """Checkpoints of every kind of part."""
    yield from (GOLDEN / f"{name}.safetensors" for name in ("patch", "latent"))
    for name, config in SMALL.items():
        torch.manual_seed(0)
        tensors = {n: t.numpy() for n, t in Tokenizer(config).state_dict().items()}
        yield checkpoint.write(folder / f"{name}.safetensors", config, tensors, {}).path


def written_out(config):
    """The fields of a config as it is written, and those that hold their default."""
    return json.loads(config.model_dump_json())


def places(fields, path=()):
    for name, value in fields.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from places(value, (*path, name))


def mutated(fields, path, value):
    copy = json.loads(json.dumps(fields))
    level = copy
    for name in path[:-1]:
        level = level[name]
    level[path[-1]] = value
    return json.dumps(copy)


def load_mutated(folder):
    """Every field of every kind of model set to what it should not be, with true ids: the figures
    are how many were refused and loaded. Whatever is no TokcodecError of one line ends it."""
    figures = {"refused": 0, "loaded": 0}
    for model in list(models(folder)):
        header, tensors = checkpoint.read(model)
        fields = written_out(header.config)
        assert ModelConfig.from_json(json.dumps(fields)) == header.config
        for path in places(fields):
            for value in VALUES:
                try:
                    config = ModelConfig.from_json(mutated(fields, path, value))
                    file = folder / "a.safetensors"
                    load(checkpoint.write(file, config, tensors, {}), CPU)
                    figures["loaded"] += 1
                except TokcodecError as error:
                    said = str(error)
                    figures["refused"] += 1
                else:
                    continue
                assert said.isprintable(), said
                assert len(said) < 500, said
    return figures


def test_no_field_of_a_config_decides_memory(tmp_path):
    program = (
        "import resource, sys, pathlib, test_hostile as t\n"
        "t.load(t.checkpoint.read_header(t.GOLDEN / 'patch.safetensors'), t.CPU)\n"
        "used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10\n"
        "before = used()\n"
        "print(t.load_mutated(pathlib.Path(sys.argv[1])), used() - before)\n"
    )
    limit = 16 << 30, 16 << 30  # of the address space, so that a failure takes this process only
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
    )
    assert done.returncode == 0, done.stderr
    figures, grown = done.stdout.rsplit(maxsplit=1)
    assert int(grown) < 100, f"{grown} MB"  # what the models themselves take is a tenth
    assert "'loaded': 0" not in figures


def rewritten(path, metadata, tensors=None):
    with safe_open(GOLDEN / "patch.safetensors", framework="np") as file:
        data = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        old = file.metadata()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({**data, **(tensors or {})}, path, {**old, **metadata})
    return path


CONFIG = checkpoint.read_header(GOLDEN / "patch.safetensors").config.to_json()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"tokcodec.config": "[" * 100_000}, "longer|nested|at most"),
        ({"tokcodec.config": "[" * 20_000}, "nested deeper than 32 levels"),
        ({"tokcodec.config": '{"encoder":' * 60 + "1" + "}" * 60}, "nested deeper than 32 levels"),
        ({"tokcodec.config": " " * (1 << 17) + CONFIG}, "characters, where there are 65,536"),
        (
            {"tokcodec.config": CONFIG[:-1] + ',"rounding":"down","rounding":"down"}'},
            "twice in an object",
        ),
        ({"tokcodec.config": CONFIG.replace('"heads":2', '"heads":1e999')}, "config.encoder.heads"),
        ({"tokcodec.config": CONFIG.replace('"heads":2', f'"heads":{10**4000}')}, "13288 bits"),
        ({"tokcodec.config": CONFIG.replace('"heads":2', f'"heads":{"9" * 5000}')}, "not JSON"),
        ({"tokcodec.provenance": '{"a":' * 50_000}, "provenance.*nested"),
        ({"tokcodec.provenance": '{"a":' * 99 + "1" + "}" * 99}, "nested deeper"),
        ({"tokcodec.provenance": '{"a":1,"a":2}'}, "a twice in an object"),
        ({"tokcodec.model_id": "z" * 64}, "not 64 hex digits"),
        ({"tokcodec.prior_id": "\x1b"}, "not 64 hex digits"),
    ],
)
def test_headers_are_refused_in_one_line(metadata, message, tmp_path):
    path = rewritten(tmp_path / "a.safetensors", metadata)
    for reader in (checkpoint.read_header, checkpoint.read):
        with pytest.raises(CheckpointError, match=message) as caught:
            reader(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500


def test_a_long_header_is_not_read(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(save({"a": np.zeros(1, np.float32)}, {"x": "x" * (5 << 20)}))
    with pytest.raises(CheckpointError, match="4,194,304") as caught:
        checkpoint.read_header(path)
    assert caught.value.name == str(path)
    path.write_bytes(struct.pack("<Q", 1 << 60) + bytes(100))
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read_header(path)
    assert caught.value.name == str(path)


BOMB = "\n".join(["a: &a0 [x, x]", *(f"b{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", '{"a":' * 20_000, "cannot read as JSON: nested deeper than 32 levels"),
        ("config.json", '{"a":1,"a":2}', "cannot read as JSON: a twice in an object"),
        ("config.json", " " * (2 << 20) + "{}", "cannot read as JSON: more than .* 131,072 bytes"),
        ("config.json", b'{"a": "\xff"}', "cannot read as JSON: not UTF-8 text: byte 7"),
        ("config.yaml", b"a: \xff", "cannot read as YAML: not UTF-8 text: byte 3"),
        (
            "config.yaml",
            "a: !!python/name:os.system",
            "cannot read as YAML: YAML tags are not supported",
        ),
        ("config.yaml", "a: !!bool x", "cannot read as YAML: YAML tags are not supported"),
        ("config.yaml", "!!timestamp a", "cannot read as YAML: YAML tags are not supported"),
        ("config.yaml", "a: 2024-01-01", "cannot read as YAML: it has a value or a key"),
        ("config.yaml", "2024-01-01: a", "cannot read as YAML: it has a value or a key"),
        ("config.yaml", "? [1, 2]\n: a", "cannot read as YAML: "),
        ("config.yaml", f"a: 0x{'f' * 9000}", "cannot read as YAML: Exceeds the limit"),
        ("config.yaml", "- a", "expected an object"),
        ("config.yaml", "", "expected an object"),
        ("config.yaml", BOMB, "cannot read as YAML: YAML aliases are not supported"),
        ("config.yaml", "[" * 50_000, "cannot read as YAML: nested deeper than 32 levels"),
    ],
)
def test_configs_of_published_checkpoints_are_refused_in_one_line(name, text, message, tmp_path):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "model.safetensors").write_bytes(save({"a": np.zeros(1, np.float32)}))
    with pytest.raises(CheckpointError, match=message) as caught:
        convert(locate(str(tmp_path)))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_values_of_published_configs_are_quoted_in_short():
    facts = {"channels": 10**30, "levels": "x" * 10**6}
    section = Section({"model": facts}, "model")
    for read in (lambda: section.choice("levels", ["a"]), lambda: section.boolean("channels")):
        with pytest.raises(CheckpointError) as caught:
            read()
        assert len(str(caught.value)) < 300


def test_tensors_that_are_not_finite_are_refused(tmp_path):
    header, tensors = checkpoint.read(GOLDEN / "patch.safetensors")
    for value in (math.nan, math.inf):
        bias = np.full_like(tensors["encoder.to_embedding.bias"], value)
        changed = {**tensors, "encoder.to_embedding.bias": bias}
        other = checkpoint.write(tmp_path / "a.safetensors", header.config, changed, {})
        with pytest.raises(
            CheckpointError, match=r"encoder\.to_embedding\.bias holds NaN or infinite"
        ):
            load(other, CPU)


def test_priors_that_lie_about_their_sizes_are_refused(tmp_path):
    (bundled,) = (h for h in checkpoint.bundled() if h.name == "tokcodec")
    prior = checkpoint.read_prior(bundled).tensors()
    own = checkpoint.read_header(GOLDEN / "patch.safetensors").config
    for name, table in prior.items():
        for shape in ((), (0,), (1,), (0, 7), (2, 3), (0, 1 << 40), (*table.shape, 1)):
            lying = {**prior, name: np.zeros(shape, table.dtype)}
            header = checkpoint.write(tmp_path / "a.safetensors", bundled.config, lying, {})
            with pytest.raises(CheckpointError) as caught:
                checkpoint.read_prior(header)
            assert str(caught.value).isprintable()
    header = checkpoint.write(tmp_path / "b.safetensors", own, prior, {})
    with pytest.raises(CheckpointError, match="its prior is of 8,192 tokens"):
        checkpoint.read_prior(header)


def is_plain(done):
    text = (done.stdout + done.stderr).decode()
    assert text.replace("\n", "").isprintable(), repr(text)
    return text


@pytest.mark.parametrize(
    ("metadata", "tensors", "shown"),
    [
        ({}, {}, None),
        ({"tokcodec.provenance": json.dumps({EVIL: [EVIL]})}, {}, None),
        ({"tokcodec.format": EVIL}, {}, r"format a\x1b[31m\x9b2J\n\u202e[red] needs"),
        ({"tokcodec.config": json.dumps({**json.loads(CONFIG), EVIL: 1})}, {}, r"config.a\x1b[31m"),
        ({"tokcodec.config": json.dumps({"encoder": EVIL})}, {}, r"'a\x1b[31m"),
        ({"tokcodec.model_id": EVIL}, {}, "64 hex digits"),
        ({}, {f"decoder.{EVIL}": np.zeros(3, np.int64)}, r"tensor decoder.a\x1b[31m"),
        ({}, {f"decoder.{EVIL}" + "x" * 10_000: np.zeros(3, np.int64)}, " ... xxx"),
    ],
)
def test_checkpoints_do_not_steer_the_terminal(metadata, tensors, shown, run, tmp_path):
    path = rewritten(tmp_path / EVIL / f"{EVIL}.safetensors", metadata, tensors)
    status = 1 if shown else 0
    token = GOLDEN / "packed.tok"
    done = [
        run("inspect", path, status=status),
        run("encode", PHOTOS[0], "--weights", path, "-o", tmp_path / "a.tok", status=status),
        run("tokenize", PHOTOS[0], "--weights", path, "-o", tmp_path / "a", status=status),
    ]
    for found in done:
        assert (shown or "") in is_plain(found)
    if not tensors:  # which a header does not tell
        is_plain(run("stats", token, "--weights", path, status=status))
        is_plain(run("inspect", token, "--weights", path, status=status))
        is_plain(run("decode", token, "-o", tmp_path / "a.png", "--weights", path, status=1))


def test_names_do_not_steer_the_terminal(run, tmp_path):
    folder = tmp_path / EVIL
    folder.mkdir()
    (folder / f"{EVIL}.jpg").write_bytes((DATA / "coffee.jpg").read_bytes())
    (folder / f"{EVIL}.png").write_bytes(b"broken")
    (folder / f"{EVIL}\udc80.png").write_bytes(b"broken, with a name that is no text")
    lone, tokens, back, dataset = (
        tmp_path / f"{name}{EVIL}" for name in ("lone.tok", "tokens", "back", "dataset")
    )
    said = is_plain(run("encode", folder, "-o", tokens, status=3))
    assert rf"{tmp_path}/a\x1b[31m\x9b2J\n\u202e[red]/a\x1b[31m" in said
    is_plain(run("encode", folder / f"{EVIL}.jpg", "-o", lone))
    token = tokens / f"{EVIL}.jpg.tok"
    for path in (token, tmp_path / f"{EVIL}.tok", tokens / f"{EVIL}"):
        is_plain(run("inspect", path, status=0 if path == token else 1))
    token.with_name(f"{EVIL}.tok").write_bytes(b"broken")
    is_plain(run("decode", tokens, "-o", back, status=3))
    is_plain(run("stats", tokens, status=3))
    is_plain(run("stats", tmp_path / EVIL, status=1))
    is_plain(run("tokenize", folder, "-o", dataset, status=3))
    is_plain(run("inspect", dataset))
    is_plain(run("stats", dataset, status=3))
    is_plain(run("decode", dataset, "-o", back / "rows", status=3))
    for arguments, status in (
        (["encode", f"{EVIL}/"], 1),
        (["encode", EVIL, EVIL], 1),
        (["inspect", EVIL, EVIL], 2),
    ):
        assert r"a\x1b[31m" in is_plain(run(*arguments, status=status))
    facts = json.loads(run("inspect", token, "--json").stdout)
    assert facts["kind"] == "token file"


def test_messages_are_one_line_of_bounded_length():
    error = TokcodecError(f"{EVIL}: " + "x" * 10**6 + "; do this")
    assert str(error).isprintable()
    assert len(str(error)) < 1100
    assert str(error).startswith(r"a\x1b[31m\x9b2J\n\u202e[red]: xxx")
    assert str(error).endswith("xxx; do this")
    assert str(ConfigError(str(error))) == str(error)
    assert (
        str(TokcodecError("Ünïtoken [x] 写真.png: as it is")) == "Ünïtoken [x] 写真.png: as it is"
    )
