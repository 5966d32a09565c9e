"""Folders of files through a codec, from Python."""

import os
import shutil
from pathlib import Path

import pytest
from conftest import DATA, GOLDEN
from PIL import Image

from tokcodec import RunOptions, TokenFile, decode_files, encode_files
from tokcodec.batch.plan import escapes_folder
from tokcodec.errors import (
    ArgumentError,
    DatasetError,
    Hint,
    ImageError,
    OutputError,
    TokenFileError,
)

TINY = str(GOLDEN / "patch.safetensors")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with two images and a file that is none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    shutil.copy(DATA / "coffee.jpg", "in/a.jpg")
    Image.open(DATA / "coffee.jpg").resize((90, 60)).save("in/deep/b.png")
    (tmp_path / "in" / "c.png").write_bytes(b"no image")
    return tmp_path


def encode(*arguments, **options):
    return list(encode_files(*arguments, weights=TINY, **options))


def states(outcomes):
    return {outcome.job.name: (outcome.job.state, outcome.status) for outcome in outcomes}


def test_there_and_back(here):
    outcomes = encode_files("in", "out", weights=TINY)
    assert outcomes.count == 3
    found = {outcome.job.name: outcome for outcome in outcomes}
    bad = found.pop("in/c.png")
    assert (bad.status, type(bad.error), bad.error.name) == ("failed", ImageError, "in/c.png")
    for name, outcome in found.items():
        assert (outcome.status, outcome.job.state, outcome.error) == ("ok", "new", None)
        assert outcome.source_bytes == (here / name).stat().st_size
        assert outcome.file_bytes == outcome.job.target.stat().st_size
        assert TokenFile.load(outcome.job.target) == outcome.token_file
    back = list(decode_files("out", "back", weights=TINY))
    assert {outcome.status for outcome in back} == {"ok"}
    assert {outcome.image_size for outcome in back} == {(600, 400), (90, 60)}
    assert Image.open("back/deep/b.png.png").size == (90, 60)


def test_states(here):
    encode("in", "out")
    done = ("current", "skipped")
    bad = {"in/c.png": ("new", "failed")}
    assert states(encode("in", "out")) == {"in/a.jpg": done, "in/deep/b.png": done} | bad
    os.utime("in/a.jpg")  # newer than its token file
    (here / "out" / "deep" / "b.png.tok").write_bytes(b"something else")
    for options in (RunOptions(dry_run=True), RunOptions()):
        found = encode("in", "out", options=options)
        assert {name: state for name, (state, _) in states(found).items()} == {
            "in/a.jpg": "stale",
            "in/c.png": "new",
            "in/deep/b.png": "foreign",
        }
    for outcome in found:
        if outcome.job.state == "new":
            continue
        assert isinstance(outcome.error, OutputError)
        assert outcome.error.hint is Hint.OVERWRITE
        assert outcome.error.name == str(outcome.job.target)
    assert (here / "out" / "deep" / "b.png.tok").read_bytes() == b"something else"
    again = encode("in", "out", options=RunOptions(overwrite=True))
    assert sorted(outcome.status for outcome in again) == ["failed", "ok", "ok"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"background": (0, 0, 0)}),
        ({"background": (0, 0, 0)}, {}),
        ({"max_bytes": 24}, {"max_bytes": 30}),
        ({"max_bytes": 24}, {"max_bytes": 30, "text": True}),
        ({}, {"text": True}),
        ({}, {"fit": "pad"}),
        ({}, {"tokens": 9}),
        ({}, {"max_bytes": 20}),
    ],
    ids=str,
)
@pytest.mark.usefixtures("here")
def test_a_file_of_other_options_is_stale(first, second):
    """Also where the file does not record them."""
    image = Image.new("RGBA", (90, 60))
    image.paste((200, 30, 60, 255), (0, 0, 40, 60))
    if "background" not in {*first, *second}:
        image = image.convert("RGB")
    image.save("a.png")
    encode("a.png", **first)
    (outcome,) = encode("a.png", **first)
    assert (outcome.job.state, outcome.status) == ("current", "skipped")
    before = Path("a.png.tok").read_bytes()
    (outcome,) = encode("a.png", **second)
    assert (outcome.job.state, outcome.status) == ("stale", "failed")
    assert outcome.error.hint is Hint.OVERWRITE
    assert Path("a.png.tok").read_bytes() == before


@pytest.mark.usefixtures("here")
def test_a_token_file_of_another_image_is_foreign():
    encode("in/a.jpg", "x.tok")
    (outcome,) = encode("in/deep/b.png", "x.tok")
    assert outcome.job.state == "foreign"


def test_states_of_decoded_images(here):
    encode("in/a.jpg", "a.tok")
    (first,) = decode_files("a.tok", weights=TINY)
    assert first.job.state == "new"
    for options, expected in (({}, "current"), ({"size": 50}, "stale")):
        (outcome,) = decode_files("a.tok", weights=TINY, **options)
        assert outcome.job.state == expected
    (here / "a.png").write_bytes(b"my diary")
    (outcome,) = decode_files("a.tok", weights=TINY)
    assert (outcome.job.state, outcome.status) == ("foreign", "failed")
    assert (here / "a.png").read_bytes() == b"my diary"


def test_errors_have_fields(here):
    (here / "x.tok").write_bytes(b"no token file")
    (outcome,) = decode_files("x.tok", weights=TINY)
    assert isinstance(outcome.error, TokenFileError)
    assert outcome.error.name == "x.tok"
    assert str(outcome.error) == f"x.tok: {outcome.error.reason}"
    with pytest.raises(ArgumentError):
        encode_files(["in/a.jpg", "in/deep/b.png"], "-", weights=TINY)
    with pytest.raises(DatasetError):
        encode_files("nowhere/*.jpg", weights=TINY)
    with pytest.raises(ArgumentError):
        decode_files("in/a.jpg", weights=TINY)


@pytest.mark.parametrize(
    ("name", "escapes"),
    [
        ("a.jpg", False),
        ("deep/a..b.jpg", False),
        ("../a.jpg", True),
        ("deep/../../a.jpg", True),
        ("/etc/a.jpg", True),
        ("a\0.jpg", True),
        ("", True),
    ],
)
def test_names_that_escape_a_folder(name, escapes):
    assert escapes_folder(name) == escapes


def test_keys_that_escape_are_not_written(here):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    from tokcodec.cli import main

    assert (
        main(["tokenize", "in/a.jpg", "in/deep/b.png", "-o", "d.parquet", "--weights", TINY]) == 0
    )
    table = pq.read_table("d.parquet")
    keys = pa.array(["../../evil", "good"], table.schema.field("key").type)
    table = table.set_column(table.schema.get_field_index("key"), table.schema.field("key"), keys)
    pq.write_table(table, "d.parquet")
    bad, _ = decode_files("d.parquet", "images", weights=TINY)
    assert (bad.status, bad.job.state, bad.job.target) == ("failed", "foreign", None)
    assert not list(here.parent.glob("evil*"))
