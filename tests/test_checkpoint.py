import dataclasses
import shutil

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from safetensors import safe_open
from safetensors.numpy import save_file

from tokcodec import checkpoint
from tokcodec.config import DEFAULT_WEIGHTS
from tokcodec.config.vit import LatentDecoderConfig, LatentEncoderConfig
from tokcodec.errors import CheckpointError, Hint
from tokcodec.model.loading import load


@pytest.fixture(scope="module")
def parts():
    header, tensors = checkpoint.read(GOLDEN / "patch.safetensors")
    return header.config, tensors


def rewritten(path, metadata=None, tensors=None):
    """The tiny checkpoint with some of its metadata and tensors replaced, at ``path``."""
    with safe_open(GOLDEN / "patch.safetensors", framework="np") as file:
        old = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        data = {**file.metadata(), **(metadata or {})}
    merged = {
        name: value for name, value in {**old, **(tensors or {})}.items() if value is not None
    }
    save_file(merged, path, {name: value for name, value in data.items() if value is not None})
    return path


def resealed(path, **changes):
    """Like ``rewritten``, with the ids of what it holds."""
    header, tensors = checkpoint.read(GOLDEN / "patch.safetensors")
    tensors = {name: value for name, value in {**tensors, **changes}.items() if value is not None}
    checkpoint.write(path, header.config, tensors, {})
    return path


def test_any_tensor_changes_the_ids_it_belongs_to(parts):
    config, tensors = parts
    model, whole = checkpoint.model_id(config, tensors), checkpoint.checkpoint_id(config, tensors)
    sides = set()
    for name, tensor in tensors.items():
        altered = tensor.copy()
        altered.flat[-1] = np.nextafter(altered.flat[-1], np.float32(9))
        encode_side = not name.startswith("decoder.")
        sides.add(encode_side)
        for other in (altered, tensor.astype(np.float16), tensor.reshape(-1, 1, 1)):
            changed = {**tensors, name: other}
            assert (checkpoint.model_id(config, changed) != model) == encode_side, name
            assert checkpoint.checkpoint_id(config, changed) != whole, name
    assert sides == {True, False}


def test_any_field_changes_the_ids_it_belongs_to(parts):
    config, tensors = parts
    model, whole = checkpoint.model_id(config, tensors), checkpoint.checkpoint_id(config, tensors)
    vit = {"width": 16, "layers": 2, "heads": 2, "patch_size": 4}
    encode_side = [
        {
            "encoder": LatentEncoderConfig(**vit, num_latents=16),
            "decoder": LatentDecoderConfig(**vit),
        },
        *[
            {"encoder": config.encoder.replace(**change)}
            for change in ({"layers": 3}, {"heads": 4}, {"width": 18}, {"mlp_ratio": 3.0})
        ],
        *[
            {"quantizer": config.quantizer.replace(**change)}
            for change in ({"codebook_size": 61}, {"embedding_dim": 5}, {"metric": "cosine"})
        ],
        *[
            {"preprocessing": config.preprocessing.replace(**change)}
            for change in (
                {"image_size": 64},
                {"mean": (0.5, 0.5, 0.4)},
                {"std": (0.5, 0.5, 0.4)},
                {"reduced_jpeg": True},
                {"resize": "adm"},
            )
        ],
    ]
    rest = [
        {"decoder": config.decoder.replace(layers=2)},
        {"default_fit": "pad"},
        {"rounding": "down"},
    ]
    for change in encode_side + rest:
        other = config.replace(**change)
        assert (checkpoint.model_id(other, tensors) != model) == (change in encode_side), change
        assert checkpoint.checkpoint_id(other, tensors) != whole, change


def test_provenance_changes_no_id(parts, tmp_path):
    config, tensors = parts
    written = checkpoint.write(tmp_path / "a.safetensors", config, tensors, {"seed": 7})
    header, again = checkpoint.read(tmp_path / "a.safetensors")
    assert header == written
    assert header.provenance == {"seed": 7}
    assert header.model_id == checkpoint.read(GOLDEN / "patch.safetensors")[0].model_id
    assert all(np.array_equal(again[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("kind", ["model_id", "checkpoint_id", "prior_id"])
def test_a_lie_about_its_id_is_refused(kind, tmp_path):
    path = rewritten(tmp_path / "a.safetensors", {f"tokcodec.{kind}": "0" * 64})
    checkpoint.read_header(path)
    with pytest.raises(CheckpointError, match=kind) as caught:
        checkpoint.read(path)
    assert caught.value.name == str(path)


@pytest.mark.parametrize("name", ["quantizer.codebook", "decoder.to_pixels.bias"])
def test_altered_weights_are_refused(name, parts, tmp_path):
    altered = {name: np.zeros_like(parts[1][name])}
    path = rewritten(tmp_path / "a.safetensors", tensors=altered)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read(path)
    assert caught.value.name == str(path)


@pytest.mark.parametrize(
    "metadata",
    [
        {"tokcodec.format": None},
        {"tokcodec.format": "2"},
        {"tokcodec.config": None},
        {"tokcodec.config": "{}"},
        {"tokcodec.config": "["},
        {"tokcodec.model_id": None},
        {"tokcodec.model_id": "0" * 63},
        {"tokcodec.checkpoint_id": None},
        {"tokcodec.provenance": "{"},
        {"tokcodec.provenance": "[1]"},
    ],
    ids=str,
)
def test_bad_metadata(metadata, tmp_path):
    path = rewritten(tmp_path / "a.safetensors", metadata)
    for reader in (checkpoint.read_header, checkpoint.read):
        with pytest.raises(CheckpointError) as caught:
            reader(path)
        assert caught.value.name == str(path)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("decoder.extra", np.zeros(3, np.float32)),
        ("encoder.extra", np.zeros(3, np.float32)),
        ("decoder.to_pixels.bias", None),
        ("quantizer.codebook", np.zeros((61, 4), np.float32)),
    ],
)
def test_tensors_must_be_those_of_the_config(name, tensor, tmp_path):
    header = checkpoint.read_header(resealed(tmp_path / "a.safetensors", **{name: tensor}))
    with pytest.raises(CheckpointError, match=name):
        load(header, torch.device("cpu"))


def test_other_types_are_refused(tmp_path):
    path = resealed(tmp_path / "a.safetensors", **{"decoder.mask": np.zeros(3, np.int64)})
    with pytest.raises(CheckpointError, match=r"decoder\.mask") as caught:
        checkpoint.read(path)
    assert caught.value.name == str(path)


@pytest.mark.parametrize("data", [b"", b"junk", b"\xff" * 64])
def test_other_files_are_refused(data, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read_header(path)
    assert caught.value.name == str(path)
    path.write_bytes((GOLDEN / "patch.safetensors").read_bytes()[:-1])
    with pytest.raises(CheckpointError):
        checkpoint.read(path)


def test_finding_weights(tmp_path):
    assert DEFAULT_WEIGHTS in [header.name for header in checkpoint.bundled()]
    for header in checkpoint.bundled():
        assert checkpoint.find(header.name) == header
        assert checkpoint.find(str(header.path)) == header
    for missing in ("tokcodec-17", str(tmp_path)):
        with pytest.raises(CheckpointError):
            checkpoint.find(missing)
    shutil.copy(GOLDEN / "patch.safetensors", tmp_path)
    assert checkpoint.find(str(tmp_path)).name == "patch"
    shutil.copy(GOLDEN / "latent.safetensors", tmp_path)
    with pytest.raises(CheckpointError, match=r"latent\.safetensors, patch\.safetensors"):
        checkpoint.find(str(tmp_path))


def test_finding_by_model_id():
    bundled = checkpoint.bundled()[0]
    given = checkpoint.read_header(GOLDEN / "patch.safetensors")
    for header in (bundled, given):
        whole = bytes.fromhex(header.model_id)
        for length in (2, 3, 4, 32):
            assert header.decodes(whole[:length])
            assert checkpoint.find_by_model_id(whole[:length], given) == header
    other = bytes(byte ^ 255 for byte in bytes.fromhex(given.model_id))
    assert not given.decodes(other[:3])
    assert checkpoint.find_by_model_id(other[:3], given) is None
    assert checkpoint.find_by_model_id(bytes.fromhex(given.model_id)[:3]) is None


def test_finding_a_prior():
    given = checkpoint.read_header(GOLDEN / "patch.safetensors")
    prefix = bytes.fromhex(given.model_id)[:3]
    for header in (None, given):  # not found; found, without one
        with pytest.raises(CheckpointError) as caught:
            checkpoint.find_with_prior(prefix, header)
        assert caught.value.hint is Hint.NAME_WEIGHTS
    with_prior = dataclasses.replace(given, prior_id="0" * 64)
    assert checkpoint.find_with_prior(prefix, with_prior) == with_prior
