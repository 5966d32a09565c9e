"""Identities must never move by accident: every token file and dataset carries one."""

import json

import identities
import pytest

from tokcodec.config import ModelConfig

PINNED = json.loads(identities.PINNED.read_text())


def test_every_checkpoint_is_pinned():
    assert PINNED.keys() == {*identities.OWN, *identities.PUBLISHED}


@pytest.mark.parametrize("name", identities.OWN)
def test_of_checkpoints(name):
    assert identities.of_own(name) == PINNED[name]


@pytest.mark.parametrize("name", identities.PUBLISHED)
def test_of_what_is_converted(name, tmp_path):
    assert identities.of_published(name, tmp_path / name) == PINNED[name]


@pytest.mark.parametrize("name", PINNED)
def test_pinned_configs_are_canonical(name):
    text = PINNED[name]["config"]
    assert ModelConfig.from_json(text).to_json() == text
