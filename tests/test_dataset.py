"""Token datasets: every kind of input, nothing lost, and back."""

import fcntl
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COMMAND, DATA, GOLDEN, PHOTOS
from PIL import Image

from tokcodec import Codec, TokenFile
from tokcodec.errors import DatasetError, OutputError
from tokcodec.inputs import records

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from tokcodec.dataset.export import export  # noqa: E402
from tokcodec.dataset.reader import load_tokens, open_dataset, token_files  # noqa: E402
from tokcodec.dataset.torch_dataset import TokenDataset  # noqa: E402
from tokcodec.dataset.views import COUNTS  # noqa: E402
from tokcodec.io.remote import open_input  # noqa: E402
from tokcodec.tokenize import step  # noqa: E402
from tokcodec.tokenize.lock import locked  # noqa: E402
from tokcodec.tokenize.plan import make_plan  # noqa: E402
from tokcodec.tokenize.run import run  # noqa: E402
from tokcodec.tokenize.step import ShardStep  # noqa: E402
from tokcodec.tokenize.task import Settings, Task  # noqa: E402

pytestmark = pytest.mark.parquet
TINY = str(GOLDEN / "patch.safetensors")
COLUMNS = ["key", "label", "view", "width", "height", "tokens", "status", "error"]


@pytest.fixture(scope="module")
def codec():
    return Codec.load(TINY, "cpu")


def image(seed, size=(32, 32)):
    """A small PNG of coarse noise."""
    noise = np.random.RandomState(seed).randint(0, 256, (4, 4, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """2,000 images in two class folders."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(2000):
        path = folder / ("cat", "dog")[number % 2] / f"{number:04}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image(number))
    return folder


def go(codec, sources, output, rows_per_shard=100, workers=1, listed=(), limit=None, **more):
    """``tokcodec tokenize`` in this process."""
    settings = {k: more.pop(k) for k in ("views", "tokens", "fit") if k in more}
    settings = Settings(**{"fit": "stretch", "batch_size": codec.batch_size, **settings})
    label = more.pop("label", None)
    sources = [str(source) for source in sources]
    views = COUNTS[settings.views]
    plan = make_plan(sources, listed, rows_per_shard, views, label, limit, Path(output))
    task = Task(codec.header, settings, plan)
    return run(task, ShardStep(task, codec, workers), Path(output), **more)


def rows(path):
    files = sorted(path.glob("shard-*.parquet")) if path.is_dir() else [path]
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.glob("*.parquet")}


# What comes out


def test_columns_metadata_and_tokens(run, codec, tmp_path):
    source = tmp_path / "photos"
    (source / "animals").mkdir(parents=True)
    shutil.copy(PHOTOS[1], source / "animals" / "chelsea.png")
    shutil.copy(PHOTOS[0], source / "astronaut.png")
    (source / "broken.jpg").write_bytes((DATA / "coffee.jpg").read_bytes()[:9000])
    (source / "zero.png").write_bytes(b"")
    said = run("tokenize", source, "-o", tmp_path / "t.parquet", "--weights", TINY, status=3)
    assert said.stderr.endswith(b"t.parquet: 4 rows of 1 shards, 2 failed\n")
    schema = pq.read_schema(tmp_path / "t.parquet")
    assert schema.names == COLUMNS
    types = ["string", "string", "uint8", "int32", "int32", "list<element: uint16>"]
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


def test_duckdb_and_datasets_read_it(codec, many, tmp_path):
    duckdb = pytest.importorskip("duckdb")
    datasets = pytest.importorskip("datasets")
    go(codec, [many], tmp_path / "out", limit=250)
    pattern = str(tmp_path / "out" / "*.parquet")
    query = f"select count(*), count(distinct key), max(len(tokens)) from '{pattern}'"
    assert duckdb.sql(query).fetchall() == [(250, 250, 16)]
    read = datasets.load_dataset(
        "parquet", data_files=pattern, split="train", cache_dir=str(tmp_path / "hf")
    )
    assert np.array_equal(np.array(read["tokens"]), load_tokens(tmp_path / "out"))


# What goes in


def test_names_of_every_kind(codec, tmp_path):
    source = tmp_path / "in"
    (source / "ä b").mkdir(parents=True)
    names = ["ä b/日本.png", "ä b/a'\"b.png", "[x].png", "same.jpg", "same.png"]
    for number, name in enumerate(names):
        (source / name).write_bytes(image(number))
    (source / "link.png").symlink_to(source / "same.png")
    (source / "dangling.png").symlink_to(source / "nowhere.png")
    (source / "folder.png").mkdir()
    go(codec, [source], tmp_path / "a.parquet")
    found = {row["key"]: row for row in rows(tmp_path / "a.parquet")}
    assert set(found) == {*names, "link.png", "dangling.png"}
    assert found["dangling.png"]["error"] == "cannot read: No such file or directory"
    assert found["link.png"]["tokens"] == found["same.png"]["tokens"]
    # A glob, and a list, give the same tokens under their own keys.
    go(codec, [source / "*" / "*.png"], tmp_path / "b.parquet")
    globbed = [row["key"] for row in rows(tmp_path / "b.parquet")]
    assert globbed == ["ä b/a'\"b.png", "ä b/日本.png"]
    listed = [str(source / "same.png"), str(source / "gone.png")]
    go(codec, [], tmp_path / "c.parquet", listed=listed)
    assert [row["key"] for row in rows(tmp_path / "c.parquet")] == listed
    assert [row["status"] for row in rows(tmp_path / "c.parquet")] == ["ok", "failed"]


def test_lists_at_the_command_line(start, run, tmp_path, many):
    names = "\n".join(map(str, sorted(many.rglob("*.png"))[:5])) + "\n"
    (tmp_path / "list.txt").write_text(names)
    options = ("--weights", TINY, "-o")
    run("tokenize", "--from-file", tmp_path / "list.txt", *options, tmp_path / "a.parquet")
    start("tokenize", "--from-file", "-", *options, tmp_path / "b.parquet", stdin=names.encode())
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert len(rows(tmp_path / "a.parquet")) == 5
    for arguments, message in (
        (["-o", "x"], "no images: name sources"),
        (["nowhere", "-o", "x"], "nowhere: no such file, or no images in it"),
        ([many, "-o", "x", "--shard", "2/2"], "I/N"),
        ([many, "-o", "x.parquet", "--shard", "0/2"], "parts need a folder"),
        (["--from-file", "absent", "-o", "x"], "--from-file absent: cannot read as text"),
    ):
        status = 1 if "nowhere" in arguments or "absent" in arguments else 2
        said = run("tokenize", *arguments, cwd=tmp_path, status=status).stderr.decode()
        assert message in said


def test_two_inputs_of_one_key(codec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one/twin.png", "two/twin.png", "two/other.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(image(len(name)))
    # Folders keep their names, and no two labels become one.
    go(codec, ["one", "two"], tmp_path / "out")
    expected = [("one/twin.png", "one"), ("two/other.png", "two"), ("two/twin.png", "two")]
    assert [(row["key"], row["label"]) for row in rows(tmp_path / "out")] == expected
    # What a list names keeps that name.
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree("one", "elsewhere/one")
    monkeypatch.chdir("elsewhere")
    with pytest.raises(DatasetError, match=r"would both have the key one/twin\.png"):
        go(codec, ["../one", "../two"], tmp_path / "x", listed=["one/twin.png"])


def test_members_of_tars_are_all_there(codec, tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for number, name in enumerate(
            ["img.001.png", "img.002.png", "a/.hid.png", "twin.png", "twin.png", "b.jpg.png"]
        ):
            member = tarfile.TarInfo(name)
            member.size = len(image(number))
            tar.addfile(member, io.BytesIO(image(number)))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.LNKTYPE, "twin.png"
        tar.addfile(link)
    assert go(codec, [tmp_path / "t.tar"], tmp_path / "out.parquet") == (7, 1)
    found = rows(tmp_path / "out.parquet")
    names = ["img.001.png", "img.002.png", "a/.hid", "twin", "twin", "b", "link"]
    assert [row["key"] for row in found] == names
    for number in range(6):
        expected = codec.compress(io.BytesIO(image(number))).tokens.tolist()
        assert found[number]["tokens"] == expected
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    assert go(codec, [tmp_path / "empty.tar", tmp_path / "t.tar"], tmp_path / "o") == (7, 1)
    assert len(load_tokens(tmp_path / "o")) == 6
    with tarfile.open(tmp_path / "z.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "t.tar", "not-a-image.tar")
    (tmp_path / "in").mkdir()
    shutil.copy(tmp_path / "z.tar.gz", tmp_path / "in")
    assert go(codec, [tmp_path / "in"], tmp_path / "p") == (0, 0)


def test_odd_names_and_links(codec, tmp_path):
    source = tmp_path / "in"
    (source / "real").mkdir(parents=True)
    (source / "real" / "a.png").write_bytes(image(1))
    (source / "linked").symlink_to(source / "real", target_is_directory=True)
    (source / "loop").symlink_to(source, target_is_directory=True)
    with open(os.fsencode(str(source)) + b"/bad\xff.png", "wb") as file:
        file.write(image(2))
    go(codec, [source], tmp_path / "a.parquet")
    found = [row["key"] for row in rows(tmp_path / "a.parquet")]
    assert found == ["bad\\xff.png", "real/a.png"]
    # The same file twice is one row; the list may be of Windows.
    names = [str(source / "real" / "a.png")] * 2
    go(codec, [], tmp_path / "b.parquet", listed=names)
    assert len(rows(tmp_path / "b.parquet")) == 1
    with pytest.raises(DatasetError, match=r"x\.tar: lists hold images"):
        go(codec, [], tmp_path / "c.parquet", listed=["x.tar"])


def test_the_output_is_no_input(codec, many, tmp_path):
    shutil.copytree(many / "cat", tmp_path / "in")
    for name in ("in/out", "in/out.parquet"):
        for _ in range(2):
            assert go(codec, [tmp_path / "in"], tmp_path / name, limit=30) == (30, 0)
        if name == "in/out":
            shutil.rmtree(tmp_path / name)
    (tmp_path / "in" / "out.parquet").unlink()
    cells = pa.array([{"bytes": image(0), "path": None}])
    for name in ("self.parquet", "folder/shard-00000.parquet"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"image": cells}), path)
        output = path if name == "self.parquet" else path.parent
        for other in (path, tmp_path / "in"):
            with pytest.raises(DatasetError):
                go(codec, [other], output, force=True, limit=3)
            assert pq.read_table(path).num_rows == 1  # the images are still there


def test_parts_must_agree(codec, many, tmp_path):
    more = {"limit": 60, "rows_per_shard": 10}
    go(codec, [many], tmp_path / "out", share=(0, 2), **more)
    with pytest.raises(DatasetError, match="was made with fit stretch, not crop"):
        go(codec, [many], tmp_path / "out", share=(1, 2), fit="crop", **more)
    # A smaller plan leaves no shard of the larger one.
    go(codec, [many], tmp_path / "out", limit=60, rows_per_shard=30, force=True)
    assert len(open_dataset(tmp_path / "out")) == 60
    path = tmp_path / "out" / "shard-00000.parquet"
    with pytest.raises(DatasetError, match="is one shard of a dataset"):
        go(codec, [many], path, limit=60, rows_per_shard=30)


def test_killed_between_joining_and_clearing(codec, many, tmp_path):
    out = tmp_path / "out.parquet"
    go(codec, [many], out, limit=20, rows_per_shard=10)
    whole = out.read_bytes()
    go(codec, [many], tmp_path / "parts", limit=20, rows_per_shard=10)
    shutil.copytree(tmp_path / "parts", tmp_path / "out.parquet.shards")
    (tmp_path / "out.parquet.shards" / ".tokcodec-half").write_bytes(b"x")
    assert go(codec, [many], out, limit=20, rows_per_shard=10) == (20, 0)
    assert out.read_bytes() == whole
    assert not (tmp_path / "out.parquet.shards").exists()


def test_tars(codec, tmp_path):
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "shards" / f"{shard}.tar", "w") as tar:

            def add(name, data, tar=tar):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))

            for number in range(3):
                key = f"sub/{shard}{number}"
                add(f"{key}.png", image(10 * shard + number))
                add(f"{key}.cls", f"{number}\n".encode())
                if number:
                    add(f"{key}.txt", "caption ü".encode())
                    add(f"{key}.json", b'{"a": 1}')
            add(f"sub/only{shard}.cls", b"5")
    go(codec, [tmp_path / "shards"], tmp_path / "out", rows_per_shard=2)
    assert [p.name for p in sorted((tmp_path / "out").glob("*.parquet"))] == [
        "shard-00000.parquet",
        "shard-00001.parquet",
    ]
    found = rows(tmp_path / "out")
    assert [row["key"] for row in found] == [
        "sub/00", "sub/01", "sub/02", "sub/only0", "sub/10", "sub/11", "sub/12", "sub/only1",
    ]  # fmt: skip
    assert [row["label"] for row in found] == ["0", "1", "2", "5"] * 2
    assert (found[1]["txt"], found[1]["json"], found[0]["txt"]) == ("caption ü", '{"a": 1}', None)
    assert found[3]["error"] == "cannot read: no image under this key"
    expected = codec.compress(io.BytesIO(image(12))).tokens.tolist()
    assert found[6]["tokens"] == expected
    go(codec, [tmp_path / "shards" / "1.tar"], tmp_path / "b.parquet", limit=2)
    assert [row["key"] for row in rows(tmp_path / "b.parquet")] == ["sub/10", "sub/11"]
    # What is left of a damaged tar is there, and a failed row says that something is not.
    whole = (tmp_path / "shards" / "0.tar").read_bytes()
    (tmp_path / "shards" / "0.tar").write_bytes(whole[:5000])
    assert go(codec, [tmp_path / "shards"], tmp_path / "c") == (6, 2)
    found = rows(tmp_path / "c")
    assert [row["key"] for row in found[:2]] == ["sub/00", "0.tar"]
    assert found[0]["status"] == "ok"
    assert found[1]["error"].startswith("cannot read: the rest of the tar: ")


def test_parquet_inputs(codec, tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    values = [{"bytes": image(n), "path": f"{n}.png" if n % 2 else None} for n in range(7)]
    values.append({"bytes": None, "path": None})
    columns = {"image": pa.array(values, kind), "label": pa.array(range(8)), "fine": ["x"] * 8}
    pq.write_table(pa.table(columns), tmp_path / "in.parquet", row_group_size=3)
    go(codec, [tmp_path / "in.parquet"], tmp_path / "out", rows_per_shard=5)
    found = rows(tmp_path / "out")
    assert [row["key"] for row in found] == [
        "in.parquet/0", "1.png", "in.parquet/2", "3.png", "in.parquet/4", "5.png",
        "in.parquet/6", "in.parquet/7",
    ]  # fmt: skip
    assert [row["label"] for row in found] == list("01234567")
    assert found[7]["error"] == "cannot read: no image in this row"
    for number in range(7):
        expected = codec.compress(io.BytesIO(image(number))).tokens.tolist()
        assert found[number]["tokens"] == expected
    go(codec, [tmp_path / "in.parquet"], tmp_path / "fine.parquet", label="fine", limit=4)
    assert [row["label"] for row in rows(tmp_path / "fine.parquet")] == ["x"] * 4
    with pytest.raises(DatasetError, match="no column coarse"):
        go(codec, [tmp_path / "in.parquet"], tmp_path / "x.parquet", label="coarse")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "none.parquet")
    with pytest.raises(DatasetError, match="no column of images"):
        go(codec, [tmp_path / "none.parquet"], tmp_path / "x.parquet")
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    with pytest.raises(DatasetError, match=r"junk\.parquet: cannot read as Parquet"):
        go(codec, [tmp_path / "junk.parquet"], tmp_path / "x.parquet")


def test_urls(codec, many, tmp_path):
    go(codec, [f"file://{many}"], tmp_path / "a.parquet", limit=20)
    go(codec, [many], tmp_path / "b.parquet", limit=20)
    assert rows(tmp_path / "a.parquet") == rows(tmp_path / "b.parquet")
    with open_input(f"file://{many}/cat/0000.png") as file:
        assert file.read() == (many / "cat" / "0000.png").read_bytes()


def test_the_next_shard_is_read_while_one_is_written(codec, many, tmp_path, monkeypatch):
    begun = threading.Event()

    def read(path):
        if path.endswith("0150.png"):
            begun.set()
        return read_file(path)

    def write(*arguments):
        assert begun.wait(60)
        return write_rows(*arguments)

    read_file, write_rows = records.read_bytes, step.write_rows
    monkeypatch.setattr(records, "read_bytes", read)
    monkeypatch.setattr(step, "write_rows", write)
    images = sorted((many / "cat").iterdir())[:100]
    assert images[75].name == "0150.png"
    go(codec, images, tmp_path / "out", rows_per_shard=60, workers=2)
    monkeypatch.undo()
    go(codec, images, tmp_path / "alone", rows_per_shard=60)
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


def test_views(codec, tmp_path):
    shutil.copy(PHOTOS[0], tmp_path / "a.png")
    image = Image.open(PHOTOS[0]).convert("RGB")
    go(codec, [tmp_path / "a.png"], tmp_path / "flip.parquet", views="hflip")
    found = rows(tmp_path / "flip.parquet")
    assert [row["view"] for row in found] == [0, 1]
    side = codec.config.preprocessing.image_size
    square = image.resize((side, side), Image.Resampling.BICUBIC)
    flipped = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert found[0]["tokens"] == codec.compress(square).tokens.tolist()
    assert found[1]["tokens"] == codec.compress(flipped).tokens.tolist()
    go(codec, [tmp_path / "a.png"], tmp_path / "ten.parquet", views="ten-crop")
    found = rows(tmp_path / "ten.parquet")
    assert [row["view"] for row in found] == list(range(10))
    large = image.resize((35, 35), Image.Resampling.BICUBIC)
    corners = [(1, 1), (0, 0), (3, 0), (0, 3), (3, 3)]
    crops = [large.crop((x, y, x + 32, y + 32)) for x, y in corners]
    crops += [crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for crop in crops]
    for row, crop in zip(found, crops, strict=True):
        assert row["tokens"] == codec.compress(crop).tokens.tolist()
    with pytest.raises(DatasetError, match="--fit tile"):
        go(codec, [tmp_path / "a.png"], tmp_path / "x.parquet", fit="tile")


# The same tokens, whatever runs beside them


def test_tokens_do_not_depend_on_place_order_or_workers(codec, many, tmp_path):
    paths = sorted(map(str, many.rglob("*.png")))[:40]
    expected = {}
    for shift in range(codec.batch_size):  # every image at every position of a batch
        order = paths[shift:] + paths[:shift]
        for workers in (1, 4):
            output = tmp_path / f"{shift}-{workers}.parquet"
            go(codec, [], output, listed=order, workers=workers, rows_per_shard=33)
            for row in rows(output):
                assert expected.setdefault(row["key"], row["tokens"]) == row["tokens"]
    random.Random(0).shuffle(paths)
    go(codec, [], tmp_path / "r.parquet", listed=paths, workers=4)
    assert {row["key"]: row["tokens"] for row in rows(tmp_path / "r.parquet")} == expected


def test_parts_are_together_one_run(codec, many, tmp_path):
    go(codec, [many], tmp_path / "whole", limit=550)
    for index in (2, 0, 1):
        go(codec, [many], tmp_path / "parts", limit=550, share=(index, 3))
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "whole")) == 6


# Nothing lost


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
        assert {p.name for p in broken.iterdir()} == {".lock", *contents(broken)}
    else:
        assert broken.read_bytes() == whole.read_bytes()
        assert [p.name for p in broken.parent.iterdir()] == [name]
    keys = [row["key"] for row in rows(broken)]
    assert len(keys) == len(set(keys)) == 2000


def test_what_is_finished_stands(codec, many, tmp_path):
    out = tmp_path / "out"
    assert go(codec, [many], out, limit=300) == (300, 0)
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("shard-*")}
    assert go(codec, [many], out, limit=300) == (300, 0)
    (out / "shard-00001.parquet").unlink()
    assert go(codec, [many], out, limit=300) == (300, 0)
    after = {p.name: p.stat().st_mtime_ns for p in out.glob("shard-*")}
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"shard-00001.parquet"}


def test_other_runs_are_refused(codec, many, tmp_path):
    out = tmp_path / "out"
    source = tmp_path / "in"
    shutil.copytree(many / "cat", source)
    go(codec, [source], out, limit=150)
    finished = contents(out)
    other = Codec.load(str(GOLDEN / "latent.safetensors"), "cpu")
    with pytest.raises(DatasetError, match="is of model 75d6f250, not"):
        go(other, [source], out, limit=150)
    with pytest.raises(DatasetError, match="was made with views one, not hflip"):
        go(codec, [source], out, limit=150, views="hflip")
    with pytest.raises(DatasetError, match="was made with limit 150, not 160"):
        go(codec, [source], out, limit=160)
    first = sorted(source.glob("*.png"))[0]
    data, times = first.read_bytes(), first.stat()
    first.write_bytes(image(99) + b" ")
    with pytest.raises(DatasetError, match="its inputs have changed"):
        go(codec, [source], out, limit=150)
    # The same size and time, and other bytes: only a look at the bytes tells.
    first.write_bytes(data[:-1] + b"X")
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
    go(codec, [source], out, limit=150)
    with pytest.raises(DatasetError, match="the bytes of its inputs have changed"):
        go(codec, [source], out, limit=150, verify_inputs=True)
    first.write_bytes(data)
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
    go(codec, [source], out, limit=150, verify_inputs=True)
    assert contents(out) == finished
    one = tmp_path / "one.parquet"
    go(codec, [source], one, limit=150)
    go(codec, [source], one, limit=150, verify_inputs=True)
    first.write_bytes(data[:-1] + b"X")
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(DatasetError, match="the bytes of its inputs have changed"):
        go(codec, [source], one, limit=150, verify_inputs=True)
    first.write_bytes(data)
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
    go(codec, [source], out, limit=150, views="hflip", rows_per_shard=200, force=True)
    assert len(rows(out)) == 300


def test_a_second_run_is_refused(codec, many, tmp_path):
    out = tmp_path / "out"
    with locked(out, out, (0, 1)):
        for share in ((0, 1), (1, 2)):
            with pytest.raises(DatasetError, match="another run is writing"):
                go(codec, [many], out, limit=10, share=share)
    with locked(out, out, (0, 2)):
        go(codec, [many], out, limit=10, rows_per_shard=5, share=(1, 2))
        for share in ((0, 1), (0, 2)):
            with pytest.raises(DatasetError, match="another run is writing"):
                go(codec, [many], out, limit=10, rows_per_shard=5, share=share)
    assert go(codec, [many], out, limit=10, rows_per_shard=5) == (10, 0)


def test_a_second_run_holds_the_lock_file_that_is_there(tmp_path, monkeypatch):
    out, flock = tmp_path / "out", fcntl.flock

    def ended_before(file, kind):
        monkeypatch.undo()
        shutil.rmtree(out)  # as a first run without shards does
        flock(file, kind)

    monkeypatch.setattr(fcntl, "flock", ended_before)
    with (
        locked(out, out, (0, 1)),
        pytest.raises(DatasetError, match="another run is writing"),
        locked(out, out, (0, 1)),
    ):
        pass


def test_failures(codec, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for number in range(40):
        (source / f"{number:02}.png").write_bytes(image(number))
    for number in (3, 25):
        (source / f"{number:02}.png").write_bytes(b"junk")
    out = tmp_path / "out"
    with pytest.raises(DatasetError, match="stopped at failed image 2 of at most 1"):
        go(codec, [source], out, rows_per_shard=10, max_failures=1)
    assert len(contents(out)) == 2
    assert go(codec, [source], out, rows_per_shard=10, max_failures=2) == (40, 2)
    # A mended image of the same size and time: failed shards are done again, the others stand.
    for number in (3, 25):
        path = source / f"{number:02}.png"
        stamp = path.stat().st_mtime_ns
        path.unlink()
        path.symlink_to(tmp_path / f"mended{number}")
        (tmp_path / f"mended{number}").write_bytes(b"junk")
        os.utime(path, ns=(stamp, stamp))
    before = contents(out)
    assert go(codec, [source], out, rows_per_shard=10, retry_failed=True) == (40, 2)
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
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".lock"]
    run(*command[1:])
    assert len(rows(tmp_path / "out")) == 300


def test_an_output_that_vanishes_is_told(codec, many, tmp_path, monkeypatch):
    out, write_rows = tmp_path / "out", step.write_rows

    def write(path, *arguments):
        if path.name == "shard-00001.parquet":
            shutil.rmtree(out)
        write_rows(path, *arguments)

    monkeypatch.setattr(step, "write_rows", write)
    with pytest.raises(OutputError, match=r"shard-00000\.parquet: has vanished; the same command"):
        go(codec, [many], out, limit=30, rows_per_shard=10)
    monkeypatch.undo()
    assert go(codec, [many], out, limit=30, rows_per_shard=10) == (30, 0)


def test_memory_is_flat(tmp_path):
    cells = pa.array([{"bytes": image(0), "path": None}] * 10_000)
    pq.write_table(pa.table({"image": cells}), tmp_path / "in.parquet", row_group_size=500)
    options = ["--weights", TINY, "--rows-per-shard", "500"]
    program = f"""
import resource, sys
from tokcodec.cli import main
for limit in ("1000", "10000"):
    if main(["tokenize", "in.parquet", "-o", limit, "--limit", limit, *{options}]) == 0:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, cwd=tmp_path, check=True
    )
    peaks = [int(peak) / 1024 for peak in done.stdout.split()]
    for limit in (1_000, 10_000):
        assert len(open_dataset(tmp_path / str(limit))) == limit
    assert peaks[1] - peaks[0] < 50, peaks


# Back


@pytest.fixture(scope="module")
def dataset(codec, many, tmp_path_factory):
    """150 rows in 2 shards, three of them failed."""
    folder = tmp_path_factory.mktemp("dataset")
    for path in sorted(many.rglob("*.png"), key=lambda path: path.name)[:150]:
        copy = folder / "in" / path.relative_to(many)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    for number in (0, 2, 60):
        (folder / "in" / "cat" / f"{number:04}.png").write_bytes(b"junk")
    assert go(codec, [folder / "in"], folder / "out") == (150, 3)
    return folder / "out"


def test_images_come_back(run, dataset, codec, tmp_path):
    weights = ("--weights", TINY)
    run("decode", dataset, "-o", tmp_path / "all", *weights, status=3)
    names = {p.relative_to(tmp_path / "all").as_posix() for p in (tmp_path / "all").rglob("*.png")}
    kept = [row for row in rows(dataset) if row["status"] == "ok"]
    assert names == {row["key"] + ".png" for row in kept}
    token_file = codec.compress(io.BytesIO(image(4)))
    image_again = np.asarray(Image.open(tmp_path / "all" / "cat" / "0004.png.png"))
    assert np.array_equal(image_again, np.asarray(codec.decompress(token_file)))
    some = ("--select", "cat/0004.png", "--select", "5")
    run("decode", dataset, "-o", tmp_path / "some", *weights, *some)
    assert {p.name for p in (tmp_path / "some" / "cat").iterdir()} == {
        "0004.png.png",
        "0010.png.png",
    }
    said = run(
        "decode", dataset, "-o", "x", *weights, "--select", "nothing", status=1, cwd=tmp_path
    )
    assert b": no row nothing" in said.stderr


def test_keys_that_leave_the_folder(run, dataset, tmp_path):
    file = dataset / "shard-00001.parquet"
    table = pq.read_table(file)
    evil = ["../up.png", "/tmp/root.png", "a/../../b.png", "..", "good.png", "good.png"]
    keys = pa.array(evil + table.column("key").to_pylist()[len(evil) :])
    table = table.set_column(0, "key", keys).slice(0, len(evil))
    metadata = {**table.schema.metadata, b"tokcodec.shards": b"1"}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "evil.parquet")
    (tmp_path / "inner").mkdir()
    arguments = (tmp_path / "evil.parquet", "-o", "out", "--weights", TINY)
    said = run("decode", *arguments, cwd=tmp_path / "inner", status=3).stderr.decode()
    assert said.count("its key leaves the folder of the images; not written") == 4
    assert said.count("a second row of this key") == 1
    found = {p.name for p in tmp_path.rglob("*.png")}
    assert found == {"good.png.png"}


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
    assert index == [{k: row[k] for k in ("key", "label", "view")} for row in kept]
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").open()]
    assert [line["tokens"] for line in lines] == expected.tolist()
    assert [line["class_id"] for line in lines] == [
        {"cat": 0, "dog": 1}[row["label"]] for row in kept
    ]
    said = run("export", dataset, "-o", tmp_path / "t.npy", status=1).stderr
    assert b"is there already" in said
    with pytest.raises(DatasetError, match=r"name it \.npy"):
        export(open_dataset(dataset), tmp_path / "t.csv")


def test_token_dataset(dataset):
    import torch
    from torch.utils.data import DataLoader

    kept = [row for row in rows(dataset) if row["status"] == "ok"]
    found = TokenDataset(dataset)
    assert (len(found), found.classes) == (147, ["cat", "dog"])
    for index in (0, 1, 76, 146, -1):
        tokens, label = found[index]
        assert tokens.dtype == torch.int64
        assert tokens.tolist() == kept[index]["tokens"]
        assert found.classes[label] == kept[index]["label"]
    with pytest.raises(IndexError):
        found[147]
    torch.manual_seed(0)
    loader = DataLoader(found, batch_size=32, shuffle=True, num_workers=2)
    batches = [(tokens, labels) for tokens, labels in loader]
    together = sorted(tuple(row) for tokens, _ in batches for row in tokens.tolist())
    assert together == sorted(tuple(row["tokens"]) for row in kept)


def test_stats_and_inspect(run, dataset):
    facts = json.loads(run("inspect", dataset, "--json").stdout)
    assert (facts["kind"], facts["shards"], facts["rows"]) == ("token dataset", 2, 150)
    assert facts["failed"] == 3
    report = json.loads(run("stats", dataset, "--json", status=3).stdout)
    assert (report["images"], report["failed"]) == (147, 3)
    assert report["raw_bytes"] == 147 * 32 * 32 * 3
    assert report["payload_bits"] == 147 * 16 * 6
    assert report["file_bytes"] == sum(p.stat().st_size for p in dataset.glob("*.parquet"))


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
    run("encode", "a.png", "--weights", mine, "--entropy-coded", "-o", "c.tok", cwd=tmp_path)
    for reading, told, lack in (
        ("decode", "by mine\n", "its tokens are of model 75d6f250"),
        ("inspect --tokens", " mine\n", "entropy-coded with a prior of model 75d6f250"),
        ("stats", " 60 \n", "entropy-coded with a prior of model 75d6f250"),
    ):
        unknown = run(*reading.split(), "c.tok", status=1, cwd=tmp_path).stderr.decode()
        assert f"c.tok: {lack}, which is neither bundled nor cached; name" in unknown
        done = run(*reading.split(), "c.tok", "--weights", mine, cwd=tmp_path)
        assert told in (done.stdout + done.stderr).decode()
    assert Image.open(tmp_path / "c.png").size == (32, 32)

    again = run(*command, "-o", mine, status=1).stderr
    assert b"is there already; -f overwrites it" in again
    other = run("train-prior", dataset, "--weights", "tokcodec", "-o", "-", status=1).stderr
    assert b"its tokens are of model 75d6f250, tokcodec is " in other


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([60] + [1] * 15, "damaged: token 60 of a codebook of 60"),
        ([-1] + [1] * 15, "damaged: token -1 of a codebook of 60"),
        ([None] + [1] * 15, "damaged: a row that has not 16 tokens"),
        ([1] * 15, "damaged: a row that has not 16 tokens"),
    ],
)
def test_tokens_that_cannot_be_are_named(dataset, tmp_path, row, message):
    changed(dataset, tmp_path / "bad", pa.list_(pa.int32()), row)
    with pytest.raises(DatasetError, match=f"bad/shard-00001.parquet: {message}"):
        load_tokens(tmp_path / "bad")
    with pytest.raises(DatasetError, match=f"bad/shard-00001.parquet: {message}"):
        TokenDataset(tmp_path / "bad")[146]
    found = dict(token_files(open_dataset(tmp_path / "bad")))
    assert sum(isinstance(file, TokenFile) for file in found.values()) == 146
    assert sum(message in str(file) for file in found.values()) == 1


def test_commands_name_what_is_damaged(run, dataset, tmp_path):
    changed(dataset, tmp_path / "bad", pa.list_(pa.uint16()), [60] * 16)
    message = b"bad/shard-00001.parquet: damaged: token 60 of a codebook of 60"
    export_it = ("export", "bad", "-o", "t.npy")
    use_it = ("train-prior", "bad", "--weights", TINY, "-o", "p.safetensors")
    for command in (export_it, use_it, ("inspect", "bad")):
        assert message in run(*command, status=1, cwd=tmp_path).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]
    counted = run("stats", "bad", status=3, cwd=tmp_path).stderr
    assert b"bad: 3 of 150 rows failed when they were made" in counted
    assert message in counted
    # The other rows come back.
    done = run("decode", "bad", "-o", "out", "--weights", TINY, status=3, cwd=tmp_path)
    assert message in done.stderr
    assert len(list((tmp_path / "out").rglob("*.png"))) == 146
    changed(dataset, tmp_path / "words", pa.list_(pa.string()), ["a"] * 16)
    refused = run("stats", "words", status=1, cwd=tmp_path).stderr
    assert b"shard-00001.parquet: not a token dataset (its tokens are list<" in refused


def changed(dataset, folder, kind, row):
    """A copy of the dataset whose tokens are of this type, the last ones these."""
    shutil.copytree(dataset, folder)
    path = folder / "shard-00001.parquet"
    table = pq.read_table(path)
    tokens = table.column("tokens").to_pylist()
    tokens[-1] = row
    if pa.types.is_string(kind.value_type):
        tokens = [row] * len(tokens)
    index = table.column_names.index("tokens")
    pq.write_table(table.set_column(index, pa.field("tokens", kind), pa.array(tokens, kind)), path)


def damaged(dataset, path, change):
    """The second shard, its columns (a dict) and metadata changed."""
    table = pq.read_table(dataset / "shard-00001.parquet")
    columns, facts = {n: table.column(n) for n in table.column_names}, dict(table.schema.metadata)
    change(columns, facts)
    facts[b"tokcodec.shards"] = b"1"
    pq.write_table(pa.table(columns).replace_schema_metadata(facts), path)


RUN = {"fit": "stretch", "views": "one", "tokens": 16}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("run", "[]", "tokcodec.run is no JSON object"),
        ("run", "{}", "not a token dataset (no 'fit' in it)"),
        ("run", "[" * 100_000, "nested deeper than 32 levels"),
        ("run", json.dumps({**RUN, "fit": "zoom"}), "fit 'zoom', not one of stretch"),
        ("run", json.dumps({**RUN, "views": []}), "views [], not one of one"),
        ("run", json.dumps({**RUN, "tokens": None}), "tokens None of a stretch fit"),
        ("run", json.dumps({**RUN, "tokens": 17}), "tokens 17 of a stretch fit, 16 tokens"),
        ("model_id", "zz", "model_id is not 64 hex digits"),
        ("width", None, "column width is not there"),
        ("key", pa.int64(), "column key is int64; it should be string"),
    ],
)
def test_hostile_metadata_is_refused(dataset, tmp_path, name, value, message):
    def change(columns, facts):
        if isinstance(value, str):
            facts[f"tokcodec.{name}".encode()] = value.encode()
        elif column := value and pa.array(range(len(columns[name])), value):
            columns[name] = column
        else:
            del columns[name]

    damaged(dataset, tmp_path / "bad.parquet", change)
    with pytest.raises(DatasetError) as refused:
        open_dataset(tmp_path / "bad.parquet")
    assert str(refused.value).startswith(f"{tmp_path}/bad.parquet: ")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"), [("width", None), ("width", 70000), ("key", None), ("key", b"\xff")]
)
def test_a_damaged_row_is_that_rows_error(dataset, tmp_path, name, value):
    def change(columns, _):
        kind = columns[name].type
        values = [*columns[name].to_pylist()[:-1], value]
        storage = pa.binary() if isinstance(value, bytes) else kind
        (columns[name],) = pa.chunked_array([pa.array(values, storage).view(kind)]).chunks

    damaged(dataset, tmp_path / "bad.parquet", change)
    *others, (_, error) = token_files(open_dataset(tmp_path / "bad.parquet"))
    assert len(others) == 49
    assert all(isinstance(file, TokenFile) for _, file in others)
    assert isinstance(error, DatasetError)
    assert "bad.parquet: damaged: " in str(error)


def without_pages(path):
    """Leaves of a Parquet file its length and its footer."""
    data = path.read_bytes()
    end = data.rindex(b"PAR1") - 4
    start = end - int.from_bytes(data[end : end + 4], "little")
    path.write_bytes(b"PAR1" + bytes(start - 4) + data[start:])


def test_a_damaged_file_is_named_by_whatever_reads_it(codec, dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "bad")
    without_pages(tmp_path / "bad" / "shard-00001.parquet")
    for read in (TokenDataset, load_tokens, lambda bad: list(open_dataset(bad).failures())):
        with pytest.raises(DatasetError, match=r"bad/shard-00001\.parquet: damaged: .*again$"):
            read(tmp_path / "bad")
    sources = [dataset.parent / "in"]
    with pytest.raises(DatasetError, match=r"shard-00001\.parquet: damaged: .*; delete it, or beg"):
        go(codec, sources, tmp_path / "bad")
    assert go(codec, sources, tmp_path / "bad", force=True) == (150, 3)
    with (
        pytest.raises(OutputError, match=r"bad: it says no more; choose another -o"),
        locked(tmp_path / "bad", tmp_path / "bad", (0, 1)),
    ):
        raise OSError("it says no more")  # as pyarrow's, without a strerror


def test_half_a_dataset_is_no_dataset(dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "half")
    (tmp_path / "half" / "shard-00000.parquet").unlink()
    with pytest.raises(DatasetError, match=r"half: holds 1 of 2 shards; run its tokenize"):
        load_tokens(tmp_path / "half")
    with pytest.raises(DatasetError, match="no token dataset"):
        load_tokens(tmp_path / "nothing")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(DatasetError, match=r"other\.parquet: not a token dataset"):
        load_tokens(tmp_path / "other.parquet")
    share = tmp_path / "half" / "shard-00001.parquet"
    table = pq.read_table(share)
    facts = {**table.schema.metadata, b"tokcodec.config": b"{}"}
    pq.write_table(table.replace_schema_metadata(facts), share)
    with pytest.raises(DatasetError, match=r"shard-00001\.parquet: config\.encoder: missing"):
        load_tokens(share)


def test_verify(start, run, tmp_path):
    shutil.copytree(DATA, tmp_path / "photos")
    found = json.loads(start("verify", tmp_path / "photos", "--weights", TINY, "--json").stdout)
    assert [way["tokens"] for way in found] == [64] * len(found)
    assert {way["way"]["batch_size"] for way in found} == {1, 4, 16, 64}
    assert {way["way"]["dtype"] for way in found} == {"float32", "bfloat16"}
    assert found[0]["differing"] == 0
    for way in found:
        assert (way["largest_margin"] is None) == (way["differing"] == 0)
        if way["way"]["dtype"] == "float32" and way["differing"]:
            assert way["largest_margin"] < 1e-3
    text = run("verify", tmp_path / "photos", "--weights", TINY, "--limit", "2").stdout.decode()
    assert "2 images, patch; compared with cpu, float32, batch 16" in text


# Ray


@pytest.mark.ray
def test_ray_gives_the_same_with_a_worker_killed(codec, many, tmp_path):
    pytest.importorskip("ray")
    source = tmp_path / "in"
    shutil.copytree(many, source)
    (source / "cat" / "0002.png").write_bytes(b"junk")
    go(codec, [source], tmp_path / "local", rows_per_shard=40)
    options = ["--weights", TINY, "--rows-per-shard", "40", "--engine", "ray", "--actors", "2"]

    def run_and_kill(output):
        """Whether an actor could be killed before it was all over."""
        begun = subprocess.Popen(
            [COMMAND, "tokenize", str(source), "-o", str(output), *options],
            stderr=subprocess.PIPE,
            env={**os.environ, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
        )
        killed = False
        while begun.poll() is None:
            if not killed and len(list(output.glob("shard-*"))) >= 3:
                found = subprocess.run(
                    ["pgrep", "-f", "ray::MapWorker"], capture_output=True, check=False
                ).stdout.split()
                if found:
                    os.kill(int(found[0]), signal.SIGKILL)
                    killed = True
            time.sleep(0.01)
        assert begun.returncode == 3, begun.stderr.read().decode()
        assert contents(output) == contents(tmp_path / "local")
        assert {p.name for p in output.iterdir()} == {".lock", *contents(output)}
        return killed

    assert any(run_and_kill(tmp_path / f"ray{attempt}") for attempt in range(3))


@pytest.mark.ray
def test_actors_have_the_limit_of_the_command(codec, many, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    from tokcodec.tokenize.ray import on_ray

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # an image has 1,024
    plan = make_plan([str(many)], (), 3, 1, None, 3, tmp_path / "out")
    task = Task(codec.header, Settings("stretch", batch_size=codec.batch_size), plan)
    try:
        assert run(task, on_ray(task, None, 1, 1), tmp_path / "out") == (3, 3)
    finally:
        ray.shutdown()


@pytest.mark.ray
def test_what_no_machine_of_a_cluster_has_is_refused(start, many, tmp_path):
    pytest.importorskip("ray")
    options = ("--weights", TINY, "--engine", "ray", "--limit", "3", "--workers", "1000")
    said = start("tokenize", many, "-o", tmp_path / "out", *options, status=1).stderr.decode()
    assert "(CPU 1000, GPU 0)" in said


@pytest.mark.parametrize("there", [True, False])
def test_the_command_needs_no_gpu_where_actors_have_one(run, many, tmp_path, monkeypatch, there):
    handed = []

    def on_ray(task, *how):
        def engine(todo, _):
            handed.append((task.settings, how))
            for _, path in todo:
                path.touch()
            return ()

        return engine

    ray = types.SimpleNamespace(cluster_device=lambda _: "cuda" if there else "cpu", on_ray=on_ray)
    monkeypatch.setitem(sys.modules, "tokcodec.tokenize.ray", ray)

    def touched(*_):
        raise AssertionError("the command looked for a GPU")

    for name in ("is_available", "_lazy_init", "get_device_capability", "device_count"):
        monkeypatch.setattr(torch.cuda, name, touched)
    options = ("--weights", TINY, "--engine", "ray", "--limit", "3", "--shard", "0/2")
    for device, kind in (("auto", "cuda" if there else "cpu"), ("cuda", "cuda"), ("cpu", "cpu")):
        run("tokenize", many, "-o", tmp_path / device, *options, "--device", device)
        settings, how = handed.pop()
        assert (settings.device, settings.batch_size) == (kind, 64 if kind == "cuda" else 16)
        assert how == (None, 1, 1)


def test_an_output_that_cannot_be_written(codec, many):
    with pytest.raises(OutputError, match="/proc/nowhere/out: cannot write"):
        go(codec, [many], "/proc/nowhere/out", limit=3)
