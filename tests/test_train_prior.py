"""Training a prior on a token dataset."""

import json

import pytest
from PIL import Image

from tokcodec import Codec

pytest.importorskip("pyarrow")

from tokenized import TINY, image

pytestmark = pytest.mark.parquet


@pytest.fixture(scope="module")
def codec():
    return Codec.load(TINY, "cpu")


def test_a_prior_of_a_dataset(start, run, dataset, codec, tmp_path):
    command = ("train-prior", dataset, "--weights", TINY, "--held-out", dataset)
    done = start(*command, "-o", "mine.safetensors", cwd=tmp_path)
    mine = tmp_path / "mine.safetensors"
    facts = json.loads(run("inspect", mine, "--json").stdout)
    assert facts["model_id"] == codec.header.model_id
    assert facts["parameters"] == sum(p.numel() for p in codec.model.state_dict().values())
    prior = facts["provenance"]["prior"]
    assert (prior["images"], prior["held_out_images"]) == (147, 147)
    assert prior["command"].startswith("tokcodec train-prior ")
    assert facts["held_out_entropy_coded_bytes"] == prior["held_out_payload_bytes"] < 12
    said = f"147 images held out: {prior['held_out_payload_bytes']:.1f} bytes of payload"
    assert said in done.stderr.decode()

    # What is coded with it needs it, for every command that reads tokens.
    (tmp_path / "a.png").write_bytes(image(1))
    run("encode", "a.png", "--weights", mine, "-o", "c.tok", cwd=tmp_path)
    for reading, told, lack in (
        ("decode", " mine\n", "its tokens are of model d608"),
        ("inspect --tokens", " mine\n", "entropy-coded with a prior of model d608"),
        ("stats", " 60 \n", "entropy-coded with a prior of model d608"),
    ):
        unknown = run(*reading.split(), "c.tok", status=1, cwd=tmp_path).stderr.decode()
        assert f"c.tok: {lack}, which is neither bundled nor cached; name" in unknown
        done = run(*reading.split(), "c.tok", "--weights", mine, cwd=tmp_path)
        assert told in (done.stdout + done.stderr).decode()
    assert Image.open(tmp_path / "c.png").size == (32, 32)

    again = run(*command, "-o", mine, status=1).stderr
    assert b"already exists" in again
    other = run("train-prior", dataset, "--weights", "tokcodec", "-o", "-", status=1).stderr
    assert b"its tokens are of model d608e7, tokcodec is " in other
