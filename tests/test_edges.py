"""What is written is never an input or a device, what is read is what was meant, and a mistake in a
command is told with its remedy."""

import io
import json
import os
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from conftest import COMMAND, DATA, GOLDEN, TERMINAL
from PIL import Image

WEIGHTS = ("--weights", str(GOLDEN / "patch.safetensors"))
PHOTO = DATA / "coffee.jpg"


@pytest.fixture
def here(tmp_path, run):
    """Two folders with an image of the same name each, and a token file."""
    for name in ("a.jpg", "one/x.jpg", "two/x.jpg", "two/deep/y.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PHOTO, tmp_path / name)
    run("encode", "a.jpg", "-o", "t.tok", *WEIGHTS, cwd=tmp_path)
    return tmp_path


@pytest.fixture
def tokcodec(run, here):
    """Runs the command there; gives what it says on standard error."""

    def tokcodec(*arguments, status=0):
        return run(*arguments, status=status, cwd=here).stderr.decode()

    return tokcodec


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# What is written


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_an_output_that_is_the_input_is_refused(tokcodec, here, link):
    pytest.importorskip("pyarrow")
    link(here / "a.jpg", here / "a.jpg.tok")
    link(here / "t.tok", here / "t.png")
    link(here / "a.jpg", here / "rows.parquet")
    before = contents(here)
    for command in (
        ("encode", "a.jpg", *WEIGHTS),
        ("encode", "a.jpg", "-o", "a.jpg.tok", *WEIGHTS),
        ("decode", "t.tok", *WEIGHTS),
        ("decode", "t.tok", "-o", "t.png", *WEIGHTS),
    ):
        tokcodec(*command, "-f", status=2)
    for source, output in (("a.jpg", "rows.parquet"), ("one", "one")):
        command = ("tokenize", source, "-o", output, *WEIGHTS, "-f")
        assert "is the input itself" in tokcodec(*command, status=1)
    assert contents(here) == before


def test_export_does_not_write_over_its_dataset(tokcodec, here):
    pytest.importorskip("pyarrow")
    tokcodec("tokenize", "one", "-o", "d.parquet", *WEIGHTS)
    os.link(here / "d.parquet", here / "d.npy")
    assert "is the input itself" in tokcodec("export", "d.parquet", "-o", "d.npy", "-f", status=1)


def test_an_output_in_a_source_leaves_out_no_image(tokcodec, here):
    pytest.importorskip("pyarrow")
    assert "x.jpg" in tokcodec("tokenize", ".", "-o", "one", *WEIGHTS, status=1)
    assert not list(here.glob("one/*.parquet"))
    for _ in range(2):  # its own shards are no inputs
        tokcodec("tokenize", "two", "-o", "two/dataset", *WEIGHTS)


def test_rows_are_not_decoded_into_their_dataset(tokcodec, here):
    pytest.importorskip("pyarrow")
    tokcodec("tokenize", "one", "-o", "dataset", *WEIGHTS)
    before = contents(here)
    for output in ("dataset", "a.jpg.folder/../dataset", "t.tok"):
        (here / "a.jpg.folder").mkdir(exist_ok=True)
        assert tokcodec("decode", "dataset", "-o", output, *WEIGHTS, status=1).count("\n") == 1
    assert contents(here) == before


def test_a_run_of_another_fit_is_named_by_its_fit(tokcodec):
    pytest.importorskip("pyarrow")
    tokcodec("tokenize", "one", "-o", "dataset", *WEIGHTS, "--fit", "aspect", "--batch-size", "1")
    said = tokcodec("tokenize", "one", "-o", "dataset", *WEIGHTS, "--fit", "crop", status=1)
    assert "fit aspect, not crop" in said


def test_tokens_do_not_take_the_name_of_a_image(tokcodec, here):
    assert "x.png" in tokcodec("encode", "a.jpg", "-o", "x.png", *WEIGHTS, status=2)
    (here / "x.png").mkdir()  # a folder may be called as one likes
    tokcodec("encode", "a.jpg", "-o", "x.png", *WEIGHTS)
    assert (here / "x.png" / "a.jpg.tok").exists()


def test_devices_and_pipes_are_written_to(tokcodec, here):
    def shell(command):
        done = subprocess.run(
            ["bash", "-c", command, COMMAND],
            cwd=here,
            env={**os.environ, **TERMINAL},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    weights = " ".join(WEIGHTS)
    expected = (here / "t.tok").read_bytes()
    assert shell(f"$0 encode a.jpg -o /dev/stdout {weights} | cat") == expected
    # Also where that is a file, of which nothing is lost.
    shell(f"echo first > out; $0 encode a.jpg -o /dev/stdout {weights} >> out")
    assert (here / "out").read_bytes() == b"first\n" + expected
    image = shell(f"$0 decode t.tok -o /dev/stdout --format jpg {weights} | cat")
    assert Image.open(io.BytesIO(image)).format == "JPEG"

    os.mkfifo(here / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((here / "pipe").read_bytes()))
    reader.start()
    tokcodec("encode", "a.jpg", "-o", "pipe", *WEIGHTS)
    reader.join()
    assert read == [expected]
    assert (here / "pipe").is_fifo()
    tokcodec("encode", "a.jpg", "-o", "/dev/null", *WEIGHTS)
    assert Path("/dev/null").is_char_device()
    tokcodec("encode", "one", "two", "-o", "/dev/null", *WEIGHTS, status=2)


@pytest.mark.parametrize("status", [0, 3])
def test_a_dry_run_says_what_a_run_does(run, here, status):
    """Its lines are those of the run after it."""
    if status:
        (here / "two" / "deep" / "y.jpg").write_bytes(b"no image")  # which is not looked at

    def lines(*options):
        done = run(*command, "--json", *options, cwd=here, status=0 if options else status)
        return [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()

    command = ("encode", "one", "two", "-o", "out", *WEIGHTS)
    before = contents(here)
    found, _ = lines("--dry-run")
    assert contents(here) == before
    assert not (here / "out").exists()
    assert {line["state"] for line in found} == {"new"}
    done, _ = lines()
    for name in ("source", "output", "state"):
        assert [line[name] for line in found] == [line[name] for line in done]
    found, _ = lines("--dry-run")
    assert [line["state"] for line in found].count("current") == 3 - bool(status)


def test_dry_runs_of_decode_and_tokenize(run, tokcodec, here):
    pytest.importorskip("pyarrow")
    before = contents(here)
    done = run("decode", "t.tok", "-o", "new/", "--dry-run", *WEIGHTS, cwd=here)
    assert done.stdout == b"t.tok -> new/t.png: new\n"
    options = ("tokenize", "one", "two", "-o", "d", "--rows-per-shard", "1", *WEIGHTS)
    tokcodec(*options, "--dry-run")
    assert contents(here) == before
    assert not (here / "new").exists()
    assert not (here / "d").exists()
    tokcodec(*options)
    (here / "d" / "shard-00001.parquet").unlink()

    def states(*more):
        done = run(*options, "--dry-run", "--json", *more, cwd=here)
        assert f"3 images, {3 * PHOTO.stat().st_size:,} bytes, 3 shards: " in done.stderr.decode()
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert [line["source"] for line in lines] == ["one/x.jpg", "two/x.jpg", "two/deep/y.jpg"]
        return [line["state"] for line in lines]

    assert states() == ["current", "new", "current"]
    assert states("--fit", "crop") == ["foreign", "new", "foreign"]
    os.utime(here / "one" / "x.jpg", (2**31, 2**31))
    assert states() == ["stale", "new", "stale"]
    tokcodec(*options, "-f")
    tokcodec(*options)
    before = contents(here)
    tokcodec("decode", "d", "-o", "back", "--dry-run", *WEIGHTS)
    assert contents(here) == before


# What is read


def test_what_lies_in_folders_besides(tokcodec, here):
    one = here / "one"
    for name in (".hidden.jpg", ".folder/z.jpg", "notes.txt", "more.TXT", "README", "x.jpg.tok"):
        (one / name).parent.mkdir(exist_ok=True)
        shutil.copy(PHOTO, one / name)
    os.mkfifo(one / "pipe.jpg")  # opened, it would wait for ever
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(one / "socket.jpg"))
    (one / "linked").symlink_to(here / "two", target_is_directory=True)
    (one / "loop").symlink_to(one, target_is_directory=True)
    (one / "link.jpg").symlink_to(here / "a.jpg")
    said = tokcodec("encode", "one", "-o", "out", *WEIGHTS)
    skipped, encoded = said.splitlines()
    assert skipped == (
        "tokcodec: skipped in folders: links to folders (2), .txt (2), no extension (1), "
        "pipes (1), sockets (1)"
    )
    assert encoded.startswith("tokcodec: 2 encoded (")
    assert set(contents(here / "out")) == {"x.jpg.tok", "link.jpg.tok"}
    tokcodec("encode", "one", "-o", "out", "--follow", *WEIGHTS)
    assert set(contents(here / "out")) == {
        "x.jpg.tok",
        "link.jpg.tok",
        "linked/x.jpg.tok",
        "linked/deep/y.jpg.tok",
    }
    # What is hidden is taken where it is named.
    tokcodec("encode", "one/.hidden.jpg", "one/.folder", "-o", "named", *WEIGHTS)
    assert set(contents(here / "named")) == {".hidden.jpg.tok", "z.jpg.tok"}


def test_include_and_exclude(tokcodec, here):
    pq = pytest.importorskip("pyarrow.parquet")
    shutil.copy(PHOTO, here / "two" / "z.png")
    chosen = ("--include", "*.jpg", "--include", "*.png", "--exclude", "deep/*")
    tokcodec("encode", "two", "-o", "out", *chosen, *WEIGHTS)
    assert set(contents(here / "out")) == {"x.jpg.tok", "z.png.tok"}
    tokcodec("decode", "out", "-o", "back", "--exclude", "z*", *WEIGHTS)
    assert set(contents(here / "back")) == {"x.jpg.png"}
    tokcodec("tokenize", "two", "-o", "d.parquet", "--include", "deep/*", *WEIGHTS)
    assert pq.read_table(here / "d.parquet")["key"].to_pylist() == ["deep/y.jpg"]


def test_folders_keep_their_names_where_two_would_meet(tokcodec, here):
    tokcodec("encode", "one", "two", "-o", "out", *WEIGHTS)
    names = ["one/x.jpg.tok", "two/deep/y.jpg.tok", "two/x.jpg.tok"]
    assert sorted(contents(here / "out")) == names
    # However they are named; the way to them is kept as far as it differs.
    (here / "two" / "x.jpg").rename(here / "two" / "deep" / "x.jpg")
    tokcodec("encode", here / "one", "./two/deep/", "-o", "deeper", *WEIGHTS)
    names = ["one/x.jpg.tok", "two/deep/x.jpg.tok", "two/deep/y.jpg.tok"]
    assert sorted(contents(here / "deeper")) == names
    tokcodec("encode", "one", "two/deep/y.jpg", "-o", "apart", *WEIGHTS)
    assert sorted(contents(here / "apart")) == ["x.jpg.tok", "y.jpg.tok"]


def test_decoded_images_are_not_encoded_again(tokcodec, here):
    tokcodec("encode", "two", *WEIGHTS)
    tokcodec("decode", "two", *WEIGHTS)
    tokcodec("decode", "two", "--format", "webp", *WEIGHTS)
    before = set(contents(here / "two"))
    assert {"x.jpg.png", "deep/y.jpg.webp"} <= before
    for sources in (["two"], ["two/**"]):
        said = tokcodec("encode", *sources, *WEIGHTS)
        assert "decoded images next to their token files (4)" in said
    assert set(contents(here / "two")) == before
    # A photo beside tokens of its own is none of them.
    tokcodec("encode", "two/x.jpg", "-o", "one/x.tok", *WEIGHTS)
    tokcodec("encode", "one", *WEIGHTS)
    assert (here / "one" / "x.jpg.tok").exists()


# What is said


@pytest.mark.parametrize(
    "command",
    [
        "encode a.jpg out.tok",
        "decode t.tok out.png",
        "encode t.tok",
        "verify t.tok",
        "tokenize t.tok -o d",
        "decode a.jpg",
        "decode t.tok --size 100000x100000",
        "decode t.tok --size 70000",
        "decode t.tok --size " + "9" * 5000,
        "decode t.tok -o y.png --format jpg",
        "encode a.jpg --fit crop --fit pad",
        "tokenize one -o d --output e",
        "tokenize one -o d2.csv",
    ],
)
def test_mistakes(tokcodec, here, command):
    before = contents(here)
    said = tokcodec(*command.split(), status=2)
    assert said.count("\n") <= 4  # usage, where help is, and the line
    assert contents(here) == before


def test_a_url_needs_a_folder_and_works_with_one(tokcodec, here):
    url = f"file://{here}/a.jpg"
    assert url in tokcodec("encode", url, *WEIGHTS, status=2)
    tokcodec("encode", url, "-o", "out", *WEIGHTS)
    assert set(contents(here / "out")) == {"a.jpg.tok"}


def test_token_files_among_images_fail_alone(tokcodec):
    """As with a shell's ``*`` on the second day."""
    assert "tokcodec: 1 encoded" in tokcodec("encode", "a.jpg", "t.tok", *WEIGHTS, status=3)


def test_formats_that_agree_are_taken(tokcodec, here):
    tokcodec("decode", "t.tok", "-o", "y.jpeg", "--format", "jpg", *WEIGHTS)
    tokcodec("decode", "t.tok", "-o", "y.webp", *WEIGHTS)
    tokcodec("decode", "t.tok", "-o", "folder/", "--format", "webp", *WEIGHTS)
    for name, kind in (("y.jpeg", "JPEG"), ("y.webp", "WEBP"), ("folder/t.webp", "WEBP")):
        assert Image.open(here / name).format == kind


def test_a_folder_may_be_called_as_a_file_is(tokcodec, here):
    pytest.importorskip("pyarrow")
    for name in ("d.csv/", "d.csv", "photos.v2"):
        tokcodec("tokenize", "one", "-o", name, *WEIGHTS)
        assert (here / name / "shard-00000.parquet").exists()


@pytest.mark.parametrize(
    "command",
    [
        "encode @",
        "encode a.jpg @",
        "encode a.jpg -o @",
        "decode @",
        "decode t.tok --output=",
        "stats @",
        "inspect @",
        "tokenize @ -o d",
        "tokenize one -o @",
        "tokenize -o d --from-file @",
        "export @ -o a.npy",
        "export one -o @",
        "verify @",
        "convert @",
        "convert one -o @",
        "evaluate @",
        "evaluate one -o @",
        "train @ -o run",
        "train one -o @",
        "train-prior @ --weights tokcodec -o p",
    ],
)
def test_an_empty_path_is_none(tokcodec, here, command):
    before = contents(here)
    said = tokcodec(*(word.replace("@", "") for word in command.split()), status=2)
    assert "the value is empty" in said
    assert contents(here) == before


def test_options_that_may_be_repeated_are(tokcodec, here):
    tokcodec("encode", "one", "-f", "-f", "--include", "*", "--include", "x*", *WEIGHTS)
    assert (here / "one" / "x.jpg.tok").exists()


def test_what_is_no_url_is_told(tokcodec):
    for command in ("stats", "inspect"):
        assert tokcodec(command, "http://[/x", status=1).startswith("tokcodec: http://[/x: ")


def test_another_image_is_not_taken_for_done(tokcodec, here):
    tokcodec("encode", "a.jpg", "-o", "x.tok", *WEIGHTS)
    Image.new("RGB", (70, 50)).save(here / "other.png")
    os.utime(here / "other.png", (0, 0))
    assert "x.tok: " in tokcodec("encode", "other.png", "-o", "x.tok", *WEIGHTS, status=1)


def test_outputs_that_are_urls_or_named_like_files(tokcodec, here):
    for command in (
        ["encode", "a.jpg", "-o", "s3://bucket/x"],
        ["page", "one", "-o", "s3://bucket/page"],
        ["evaluate", "one", "-o", "s3://bucket/report"],
    ):
        assert "is a URL" in tokcodec(*command, status=2)
    assert "both.tok" in tokcodec("encode", "one", "two", "-o", "both.tok", *WEIGHTS, status=2)
    assert not any(path.name.startswith(("s3", "both")) for path in here.iterdir())


def test_reports_and_pages_keep_what_is_not_theirs(tokcodec, here):
    for name, command in (
        ("images/2019-trip.webp", "page"),
        ("sheet-music.jpg", "evaluate"),
        ("plot.svg", "evaluate"),
    ):
        path = here / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
        said = tokcodec(command, "one", "--against", "", "-o", "site", status=1)
        assert path.name in said
        assert path.read_bytes() == b"mine"
        path.unlink()
    # What a killed run has left is no reason to refuse.
    (here / "site" / ".unfinished").touch()
    (here / "site" / "sheet-x.jpg").touch()
    weights = ("--weights", "tokcodec", "--against", "")
    tokcodec("evaluate", "one", "-o", "site", "--bytes", "60", *weights)
    assert not (here / "site" / ".unfinished").exists()
