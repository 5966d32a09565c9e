"""Writes golden/identities.json, the identities of known checkpoints.

    python tests/tools/identities.py

The checkpoints are the bundled one, the golden ones, and published ones with weights drawn from a
seed, as they are converted. Every token file and dataset carries an identity, so none may move by
accident. A change that moves one on purpose, a new bundled checkpoint for example, is committed
with what this writes.
"""

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # conftest, where this runs as a script

import published
from conftest import GOLDEN

from tokcodec import checkpoint
from tokcodec.families import convert, locate

PINNED = GOLDEN / "identities.json"
OWN = {header.name: header.path for header in checkpoint.bundled()} | {
    name: GOLDEN / f"{name}.safetensors" for name in ("patch", "latent")
}
PUBLISHED = (
    *("titok_s128", "simple_1d_tokenizer"),
    *("ibq_f16", "maskgit_vqgan", "open_magvit2", "taming_f16"),
)


def of_own(name):
    header, _ = checkpoint.read(OWN[name])  # which compares them with the contents
    return {
        "config": header.config.to_json(),
        "model_id": header.model_id,
        "checkpoint_id": header.checkpoint_id,
    }


def of_published(name, folder):
    if (published.FOLDER / name / "config.json").exists():
        path = published.write(folder, *published.golden(name))
    else:
        path = published.write_golden(name, folder)
    config, tensors = convert(locate(str(path)))
    return {
        "config": config.to_json(),
        "model_id": checkpoint.model_id(config, tensors),
        "checkpoint_id": checkpoint.checkpoint_id(config, tensors),
    }


def main():
    found = {name: of_own(name) for name in OWN}
    for name in PUBLISHED:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = of_published(name, Path(folder) / name)
    PINNED.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
