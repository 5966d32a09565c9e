"""Token datasets in the formats that trainers read."""

import json

import numpy as np
import pytest

import tokcodec
from tokcodec import load_tokens
from tokcodec.errors import DatasetError

pytest.importorskip("pyarrow")

from tokenized import rows

pytestmark = pytest.mark.parquet


def test_export(start, run, dataset, tmp_path):
    kept = [row for row in rows(dataset) if row["status"] == "ok"]
    expected = np.array([row["tokens"] for row in kept])
    start("export", dataset, "-o", tmp_path / "t.npy")
    for name in ("t.safetensors", "t.jsonl"):
        run("export", dataset, "-o", tmp_path / name)
    tokens = np.load(tmp_path / "t.npy")
    assert (tokens.dtype, tokens.shape) == (np.uint8, (147, 16))  # K is 60
    assert np.array_equal(tokens, expected)
    assert np.array_equal(load_tokens(dataset), expected)
    from safetensors.numpy import load_file

    assert np.array_equal(load_file(tmp_path / "t.safetensors")["tokens"], expected)
    index = [json.loads(line) for line in (tmp_path / "t.npy.index.jsonl").open()]
    classes = {"cat": 0, "dog": 1}
    assert index == [
        {"class_id": classes[row["label"]], **{k: row[k] for k in ("key", "label", "view")}}
        for row in kept
    ]
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").open()]
    assert [line["tokens"] for line in lines] == expected.tolist()
    assert [line["class_id"] for line in lines] == [classes[row["label"]] for row in kept]
    for name in ("t.npy", "t.safetensors", "t.jsonl"):
        assert json.loads((tmp_path / f"{name}.classes.json").read_text()) == classes
    said = run("export", dataset, "-o", tmp_path / "t.npy", status=1).stderr
    assert b"is there already" in said
    with pytest.raises(DatasetError, match=r"name it \.npy"):
        tokcodec.export(dataset, tmp_path / "t.csv")
