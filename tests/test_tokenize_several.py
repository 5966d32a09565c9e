"""Several checkpoints in one pass: each image is read once, and each dataset is that of a run of
its own."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from conftest import GOLDEN

from tokcodec.errors import ArgumentError, DatasetError, OutputError
from tokcodec.inputs import records

pytest.importorskip("pyarrow")

from tokenized import TINY, contents, go, image, rows

from tokcodec.dataset.views import Views

pytestmark = pytest.mark.parquet
LATENT = str(GOLDEN / "latent.safetensors")


@pytest.fixture
def source(tmp_path):
    """70 images, two of them bad, with a text each and one that cannot be read."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(70):
        (folder / f"{number:02}.png").write_bytes(image(number, (40 + number, 40)))
        (folder / f"{number:02}.txt").write_text(f"image {number}")
    for number in (5, 40):
        (folder / f"{number:02}.png").write_bytes(b"junk")
    (folder / "07.txt").unlink()
    (folder / "07.txt").symlink_to("/proc/self/mem")
    return folder


@pytest.mark.parametrize("workers", [1, 3])
def test_each_dataset_is_that_of_its_own_run(source, tmp_path, monkeypatch, workers):
    for weights in (TINY, LATENT):
        name = Path(weights).stem
        go([source], tmp_path / "alone" / name, weights=weights, rows_per_shard=20, views="hflip")
    read = Counter()
    read_bytes = records.read_bytes
    monkeypatch.setattr(
        records, "read_bytes", lambda path, limit: read.update([path]) or read_bytes(path, limit)
    )
    options = {"weights": [TINY, LATENT], "rows_per_shard": 20, "views": "hflip"}
    seen = []

    def together(**more):
        seen.clear()
        read.clear()
        options.update(workers=workers, report=seen.append, **more)
        return go([source], tmp_path / "out", **options)

    assert together() == (2 * 139, 2 * 3)
    assert set(read.values()) == {1}
    assert len(read) == 140
    for name in ("patch", "latent"):
        assert contents(tmp_path / "out" / name) == contents(tmp_path / "alone" / name)
    # Each image is reported once, and so is each that fails.
    assert (sum(done.images for done in seen), sum(done.failed for done in seen)) == (71, 3)
    keys = [[row["key"] for row in rows(tmp_path / "out" / name)] for name in ("patch", "latent")]
    assert keys[0] == keys[1]
    # What one of them lacks is made again, and nothing else is read.
    (tmp_path / "out" / "latent" / "shard-00002.parquet").unlink()
    (tmp_path / "out" / "patch" / "shard-00001.parquet").unlink()
    (tmp_path / "out" / "latent" / "shard-00001.parquet").unlink()
    assert together() == (2 * 139, 2 * 3)
    assert len(read) == 40
    assert set(read.values()) == {1}
    assert Counter(done.kept for done in seen if done.images)[True] == 5
    for name in ("patch", "latent"):
        assert contents(tmp_path / "out" / name) == contents(tmp_path / "alone" / name)
    # A run of its own goes on where one of several has stopped.
    shutil.rmtree(tmp_path / "out" / "latent")
    go([source], tmp_path / "out" / "latent", weights=LATENT, rows_per_shard=20, views="hflip")
    assert together() == (2 * 139, 2 * 3)
    assert not read


def test_equal_preprocessing_is_done_once(source, tmp_path, monkeypatch):
    shutil.copy(TINY, tmp_path / "again.safetensors")
    read = Counter()
    read_views = Views.read

    def counted(self, file, key, *more):
        read[key] += 1
        return read_views(self, file, key, *more)

    monkeypatch.setattr(Views, "read", counted)
    weights = [TINY, str(tmp_path / "again.safetensors")]
    go([source], tmp_path / "out", weights=weights, views="random:2")
    assert set(read.values()) == {1}
    assert rows(tmp_path / "out" / "patch") == rows(tmp_path / "out" / "again")


def test_at_the_command_line(run, source, tmp_path):
    command = ["tokenize", source, "-o", tmp_path / "out", "--weights", TINY, "--weights", LATENT]
    done = run(*command, "--dry-run", "--json")
    jobs = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(Path(job["output"]).parent.name, job["state"]) for job in jobs] == [
        ("patch", "new"),
        ("latent", "new"),
    ]
    done = run(*command, "--json", status=3)
    assert json.loads(done.stdout) == {"output": str(tmp_path / "out"), "rows": 142, "failed": 6}
    said = done.stderr.decode().splitlines()
    assert said[-1].endswith("142 rows in 2 shards of 2 datasets, 3 failed")
    assert run("stats", tmp_path / "out" / "latent", "--json", status=3).stdout
    run(*command, "--max-failures", "2", "-f", status=1)


def test_what_is_refused(source, tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "golden")
    same = str(tmp_path / "golden" / "patch.safetensors")
    dots = shutil.copy(TINY, str(tmp_path / "...safetensors"))
    for output, options, error, message in (
        ("x", {"weights": [TINY, same]}, ArgumentError, "two checkpoints are named patch"),
        ("x", {"weights": [TINY, dots]}, ArgumentError, r"a checkpoint is named \.\."),
        ("x", {"weights": []}, ArgumentError, "at least one checkpoint"),
        ("x.parquet", {}, ArgumentError, "several checkpoints need a folder"),
        ("x", {"engine": "ray"}, ArgumentError, "with Ray, run one at a time"),
    ):
        with pytest.raises(error, match=message):
            go([source], tmp_path / output, **{"weights": [TINY, LATENT], **options})
    assert not (tmp_path / "x").exists()
    # A dataset that is in the way stops all, before anything is read.
    go([source], tmp_path / "y" / "latent", weights=LATENT, limit=3)
    with pytest.raises(OutputError, match=r"y/latent/shard-00000\.parquet: was made with limit 3"):
        go([source], tmp_path / "y", weights=[TINY, LATENT])
    assert not (tmp_path / "y" / "patch" / "shard-00000.parquet").exists()
    with pytest.raises(DatasetError, match="y/patch: stopped: 1 image failed, and 0 may fail"):
        go([source], tmp_path / "y", weights=[TINY, LATENT], force=True, max_failures=0)
