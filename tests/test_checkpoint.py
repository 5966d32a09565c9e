import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from safetensors import safe_open
from safetensors.numpy import save_file

from tokcodec import checkpoint
from tokcodec.config.model import PREPROCESSING_VERSION
from tokcodec.config.vit import LatentDecoderConfig, LatentEncoderConfig
from tokcodec.errors import CheckpointError
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


# Ids must never move: every token file and data set carries one.
@pytest.mark.parametrize(
    ("name", "model_id", "checkpoint_id"),
    [
        (
            "patch",
            "75d6f2508bdde1a090129ed7c22d1b1b809b73f5b1ca71c23e59f12f7718a68b",
            "5cdcd7f30163ccd2971b614654836691ea696e5d890a80ee0a4ca3e8e079fb2b",
        ),
        (
            "latent",
            "43f8541fbf0f97b16be9cfd2aade652684196b804f7f1ae99af8c5007586db61",
            "e6853c2722bc8ab43670d325d59d87458c061cafce03c835ed6ba16ffe438558",
        ),
    ],
)
def test_pinned_ids(name, model_id, checkpoint_id):
    header, _ = checkpoint.read(GOLDEN / f"{name}.safetensors")
    assert (header.model_id, header.checkpoint_id) == (model_id, checkpoint_id)


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
    encode_side = [
        {
            "encoder": LatentEncoderConfig(**dataclasses.asdict(config.encoder), num_latents=16),
            "decoder": LatentDecoderConfig(**dataclasses.asdict(config.decoder)),
        },
        *[
            {"encoder": dataclasses.replace(config.encoder, **change)}
            for change in ({"layers": 3}, {"heads": 4}, {"width": 18}, {"mlp_ratio": 3.0})
        ],
        *[
            {"quantizer": dataclasses.replace(config.quantizer, **change)}
            for change in ({"codebook_size": 61}, {"embedding_dim": 5}, {"metric": "cosine"})
        ],
        *[
            {"preprocessing": dataclasses.replace(config.preprocessing, **change)}
            for change in (
                {"image_size": 64},
                {"pixel_scale": 1},
                {"mean": (0.5, 0.5, 0.4)},
                {"std": (0.5, 0.5, 0.4)},
                {"reduced_jpeg": True},
                {"resize": "adm"},
            )
        ],
    ]
    rest = [
        {"decoder": dataclasses.replace(config.decoder, layers=2)},
        {"default_fit": "pad"},
        {"rounding": "down"},
    ]
    for change in encode_side + rest:
        other = dataclasses.replace(config, **change)
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


@pytest.mark.parametrize("kind", ["model_id", "checkpoint_id"])
def test_a_lie_about_its_id_is_refused(kind, tmp_path):
    path = rewritten(tmp_path / "a.safetensors", {f"tokcodec.{kind}": "0" * 64})
    with pytest.raises(CheckpointError, match=rf"a\.safetensors: damaged.* {kind} 00000000"):
        checkpoint.read(path)


def test_altered_weights_are_refused(tmp_path):
    codebook = np.zeros((60, 4), np.float32)
    path = rewritten(tmp_path / "a.safetensors", tensors={"quantizer.codebook": codebook})
    with pytest.raises(CheckpointError, match="claims model_id 75d6f250"):
        checkpoint.read(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"tokcodec.format": None}, "not a tokcodec checkpoint"),
        ({"tokcodec.format": "2"}, "format 2 needs a newer tokcodec"),
        ({"tokcodec.config": None}, "lacks tokcodec.config"),
        ({"tokcodec.config": "{}"}, "config.encoder: missing"),
        ({"tokcodec.config": "["}, "config is not JSON"),
        ({"tokcodec.model_id": None}, "lacks tokcodec.model_id"),
        ({"tokcodec.provenance": "{"}, "provenance is no JSON object"),
        ({"tokcodec.provenance": "[1]"}, "provenance is no JSON object"),
        ({"tokcodec.reads": "{}"}, "reads is no JSON array"),
        ({"tokcodec.reads": '["98b04ac0"]'}, "reads holds what is no model_id"),
    ],
)
def test_bad_metadata(metadata, message, tmp_path):
    path = rewritten(tmp_path / "a.safetensors", metadata)
    for reader in (checkpoint.read_header, checkpoint.read):
        with pytest.raises(CheckpointError) as caught:
            reader(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder.extra": np.zeros(3, np.float32)}, r"decoder\.extra.*none.*\(3,\)"),
        ({"encoder.extra": np.zeros(3, np.float32)}, r"encoder\.extra"),
        ({"decoder.to_pixels.bias": None}, r"to_pixels\.bias.*\(48,\).*none"),
        ({"quantizer.codebook": np.zeros((61, 4), np.float32)}, r"\(60, 4\).*\(61, 4\)"),
    ],
)
def test_tensors_must_be_those_of_the_config(changes, message, tmp_path):
    header = checkpoint.read_header(resealed(tmp_path / "a.safetensors", **changes))
    with pytest.raises(CheckpointError, match=message):
        load(header, torch.device("cpu"))


def test_other_types_are_refused(tmp_path):
    path = resealed(tmp_path / "a.safetensors", **{"decoder.mask": np.zeros(3, np.int64)})
    with pytest.raises(CheckpointError, match=r"decoder\.mask is neither float32 nor float16"):
        checkpoint.read(path)


@pytest.mark.parametrize("data", [b"", b"junk", b"\xff" * 64])
def test_other_files_are_refused(data, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: cannot read as a checkpoint"):
        checkpoint.read_header(path)
    whole = (GOLDEN / "patch.safetensors").read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match="cannot read"):
        checkpoint.read(path)


def test_finding_weights(tmp_path):
    names = [header.name for header in checkpoint.bundled()]
    assert names == ["tokcodec", "tokcodec", "tokcodec"]
    for header in checkpoint.bundled():
        assert checkpoint.find(header.name) == header
        assert checkpoint.find(str(header.path)) == header
        assert checkpoint.find_by_model_id(bytes.fromhex(header.model_id[:8])) == header
        assert json.loads(header.config.to_json())["layout"] == "patch"
    assert checkpoint.find_by_model_id(b"\0\0\0\0") is None
    with pytest.raises(CheckpointError, match=r"no such file, .*tokcodec, tokcodec, tokcodec"):
        checkpoint.find("tokcodec-17")
    with pytest.raises(CheckpointError, match=r"one weights file in it, found none"):
        checkpoint.find(str(tmp_path))
    shutil.copy(GOLDEN / "patch.safetensors", tmp_path)
    assert checkpoint.find(str(tmp_path)).name == "patch"
    shutil.copy(GOLDEN / "latent.safetensors", tmp_path)
    with pytest.raises(
        CheckpointError, match=r"several checkpoints, latent\.safetensors, patch\.safetensors"
    ):
        checkpoint.find(str(tmp_path))


def test_the_version_of_preprocessing_is_part_of_what_a_token_means(parts):
    assert PREPROCESSING_VERSION == 1
    assert "version" not in json.loads(parts[0].to_json())["preprocessing"]
