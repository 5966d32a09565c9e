"""A tokenize run: its rows, and that nothing is lost, whatever happens."""

import fcntl
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from conftest import COMMAND, DATA, GOLDEN, PHOTOS
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tokcodec import Codec, load_tokens
from tokcodec.errors import DatasetError, OutputError
from tokcodec.inputs import records
from tokcodec.io.lock import LOCK, locked

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from tokenized import TINY, contents, go, image, rows  # noqa: E402

from tokcodec.dataset.folder import DatasetFolder  # noqa: E402
from tokcodec.dataset.reader import open_dataset, token_files  # noqa: E402
from tokcodec.dataset.views import Views  # noqa: E402

pytestmark = pytest.mark.parquet
COLUMNS = ["key", "source", "label", "view", "width", "height", "tokens", "status", "error"]


@pytest.fixture(scope="module")
def codec():
    return Codec.load(TINY, "cpu")


def test_columns_metadata_and_tokens(run, codec, tmp_path):
    source = tmp_path / "photos"
    (source / "animals").mkdir(parents=True)
    shutil.copy(PHOTOS[1], source / "animals" / "chelsea.png")
    shutil.copy(PHOTOS[0], source / "astronaut.png")
    (source / "broken.jpg").write_bytes((DATA / "coffee.jpg").read_bytes()[:9000])
    (source / "zero.png").write_bytes(b"")
    said = run("tokenize", source, "-o", tmp_path / "t.parquet", "--weights", TINY, status=3)
    assert said.stderr.endswith(b"t.parquet: 4 rows in 1 shard, 2 failed\n")
    schema = pq.read_schema(tmp_path / "t.parquet")
    assert schema.names == COLUMNS
    tokens = "fixed_size_list<element: uint16>[16]"
    types = ["string", "string", "string", "uint8", "int32", "int32", tokens]
    assert [str(kind) for kind in schema.types] == [*types, "string", "string"]
    metadata = {k.decode(): v.decode() for k, v in schema.metadata.items()}
    assert metadata["tokcodec.config"] == codec.config.to_json()
    assert metadata["tokcodec.model_id"] == codec.header.model_id
    facts = json.loads(metadata["tokcodec.run"])
    assert (facts["fit"], facts["views"], facts["dtype"]) == ("stretch", "one", "float32")
    assert (facts["device"], facts["batch_size"], facts["tokens"]) == ("cpu", 16, 16)
    assert facts["versions"].keys() == {"tokcodec", "torch", "pillow", "machine"}

    found = {row["key"]: row for row in rows(tmp_path / "t.parquet")}
    assert list(found) == ["astronaut.png", "broken.jpg", "zero.png", "animals/chelsea.png"]
    chelsea = found["animals/chelsea.png"]
    assert (chelsea["label"], chelsea["width"], chelsea["height"]) == ("animals", 451, 300)
    assert found["astronaut.png"]["label"] is None
    for key in ("animals/chelsea.png", "astronaut.png"):
        assert found[key]["tokens"] == codec.compress(source / key).tokens.tolist()
        assert (found[key]["status"], found[key]["error"]) == ("ok", None)
    for key in ("broken.jpg", "zero.png"):
        assert found[key]["tokens"] is None
        assert found[key]["status"] == "failed"
        assert found[key]["error"].startswith("cannot read the image: ")


def test_duckdb_and_datasets_read_it(many, tmp_path):
    duckdb = pytest.importorskip("duckdb")
    datasets = pytest.importorskip("datasets")
    go([many], tmp_path / "out", limit=250)
    pattern = str(tmp_path / "out" / "*.parquet")
    query = f"select count(*), count(distinct key), max(len(tokens)) from '{pattern}'"
    assert duckdb.sql(query).fetchall() == [(250, 250, 16)]
    read = datasets.load_dataset(
        "parquet", data_files=pattern, split="train", cache_dir=str(tmp_path / "hf")
    )
    assert np.array_equal(np.array(read["tokens"]), load_tokens(tmp_path / "out"))


def test_views(codec, tmp_path):
    shutil.copy(PHOTOS[0], tmp_path / "a.png")
    image = Image.open(PHOTOS[0]).convert("RGB")
    go([tmp_path / "a.png"], tmp_path / "flip.parquet", views="hflip")
    found = rows(tmp_path / "flip.parquet")
    assert [row["view"] for row in found] == [0, 1]
    side = codec.config.preprocessing.image_size
    square = image.resize((side, side), Image.Resampling.BICUBIC)
    flipped = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert found[0]["tokens"] == codec.compress(square).tokens.tolist()
    assert found[1]["tokens"] == codec.compress(flipped).tokens.tolist()
    go([tmp_path / "a.png"], tmp_path / "ten.parquet", views="ten-crop")
    found = rows(tmp_path / "ten.parquet")
    assert [row["view"] for row in found] == list(range(10))
    go([tmp_path / "a.png"], tmp_path / "1.05.parquet", views="ten-crop", crop_range=1.05)
    for name, large in (("ten", 35), ("1.05", 33)):
        found = rows(tmp_path / f"{name}.parquet")
        resized = image.resize((large, large), Image.Resampling.BICUBIC)
        centre, end = (large - 32) // 2, large - 32
        corners = [(centre, centre), (0, 0), (end, 0), (0, end), (end, end)]
        crops = [resized.crop((x, y, x + 32, y + 32)) for x, y in corners]
        crops += [crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for crop in crops]
        for row, crop in zip(found, crops, strict=True):
            assert row["tokens"] == codec.compress(crop).tokens.tolist()
    with pytest.raises(OutputError, match=r"was made with crop_range 1\.1, not 1\.2"):
        go([tmp_path / "a.png"], tmp_path / "ten.parquet", views="ten-crop", crop_range=1.2)
    with pytest.raises(DatasetError, match="the fit tile"):
        go([tmp_path / "a.png"], tmp_path / "x.parquet", fit="tile")


def test_random_views(run, codec, tmp_path):
    whole = Image.open(PHOTOS[1]).convert("RGB")
    turned = whole.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # to be shown as it was before
    turned.save(tmp_path / "a.png", exif=turned.getexif())
    (tmp_path / "b.png").write_bytes(b"junk")
    go([tmp_path / "*.png"], tmp_path / "set", views="random:5")
    *found, failed = rows(tmp_path / "set")
    assert [row["view"] for row in found] == list(range(5))
    assert failed["box"] is None
    boxes = [row["box"] for row in found]
    assert len(set(map(tuple, boxes))) == 5
    for row, (left, top, width, height) in zip(found, boxes, strict=True):
        assert (row["width"], row["height"]) == whole.size
        crop = whole.crop((left, top, left + width, top + height))
        assert crop.size == (width, height)
        assert left + width <= whole.width
        assert top + height <= whole.height
        assert row["tokens"] == codec.compress(crop, fit="stretch").tokens.tolist()
    # Each is decoded to the shape of its crop.
    files = [file for _, file in token_files(open_dataset(tmp_path / "set"))][:5]
    assert [codec.decompress(file).size for file in files] == [tuple(box[2:]) for box in boxes]
    # A box depends on the key, the seed and the number of the view alone.
    assert Views.parse("random:2").boxes("a.png", whole.size) == [tuple(box) for box in boxes[:2]]
    assert Views.parse("random:1").boxes("a", (451, 300)) == [(26, 84, 186, 213)]
    assert Views.parse("random:1", seed=1).boxes("a", (451, 300)) != [(26, 84, 186, 213)]
    with pytest.raises(OutputError, match="was made with seed 0, not 1"):
        go([tmp_path / "*.png"], tmp_path / "set", views="random:5", seed=1)
    command = ["tokenize", tmp_path / "a.png", "--weights", TINY, "-o", tmp_path / "x", "--views"]
    for options, message in (
        (["random:0"], "random:N with N from 1 to 256"),
        (["random"], "random:N with N from 1 to 256"),
        (["hflip", "--crop-range", "1.2"], "only ten-crop has a crop range"),
        (["hflip", "--seed", "1"], "only random:N has a seed"),
        (["random:2", "--fit", "aspect"], "are square tiles; take the fit crop or stretch"),
    ):
        status = 1 if message.startswith("are square") else 2
        assert message in run(*command, *options, status=status).stderr.decode()


@given(st.integers(1, 500), st.integers(1, 500), st.integers())
def test_random_boxes_are_crops_of_moderate_shape(width, height, seed):
    for left, top, wide, high in Views.parse("random:3", seed=seed).boxes("a", (width, height)):
        assert min(left, top) >= 0
        assert 1 <= wide <= width - left
        assert 1 <= high <= height - top
        assert 3 * (max(wide, high) - 1) <= 4 * (min(wide, high) + 1)
        assert (wide + 1) * (high + 1) * 2 >= min(width, height) ** 2 * 0.75


def test_every_row_has_its_own_grid(codec, tmp_path):
    """The fit aspect, in rows, token files, arrays and images."""
    sizes = [(60, 40), (40, 60), (32, 32), (100, 20)]
    for number, size in enumerate(sizes):
        (tmp_path / f"{number}.png").write_bytes(image(number, size))
    (tmp_path / "4.png").write_bytes(b"junk")
    assert go([tmp_path / "*.png"], tmp_path / "set", fit="aspect", tokens=12) == (5, 1)
    found = rows(tmp_path / "set")
    grids = [(row["rows"], row["columns"]) for row in found]
    assert grids == [(3, 4), (4, 3), (3, 4), (2, 6), (None, None)]
    expected = [
        codec.compress(tmp_path / f"{number}.png", fit="aspect", tokens=12, packed=True)
        for number in range(len(sizes))
    ]
    assert [row["tokens"] for row in found[:4]] == [file.tokens.tolist() for file in expected]
    dataset = open_dataset(tmp_path / "set")
    assert [grid.shape for grid in dataset.grids()] == [(1, *grid) for grid in grids[:4]]
    files = [file for _, file in token_files(dataset)]
    assert [file.to_bytes() for file in files[:4]] == [file.to_bytes() for file in expected]
    # Square fits take the largest square of at most so many tokens.
    go([tmp_path / "0.png"], tmp_path / "one.parquet", fit="crop", tokens=12)
    (row,) = rows(tmp_path / "one.parquet")
    assert len(row["tokens"]) == 9
    assert "rows" not in row
    with pytest.raises(DatasetError, match="views ten-crop are square tiles"):
        go([tmp_path / "0.png"], tmp_path / "x", fit="aspect", views="ten-crop")


def test_a_run_says_how_its_files_stand(many, tmp_path):
    out, options = tmp_path / "out", {"limit": 60, "rows_per_shard": 20}

    def states(**changed):
        seen = []
        more = {**options, **changed}
        result = go([many], out, dry_run=True, begin=lambda run: seen.extend(run.jobs), **more)
        assert result == (0, 0)
        return [job.state for job in seen]

    assert states() == ["new"] * 3
    assert not out.exists()
    go([many], out, **options)
    (out / "shard-00001.parquet").unlink()
    assert states() == ["current", "new", "current"]
    assert states(fit="crop") == ["foreign", "new", "foreign"]
    assert states(rows_per_shard=30) == ["foreign", "new"]
    (out / "shard-00000.parquet").write_bytes(b"not Parquet")
    assert states() == ["foreign", "new", "current"]


def test_tokens_do_not_depend_on_place_order_or_workers(codec, many, tmp_path):
    paths = sorted(map(str, many.rglob("*.png")))[:40]
    expected = {}
    for shift in range(codec.batch_size):  # every image at every position of a batch
        order = paths[shift:] + paths[:shift]
        for workers in (1, 4):
            output = tmp_path / f"{shift}-{workers}.parquet"
            go([], output, listed=order, workers=workers, rows_per_shard=33)
            for row in rows(output):
                assert expected.setdefault(row["key"], row["tokens"]) == row["tokens"]
    random.Random(0).shuffle(paths)
    go([], tmp_path / "r.parquet", listed=paths, workers=4)
    assert {row["key"]: row["tokens"] for row in rows(tmp_path / "r.parquet")} == expected


def test_parts_are_together_one_run(many, tmp_path):
    go([many], tmp_path / "whole", limit=550)
    for index in (2, 0, 1):
        go([many], tmp_path / "parts", limit=550, shard=(index, 3))
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "whole")) == 6


def test_the_next_shard_is_read_while_one_is_written(many, tmp_path, monkeypatch):
    begun = threading.Event()

    def read(path, limit):
        if path.endswith("0150.png"):
            begun.set()
        return read_file(path, limit)

    def write(*arguments):
        assert begun.wait(60)
        return write_file(*arguments)

    read_file, write_file = records.read_bytes, DatasetFolder.writing
    monkeypatch.setattr(records, "read_bytes", read)
    monkeypatch.setattr(DatasetFolder, "writing", write)
    images = sorted((many / "cat").iterdir())[:100]
    assert images[75].name == "0150.png"
    go(images, tmp_path / "out", rows_per_shard=60, workers=2)
    monkeypatch.undo()
    go(images, tmp_path / "alone", rows_per_shard=60)
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_killed_at_any_moment_it_ends_like_an_unbroken_run(run, many, tmp_path, name):
    whole, broken = (tmp_path / way / name for way in ("unbroken", "broken"))
    options = ["--weights", TINY, "--rows-per-shard", "40", "--workers", "2"]

    def stop_after(folder, shards):
        command = [COMMAND, "tokenize", many, "-o", broken, *options]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(folder.glob("shard-*"))) < shards:
            time.sleep(0.002)
        time.sleep(random.Random(shards).random() / 20)
        process.send_signal(signal.SIGKILL)
        process.wait()

    run("tokenize", many, "-o", whole, *options)
    folder = broken if name == "out" else broken.with_name(name + ".shards")
    for shards in (1, 13, 30):
        stop_after(folder, shards)
    run("tokenize", many, "-o", broken, *options)
    if name == "out":
        assert contents(broken) == contents(whole)
        assert len(contents(whole)) == 50
        assert {p.name for p in broken.iterdir()} == set(contents(broken))
    else:
        assert broken.read_bytes() == whole.read_bytes()
        assert [p.name for p in broken.parent.iterdir()] == [name]
    keys = [row["key"] for row in rows(broken)]
    assert len(keys) == len(set(keys)) == 2000


def test_what_is_finished_stands(many, tmp_path):
    out = tmp_path / "out"
    assert go([many], out, limit=300) == (300, 0)
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("shard-*")}
    assert go([many], out, limit=300) == (300, 0)
    (out / "shard-00001.parquet").unlink()
    assert go([many], out, limit=300) == (300, 0)
    after = {p.name: p.stat().st_mtime_ns for p in out.glob("shard-*")}
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"shard-00001.parquet"}


def test_killed_between_joining_and_clearing(many, tmp_path):
    out = tmp_path / "out.parquet"
    go([many], out, limit=20, rows_per_shard=10)
    whole = out.read_bytes()
    go([many], tmp_path / "parts", limit=20, rows_per_shard=10)
    shutil.copytree(tmp_path / "parts", tmp_path / "out.parquet.shards")
    (tmp_path / "out.parquet.shards" / ".tokcodec-half").write_bytes(b"x")
    assert go([many], out, limit=20, rows_per_shard=10) == (20, 0)
    assert out.read_bytes() == whole
    assert not (tmp_path / "out.parquet.shards").exists()


def test_parts_must_agree(many, tmp_path):
    more = {"limit": 60, "rows_per_shard": 10}
    go([many], tmp_path / "out", shard=(0, 2), **more)
    with pytest.raises(OutputError, match="was made with fit stretch, not crop"):
        go([many], tmp_path / "out", shard=(1, 2), fit="crop", **more)
    # A smaller plan leaves no shard of the larger one.
    go([many], tmp_path / "out", limit=60, rows_per_shard=30, force=True)
    assert len(open_dataset(tmp_path / "out")) == 60
    path = tmp_path / "out" / "shard-00000.parquet"
    with pytest.raises(OutputError, match="is one shard of a dataset"):
        go([many], path, limit=60, rows_per_shard=30)


def test_other_runs_are_refused(many, tmp_path):
    out = tmp_path / "out"
    source = tmp_path / "in"
    shutil.copytree(many / "cat", source)
    go([source], out, limit=150)
    finished = contents(out)
    other = str(GOLDEN / "latent.safetensors")
    with pytest.raises(OutputError, match="is of model"):
        go([source], out, limit=150, weights=other, fit="stretch")
    with pytest.raises(OutputError, match="was made with views one, not hflip"):
        go([source], out, limit=150, views="hflip")
    with pytest.raises(OutputError, match="was made with limit 150, not 160"):
        go([source], out, limit=160)
    first = sorted(source.glob("*.png"))[0]
    data, times = first.read_bytes(), first.stat()
    first.write_bytes(image(99) + b" ")
    with pytest.raises(OutputError, match="its inputs have changed"):
        go([source], out, limit=150)
    # The same size and time, and other bytes: only a look at the bytes tells.
    first.write_bytes(data[:-1] + b"X")
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
    go([source], out, limit=150)
    with pytest.raises(OutputError, match="the bytes of its inputs have changed"):
        go([source], out, limit=150, verify_inputs=True)
    first.write_bytes(data)
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
    go([source], out, limit=150, verify_inputs=True)
    assert contents(out) == finished
    one = tmp_path / "one.parquet"
    go([source], one, limit=150)
    go([source], one, limit=150, verify_inputs=True)
    first.write_bytes(data[:-1] + b"X")
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(OutputError, match="the bytes of its inputs have changed"):
        go([source], one, limit=150, verify_inputs=True)
    first.write_bytes(data)
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
    go([source], out, limit=150, views="hflip", rows_per_shard=200, force=True)
    assert len(rows(out)) == 300


def test_a_second_run_is_refused(many, tmp_path):
    out = tmp_path / "out"
    with DatasetFolder(out).lock():
        for share in ((0, 1), (1, 2)):
            with pytest.raises(OutputError, match="another run is writing"):
                go([many], out, limit=10, shard=share)
    with DatasetFolder(out).lock(0, 2):
        go([many], out, limit=10, rows_per_shard=5, shard=(1, 2))
        for share in ((0, 1), (0, 2)):
            with pytest.raises(OutputError, match="another run is writing"):
                go([many], out, limit=10, rows_per_shard=5, shard=share)
    assert go([many], out, limit=10, rows_per_shard=5) == (10, 0)


def test_a_second_run_holds_the_lock_file_that_is_there(tmp_path, monkeypatch):
    out, flock = tmp_path / "out", fcntl.flock

    def ended_before(file, kind):
        monkeypatch.undo()
        shutil.rmtree(out)  # as a first run without shards does
        flock(file, kind)

    monkeypatch.setattr(fcntl, "flock", ended_before)
    with (
        DatasetFolder(out).lock(),
        pytest.raises(OutputError, match="another run is writing"),
        DatasetFolder(out).lock(),
    ):
        pass


def test_a_pipe_or_a_link_is_no_lock_file(tmp_path):
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / LOCK).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / LOCK)
    for folder in ("link", "pipe"):
        with pytest.raises(OutputError), locked(tmp_path / folder):
            pass
    assert not (tmp_path / "elsewhere").exists()


def test_failures(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for number in range(40):
        (source / f"{number:02}.png").write_bytes(image(number))
    for number in (3, 25):
        (source / f"{number:02}.png").write_bytes(b"junk")
    out = tmp_path / "out"
    seen = []
    with pytest.raises(DatasetError, match="stopped: 2 images failed, and 1 may fail"):
        go([source], out, rows_per_shard=10, max_failures=1, report=seen.append)
    assert [now.error[0] for now in seen if now.error] == ["03.png", "25.png"]
    assert len(contents(out)) == 2
    assert go([source], out, rows_per_shard=10, max_failures=2) == (40, 2)
    # A mended image of the same size and time: failed shards are done again, the others stand.
    for number in (3, 25):
        path = source / f"{number:02}.png"
        stamp = path.stat().st_mtime_ns
        path.unlink()
        path.symlink_to(tmp_path / f"mended{number}")
        (tmp_path / f"mended{number}").write_bytes(b"junk")
        os.utime(path, ns=(stamp, stamp))
    before = contents(out)
    assert go([source], out, rows_per_shard=10, retry_failed=True) == (40, 2)
    assert contents(out) == before


def test_a_full_disk(run, many, tmp_path):
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    options = ["--weights", TINY, "--rows-per-shard", "100", "--limit", "300"]
    command = [COMMAND, "tokenize", many, "-o", tmp_path / "out", *options]
    done = subprocess.run(command, capture_output=True, preexec_fn=limited, check=False)
    assert done.returncode == 1
    said = done.stderr.decode().splitlines()  # first a hint, where bfloat16 is faster
    assert all(line.startswith("tokcodec: ") for line in said)
    assert "shard-00000.parquet: cannot write: File too large" in said[-1]
    assert not (tmp_path / "out").exists()
    run(*command[1:])
    assert len(rows(tmp_path / "out")) == 300


def test_an_output_that_vanishes_is_told(many, tmp_path, monkeypatch):
    out, write_file = tmp_path / "out", DatasetFolder.writing

    def write(folder, name):
        if name == "shard-00001.parquet":
            shutil.rmtree(out)
        return write_file(folder, name)

    monkeypatch.setattr(DatasetFolder, "writing", write)
    with pytest.raises(OutputError, match=r"shard-00000\.parquet: has vanished; the same command"):
        go([many], out, limit=30, rows_per_shard=10)
    monkeypatch.undo()
    assert go([many], out, limit=30, rows_per_shard=10) == (30, 0)


def test_an_output_that_cannot_be_written(many):
    with pytest.raises(OutputError, match="/proc/nowhere/out: cannot write"):
        go([many], "/proc/nowhere/out", limit=3)


def test_memory_is_flat(tmp_path):
    cells = pa.array([{"bytes": image(0), "path": None}] * 10_000)
    pq.write_table(pa.table({"image": cells}), tmp_path / "in.parquet", row_group_size=500)
    options = ["--weights", TINY, "--rows-per-shard", "500"]
    program = f"""
import resource
from tokcodec.cli import main
for limit in ("1000", "10000"):
    assert main(["tokenize", "in.parquet", "-o", limit, "--limit", limit, *{options}]) == 0
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, cwd=tmp_path, check=True
    )
    words = done.stdout.split()
    peaks = [int(peak) / 1024 for name, peak in pairwise(words) if name == b"peak"]
    for limit in (1_000, 10_000):
        assert len(open_dataset(tmp_path / str(limit))) == limit
    assert peaks[1] - peaks[0] < 50, peaks
