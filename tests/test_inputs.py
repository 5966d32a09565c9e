"""Every command takes every kind of source, and nothing in one of them harms the others."""

import csv
import io
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import typer
from conftest import GOLDEN, PHOTOS
from PIL import Image

import tokcodec
from tokcodec import Codec, TokenFile
from tokcodec.batch.jobs import images
from tokcodec.cli.decode import decode
from tokcodec.cli.encode import encode
from tokcodec.config import PreprocessingConfig
from tokcodec.errors import ArgumentError, DatasetError
from tokcodec.inputs.listing import count, list_inputs
from tokcodec.io.find import expand_braces
from tokcodec.train.data import load_images

TINY = str(GOLDEN / "patch.safetensors")
NAMES = ("dir/1.png", "dir/2.PNG", "dir/deep/3.png")
KINDS = ("folder", "glob", "tar", "parquet", "url", "url of a tar")


def pack(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def photos():
    """The bytes of three small images, by name."""
    found = {}
    for name, path in zip(NAMES, PHOTOS, strict=True):
        buffer = io.BytesIO()
        Image.open(path).convert("RGB").resize((60, 40)).save(buffer, "PNG")
        found[name] = buffer.getvalue()
    return found


@pytest.fixture
def make(photos, tmp_path):
    """Makes a source of a kind; gives it, the file that holds its images, and their names."""

    def make(kind):
        for name, data in photos.items():
            path = tmp_path / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        if kind.startswith("url"):
            pytest.importorskip("fsspec")
        if kind == "parquet":
            pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            image = pa.array([{"bytes": data, "path": name} for name, data in photos.items()])
            rows = tmp_path / "some.parquet"
            pq.write_table(pa.table({"image": image}), rows)
            return str(rows), rows, [f"some.parquet/{row}" for row in range(3)]
        if "tar" in kind:
            tar = pack(tmp_path / "some.tar", photos.items())
            source = f"file://{tar}" if kind.startswith("url") else str(tar)
            return source, tar, [f"some.tar/{name}" for name in NAMES]
        first = tmp_path / "in" / NAMES[0]
        source = str(tmp_path / "in") + ("/**/*.[pP]*" if kind == "glob" else "")
        return f"file://{source}" if kind == "url" else source, first, list(NAMES)

    return make


def end(command, *arguments, **options):
    """The exit status of a command in this process."""
    try:
        command(*arguments, weights=TINY, workers=2, **options)
    except typer.Exit as error:
        return error.exit_code
    return 0


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def last(capsys):
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_encode_takes_it_and_goes_on(make, photos, tmp_path, capsys, kind):
    source, held, names = make(kind)
    out = tmp_path / "out"
    assert end(encode, [source], str(out)) == 0
    assert files(out) == sorted(f"{name}.tok" for name in names)
    codec = Codec.load(TINY, "cpu")
    for name, data in zip(names, photos.values(), strict=True):
        expected = codec.compress(io.BytesIO(data))
        assert TokenFile.load(out / f"{name}.tok").to_bytes() == expected.to_bytes()
    assert last(capsys).startswith("tokcodec: 3 encoded (")

    # Again: what is there is skipped, what is not is done, what is older is named.
    assert end(encode, [source], str(out)) == 0
    assert last(capsys).startswith("tokcodec: 0 encoded, 3 skipped")
    (out / f"{names[0]}.tok").unlink()
    assert end(encode, [source], str(out)) == 0
    assert ", 2 skipped" in last(capsys)
    if not kind.startswith("url"):
        os.utime(held, (2**32, 2**32))
        older = 1 if held.suffix == ".png" else 3
        assert end(encode, [source], str(out)) == 3
        assert capsys.readouterr().err.count("exists, and is older than the image") == older


@pytest.mark.parametrize("kind", KINDS)
def test_results_stand_beside_local_files_alone(make, tmp_path, kind):
    source, _, names = make(kind)
    before = files(tmp_path)
    if kind in ("folder", "glob"):
        assert end(encode, [source]) == 0
        assert set(files(tmp_path)) - set(before) == {f"in/{name}.tok" for name in names}
        return
    for options in ({}, {"output": "-"}):
        with pytest.raises(ArgumentError):
            encode([source], weights=TINY, **options)
    assert files(tmp_path) == before


@pytest.mark.parametrize("kind", KINDS)
def test_train_takes_it(make, tmp_path, kind):
    source, _, names = make(kind)
    config = PreprocessingConfig(image_size=32)

    def load(source, name, held_out):
        arguments = (config, tmp_path / name, 2, lambda _: None)
        return load_images([source], frozenset(held_out), *arguments)

    found = load(source, "run", names[1:2])
    expected = load(str(tmp_path / "in"), "expected", NAMES[1:2])
    assert np.array_equal(found.train, expected.train)
    assert np.array_equal(found.held_out, expected.held_out)
    assert (len(found.train), len(found.held_out)) == (2, 1)
    # The fingerprint is over names and bytes.
    assert (found.fingerprint == expected.fingerprint) == (names == list(NAMES))


def test_names_and_numbers(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make("folder")
    make("tar")
    number, records = images(["./in/", "some.tar", "in/dir/1.png"])
    assert number is None
    found = [(record.name, record.below) for record in records]
    assert found == [
        *((f"in/{name}", name) for name in NAMES),  # each file once
        *((f"some.tar/{name}", f"some.tar/{name}") for name in NAMES),
    ]
    assert count(list_inputs(["in"])) == 3
    with pytest.raises(DatasetError, match="nowhere: no such file or folder"):
        images(["in", "nowhere"])
    with pytest.raises(DatasetError, match=r"n\*\.png: no file matches"):
        images(["n*.png"])


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("shard-{008..010}.tar", "shard-008.tar shard-009.tar shard-010.tar"),
        ("s3://b/{train,val}/{0..1}.tar", "s3://b/train/0.tar s3://b/train/1.tar "
         "s3://b/val/0.tar s3://b/val/1.tar"),
        ("{9..010}", "009 010"),
        ("{3..-1..2}", "3 1 -1"),
        ("{-01..1}", "-01 000 001"),
        ("{a..e..2}", "a c e"),
        ("{a,b{1,2},{c}}", "a b1 b2 {c}"),
        ("{a{1,2}}", "{a1} {a2}"),
        ("{a,b", "{a,b"),
        ("a}{b}{1..x}", "a}{b}{1..x}"),
        ("{a,{b..c}}}", "a} b} c}"),
        ("x{,.gz}", "x x.gz"),
    ],
)  # fmt: skip
def test_braces_are_those_of_bash(source, names):
    assert " ".join(expand_braces(source)) == names


def test_braces_name_sources(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = photos[NAMES[0]]
    for number in range(3):
        pack(tmp_path / f"s-{number:02}.tar", [("a.png", data)])
    (tmp_path / "{a,b}.png").write_bytes(data)
    assert [batch.name for batch in list_inputs(["s-{00..02}.tar"])] == [
        f"s-{number:02}.tar" for number in range(3)
    ]
    assert count(list_inputs(["{a,b}.png"])) == 1  # a file of that very name
    assert end(encode, ["s-{00..01}.tar"], "out") == 0
    assert files(tmp_path / "out") == ["s-00.tar/a.png.tok", "s-01.tar/a.png.tok"]
    with pytest.raises(DatasetError, match=r"s-03\.tar: no such file"):
        list_inputs(["s-{00..03}.tar"])
    for source in ("{0..9999999}", "{a,b}" * 60):
        with pytest.raises(DatasetError, match="name more than 1,000,000 files"):
            list_inputs([source])


def test_token_files_come_out_of_tars(make, photos, tmp_path, capsys):
    source, _, names = make("folder")
    end(encode, [source], str(tmp_path / "tokens"))
    whole = [(f"{n}.tok", (tmp_path / "tokens" / f"{n}.tok").read_bytes()) for n in names]
    members = [*whole, ("other.png", photos[NAMES[0]]), ("../up.tok", whole[0][1])]
    tokens = pack(tmp_path / "tokens.tar", members)
    assert end(decode, [str(tokens)], str(tmp_path / "back")) == 3
    assert files(tmp_path / "back") == sorted(f"tokens.tar/{name}.png" for name in names)
    said = capsys.readouterr().err
    assert f"{tokens}/../up.tok: its name leaves the folder {tmp_path}/back" in said
    assert said.splitlines()[-1].startswith("tokcodec: 3 decoded (")
    assert end(decode, [str(tmp_path / "tokens" / "**" / "*.tok")]) == 0
    assert set(files(tmp_path / "back" / "tokens.tar")) <= set(files(tmp_path / "tokens"))
    with pytest.raises(ArgumentError, match=r"tokens\.tar"):
        decode([str(tokens)])


def test_names_that_leave_the_folder(photos, tmp_path, capsys):
    data = photos[NAMES[0]]
    evil = ["../up.png", "/tmp/tokcodec-root.png", "a/../../b.png", "good.png", "./dir/./good.png"]
    long = "x" * 300 + ".png"
    tar = pack(tmp_path / "evil.tar", [(n, data) for n in (*evil, long, "good.png")])
    inner = tmp_path / "inner"
    assert end(encode, [str(tar)], str(inner / "out"), as_json=True) == 3
    said = capsys.readouterr().err
    assert said.count(f"its name leaves the folder {inner}/out") == 3
    assert said.count("good.png: not written: ") == 1
    assert said.count(".png.tok: cannot write: File name too long") == 1
    assert said.splitlines()[-1].endswith(" 5 failed")
    assert files(tmp_path) == [
        "evil.tar",
        *(f"inner/out/evil.tar/{name}.tok" for name in ("dir/good.png", "good.png")),
    ]
    assert not Path("/tmp/tokcodec-root.png.tok").exists()


@pytest.mark.parametrize("damage", ["cut", "junk", "absent"])
def test_what_cannot_be_read_is_told(photos, tmp_path, capsys, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    tar = pack(tmp_path / "a.tar", photos.items())
    if damage == "absent":
        tar.unlink()
    else:
        start = tar.read_bytes().index(photos[NAMES[1]])
        tar.write_bytes(b"no tar" * 1000 if damage == "junk" else tar.read_bytes()[: start + 100])
    pack(tmp_path / "b.tar", photos.items())
    assert end(encode, ["a.tar", "b.tar"], "out") == 3
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("tokcodec: a.tar: cannot read the image: the rest of the tar: ")
    assert said[-1].startswith(f"tokcodec: {3 + (damage == 'cut')} encoded (")
    assert said[-1].endswith(", 1 failed")
    # Training goes on with what is left of it.
    arguments = (frozenset({"b.tar/dir/1.png"}), PreprocessingConfig(image_size=32))
    arguments = (["b.tar", "a.tar"], *arguments, tmp_path / "run", 1, lambda _: None)
    if damage == "absent":
        with pytest.raises(DatasetError, match=r"^a\.tar: no such"):
            load_images(*arguments)
        return
    found = load_images(*arguments)
    assert (len(found.train), len(found.held_out)) == (2 + (damage == "cut"), 1)
    (skipped,) = found.skipped
    assert skipped.startswith("a.tar: the rest of the tar: ")


def test_parquet_needs_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"a\.parquet: Parquet needs pyarrow: pip install "):
        encode([str(tmp_path / "a.parquet")], str(tmp_path / "out"), weights=TINY)


@pytest.mark.metrics
def test_evaluate_takes_them(tmp_path, monkeypatch):
    pytest.importorskip("torchmetrics")
    buffer = io.BytesIO()
    Image.new("RGB", (200, 180), (90, 120, 150)).save(buffer, "PNG")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.png").write_bytes(buffer.getvalue())
    pack(tmp_path / "some.tar", [(NAMES[1], buffer.getvalue()), ("bad.png", b"no image")])
    report = tokcodec.evaluate(
        ["*.png", "some.tar"], tmp_path / "report", weights=[TINY], baselines=(), bytes=(60,)
    )
    assert (report.images, report.failed) == (2, 1)
    with (tmp_path / "report" / "images.csv").open() as file:
        found = {line["image"] for line in csv.DictReader(file)}
    assert found == {"one.png", f"some.tar/{NAMES[1]}"}
