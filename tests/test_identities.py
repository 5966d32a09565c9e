"""Identities must never move: every token file and dataset carries one. They, and the text of the
configs that is part of them, were written down from the program that first gave them."""

import json

import published
import pytest
from conftest import GOLDEN

from tokcodec import checkpoint
from tokcodec.config import ModelConfig
from tokcodec.families import recognise
from tokcodec.families.reading import Tensors

PINNED = json.loads((GOLDEN / "identities.json").read_text())
BUNDLED = {header.name: header.path for header in checkpoint.bundled()}
OWN = BUNDLED | {name: GOLDEN / f"{name}.safetensors" for name in ("patch", "latent")}


@pytest.mark.parametrize("name", OWN)
def test_of_checkpoints(name):
    header, _ = checkpoint.read(OWN[name])  # which compares them with the contents
    pinned = PINNED[name]
    assert (header.model_id, header.checkpoint_id) == (pinned["model_id"], pinned["checkpoint_id"])
    assert header.config.to_json() == pinned["config"]


@pytest.mark.parametrize("name", [n for n in PINNED if n not in OWN])
def test_of_what_is_converted(name):
    config, tensors = published.golden(name)
    family = recognise(tensors, config)
    ours, tensors = family.convert(Tensors(tensors), config, None)
    assert {
        "config": ours.to_json(),
        "model_id": checkpoint.model_id(ours, tensors),
        "checkpoint_id": checkpoint.checkpoint_id(ours, tensors),
    } == PINNED[name]
    assert ModelConfig.from_json(ours.to_json()) == ours
