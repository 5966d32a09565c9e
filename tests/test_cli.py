"""The command on real photos, as a user runs it."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import COMMAND, DATA, PHOTOS, TESTS
from PIL import Image

from tokcodec import TokenFile, checkpoint
from tokcodec.io.read import MAX_BYTES

# Of a model that is neither bundled nor cached.
UNKNOWN = TESTS / "fuzz" / "corpus" / "token_file" / "aspect.tok"


def lines(done):
    return done.stderr.decode().splitlines()


def json_lines(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def folder(tmp_path):
    """Three photos in a tree, and two files that only look like images."""
    source = tmp_path / "photos"
    (source / "animals").mkdir(parents=True)
    shutil.copy(PHOTOS[0], source / "astronaut.png")
    shutil.copy(PHOTOS[1], source / "animals" / "chelsea.png")
    shutil.copy(PHOTOS[2], source / "animals" / "Ünïtoken [x].PNG")
    (source / "animals" / "broken.jpg").write_bytes((DATA / "coffee.jpg").read_bytes()[:9000])
    (source / "empty.png").write_bytes(b"")
    (source / "notes.txt").write_text("no image")
    return source


def test_one_image_there_and_back(run, tmp_path):
    shutil.copy(PHOTOS[0], tmp_path / "a.jpg")  # Pillow goes by content
    (said,) = lines(run("encode", "a.jpg", cwd=tmp_path))
    size = (tmp_path / "a.jpg.tok").stat().st_size
    assert said == f"tokcodec: a.jpg -> a.jpg.tok: {size} bytes, 64 tokens of tokcodec"
    assert size <= 120
    run("decode", "a.jpg.tok", cwd=tmp_path)
    assert Image.open(tmp_path / "a.jpg.png").size == (512, 512)
    run("decode", "a.jpg.tok", "-o", "small.webp", "--size", "100", cwd=tmp_path)
    small = Image.open(tmp_path / "small.webp")
    assert (small.format, small.size) == ("WEBP", (100, 100))
    assert {path.name for path in tmp_path.iterdir()} == {
        "a.jpg",
        "a.jpg.tok",
        "a.jpg.png",
        "small.webp",
    }


def test_pipes_give_the_bytes_of_files(start, run, tmp_path):
    photo = PHOTOS[2].read_bytes()
    tokens = start("encode", "-", stdin=photo).stdout
    run("encode", PHOTOS[2], "-o", tmp_path / "a.tok")
    assert tokens == (tmp_path / "a.tok").read_bytes()
    image = start("decode", "-", stdin=tokens).stdout
    run("decode", tmp_path / "a.tok")
    assert image == (tmp_path / "a.png").read_bytes()
    assert run("decode", tmp_path / "a.tok", "-o", "-").stdout == image


@pytest.mark.parametrize("fit", ["aspect", "stretch", "crop", "pad", "tile", "native"])
def test_every_fit(run, tmp_path, fit):
    run("encode", PHOTOS[1], "-o", tmp_path / "c.tok", "--fit", fit)  # 451x300
    run("decode", tmp_path / "c.tok")
    size = Image.open(tmp_path / "c.png").size
    assert size == ((300, 300) if fit == "crop" else (451, 300))
    assert json.loads(run("inspect", tmp_path / "c.tok", "--json").stdout)["fit"] == fit
    run("decode", tmp_path / "c.tok", "-o", tmp_path / "d.png", "--size", "90")
    assert Image.open(tmp_path / "d.png").size == ((90, 90) if fit == "crop" else (90, 60))


def test_tokens_set_the_size_of_the_grid(run, tmp_path):
    grids = {}
    for tokens in (1, 16, 256):
        run("encode", PHOTOS[1], "-o", tmp_path / "c.tok", "--tokens", tokens, "-f")
        file = TokenFile.load(tmp_path / "c.tok")
        assert file.num_tokens <= tokens
        grids[tokens] = (file.rows, file.columns)
    assert grids[1] == (1, 1)
    assert grids[256][0] < grids[256][1]  # as the image is wider than high


def test_a_folder_with_bad_images(run, folder, tmp_path):
    out = tmp_path / "tokens"
    done = run("encode", folder, "-o", out, status=3)
    for name in ("animals/broken.jpg", "empty.png"):
        assert sum(f"photos/{name}: " in line for line in lines(done)) == 1
    assert re.fullmatch(
        r"tokcodec: 3 encoded \([\d,]{9} bytes to \d+\) in [\d.]+ s, [\d.,]+ images/s, 2 failed",
        lines(done)[-1],
    )
    written = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert written == {
        "astronaut.png.tok",
        "animals/chelsea.png.tok",
        "animals/Ünïtoken [x].PNG.tok",
    }
    # Alone or in a folder, the same bytes.
    run("encode", folder / "astronaut.png", "-o", tmp_path / "alone.tok")
    assert (tmp_path / "alone.tok").read_bytes() == (out / "astronaut.png.tok").read_bytes()

    done = run("decode", out, "-o", tmp_path / "back")
    assert lines(done)[-1].startswith("tokcodec: 3 decoded (")
    assert Image.open(tmp_path / "back" / "animals" / "Ünïtoken [x].PNG.png").size == (600, 400)
    # Decoded images are skipped, those of another size or older than their tokens not replaced.
    before = (tmp_path / "back" / "astronaut.png.png").stat().st_mtime_ns
    (tmp_path / "back" / "animals" / "chelsea.png.png").unlink()
    done = run("decode", out, "-o", tmp_path / "back")
    assert "1 decoded" in lines(done)[-1]
    assert "2 skipped" in lines(done)[-1]
    done = run("decode", out, "-o", tmp_path / "back", "--size", "99", status=3)
    assert lines(done)[-1] == "tokcodec: 0 decoded, 3 failed"
    (out / "astronaut.png.tok").touch()
    done = json_lines(run("decode", out, "-o", tmp_path / "back", "--json", status=3))
    assert [line["status"] for line in done if line["state"] == "stale"] == ["failed"]
    assert (tmp_path / "back" / "astronaut.png.png").stat().st_mtime_ns == before
    run("decode", out, "-o", tmp_path / "back", "-f")
    assert (tmp_path / "back" / "astronaut.png.png").stat().st_mtime_ns > before


def test_formats_of_decoded_images(run, tmp_path):
    run("encode", PHOTOS[1], "-o", tmp_path / "tokens" / "c.tok")
    run("decode", tmp_path / "tokens", "-o", tmp_path)
    run("decode", tmp_path / "tokens", "-o", tmp_path, "--format", "webp")
    run("decode", tmp_path / "tokens", "-o", tmp_path / "small", "--png-level", "9")
    assert Image.open(tmp_path / "c.webp").format == "WEBP"
    fast, small = tmp_path / "c.png", tmp_path / "small" / "c.png"
    assert small.stat().st_size < fast.stat().st_size
    assert np.array_equal(np.asarray(Image.open(small)), np.asarray(Image.open(fast)))
    piped = run("decode", tmp_path / "tokens" / "c.tok", "-o", "-", "--format", "jpg").stdout
    assert Image.open(io.BytesIO(piped)).format == "JPEG"


def test_running_again_does_what_is_left(run, folder, tmp_path, tiny):
    out = tmp_path / "tokens"
    run("encode", folder, "-o", out, status=3)
    ages = {path: path.stat().st_mtime_ns for path in out.rglob("*.tok")}
    done = run("encode", folder, "-o", out, "--json", status=3)
    found = {
        line["source"].split("/")[-1]: (line["state"], line["status"]) for line in json_lines(done)
    }
    assert found == {
        "astronaut.png": ("current", "skipped"),
        "chelsea.png": ("current", "skipped"),
        "Ünïtoken [x].PNG": ("current", "skipped"),
        "broken.jpg": ("new", "failed"),
        "empty.png": ("new", "failed"),
    }
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.tok")} == ages

    # What is not what this run would write is neither skipped nor overwritten.
    token_file = out / "astronaut.png.tok"
    whole = token_file.read_bytes()
    command = ("encode", folder / "astronaut.png", "-o", token_file)
    for data, options, state in [
        (whole[:-1], [], "foreign"),
        (b"my diary", [], "foreign"),
        (whole, ["--weights", tiny], "stale"),
        (whole, ["--fit", "pad"], "stale"),
        (whole, ["--tokens", "20"], "stale"),
    ]:
        token_file.write_bytes(data)
        for dry in (["--dry-run"], []):
            done = run(*command, *options, "--json", *dry, status=0 if dry else 1)
            assert [line["state"] for line in json_lines(done)] == [state]
        assert "overwrite it with -f" in lines(run(*command, *options, status=1))[0]
        assert token_file.read_bytes() == data
    token_file.write_bytes(whole)
    os.utime(token_file, ns=(1, 1))
    (line,) = json_lines(run(*command, "--json", status=1))
    assert line["state"] == "stale"
    run(*command, "-f")
    assert token_file.read_bytes() == whole
    assert token_file.stat().st_mtime_ns > 1


def test_a_killed_encode_loses_nothing(run, tmp_path, tiny):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    photo = Image.open(PHOTOS[0]).convert("RGB")
    for number in range(400):
        photo.crop((number, 0, number + 100, 80)).save(source / f"{number:03}.png")
    kills = 0
    while kills < 3:
        process = subprocess.Popen(
            [COMMAND, "encode", source, "-o", out, "--weights", tiny], stderr=subprocess.DEVNULL
        )
        goal = len(list(out.glob("*.tok"))) + 64
        while len(list(out.glob("*.tok"))) < min(goal, 400) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        if len(list(out.glob("*.tok"))) == 400:
            break
    assert kills >= 1
    for path in out.glob("*.tok"):
        TokenFile.load(path)
    done = run("encode", source, "-o", out, "--weights", tiny)
    assert "skipped" in lines(done)[-1]
    run("encode", source, "-o", tmp_path / "unbroken", "--weights", tiny)
    expected = {path.name: path.read_bytes() for path in (tmp_path / "unbroken").iterdir()}
    assert len(expected) == 400
    assert {path.name: path.read_bytes() for path in out.glob("*.tok")} == expected


def test_interrupting_says_130(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for number in range(300):
        shutil.copy(PHOTOS[1], source / f"{number}.png")
    process = subprocess.Popen(
        [COMMAND, "encode", source, "-o", tmp_path / "out"], stderr=subprocess.PIPE
    )
    while not list(tmp_path.glob("out/*.tok")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert b"Traceback" not in process.communicate()[1]
    assert process.returncode == 130


def test_inspect(start, run, tmp_path):
    run("encode", PHOTOS[1], "-o", tmp_path / "c.tok")
    facts = json.loads(start("inspect", tmp_path / "c.tok", "--json", "--tokens").stdout)
    file = TokenFile.load(tmp_path / "c.tok")
    assert (facts["width"], facts["height"], facts["num_tokens"]) == (451, 300, file.num_tokens)
    assert (facts["file_bytes"], facts["model"]) == (file.file_bytes, "tokcodec")
    assert np.ravel(facts["tokens"]).tolist() == file.tokens.tolist()
    text = run("encode", PHOTOS[1], "--text", "-o", "-").stdout
    assert json.loads(run("inspect", "-", "--json", "--tokens", stdin=text).stdout) == facts
    # Without its checkpoint all but the tokens is told.
    facts = json.loads(run("inspect", UNKNOWN, "--json").stdout)
    assert facts["model"] is None
    assert facts["file_bytes"] == UNKNOWN.stat().st_size
    header = checkpoint.find("tokcodec")
    facts = json.loads(run("inspect", header.path, "--json").stdout)
    assert (facts["model_id"], facts["checkpoint_id"]) == (header.model_id, header.checkpoint_id)


def test_stats(start, run, tmp_path):
    shutil.copytree(DATA, tmp_path / "photos", ignore=shutil.ignore_patterns("*.jpg", "*.md"))
    run("encode", tmp_path / "photos")
    report = json.loads(start("stats", tmp_path / "photos", "--json").stdout)
    sizes = [path.stat().st_size for path in (tmp_path / "photos").glob("*.tok")]
    assert (report["images"], report["failed"], report["file_bytes"]) == (3, 0, sum(sizes))
    assert report["source_bytes"] == sum(path.stat().st_size for path in PHOTOS)
    # Without an image, next to a damaged file and one of an unknown model.
    (tmp_path / "photos" / "coffee.png").unlink()
    (tmp_path / "photos" / "damaged.tok").write_bytes(b"TK\x10")
    shutil.copy(UNKNOWN, tmp_path / "photos")
    done = run("stats", tmp_path / "photos", "--json", status=3)
    report = json.loads(done.stdout)
    assert (report["images"], report["failed"]) == (4, 1)
    assert report["source_bytes"] is report["codebook_size"] is None
    assert "damaged.tok: " in lines(done)[0]


def test_packed_files(run, tmp_path):
    """Entropy-coded or packed, the tokens and images are the same; the other form is stale."""
    shutil.copytree(DATA, tmp_path / "photos", ignore=shutil.ignore_patterns("*.jpg", "*.md"))
    commands = {
        "packed": ("encode", tmp_path / "photos", "--packed", "-o"),
        "coded": ("encode", tmp_path / "photos", "-o"),
    }
    files = {}
    for form, command in commands.items():
        run(*command, tmp_path / form)
        files[form] = [TokenFile.load(path) for path in sorted((tmp_path / form).glob("*.tok"))]
        run("decode", tmp_path / form, "-o", tmp_path / f"{form}-images")
    for packed, coded in zip(files["packed"], files["coded"], strict=True):
        assert packed.tokens.tolist() == coded.tokens.tolist()
        assert not packed.entropy_coded
        assert coded.file_bytes <= packed.file_bytes
    for photo in PHOTOS:
        images = [tmp_path / f"{form}-images" / f"{photo.name}.png" for form in commands]
        assert images[0].read_bytes() == images[1].read_bytes()
    has_prior = checkpoint.find("tokcodec").prior_id is not None
    for form, other in (("packed", "coded"), ("coded", "packed")):
        again = json_lines(run(*commands[form], tmp_path / form, "--json"))
        assert [line["state"] for line in again] == ["current"] * 3
        status = 3 if has_prior else 0
        again = json_lines(run(*commands[form], tmp_path / other, "--json", status=status))
        assert [line["state"] for line in again] == ["stale" if has_prior else "current"] * 3


def test_models(start, run):
    (listed,) = json.loads(start("models", "--json").stdout)
    assert listed["name"] == "tokcodec"
    assert listed["model_id"][:6] in run("models").stdout.decode()


def test_other_weights(run, tmp_path, tiny):
    shutil.copy(PHOTOS[0], tmp_path / "a.png")
    (tmp_path / "weights").mkdir()
    shutil.copy(tiny, tmp_path / "weights" / "mine.safetensors")
    run("encode", "a.png", "--weights", "weights", cwd=tmp_path)
    (said,) = lines(run("decode", "a.png.tok", status=1, cwd=tmp_path))
    assert "--weights" in said
    (said,) = lines(run("decode", "a.png.tok", "--weights", "tokcodec", status=1, cwd=tmp_path))
    assert said.startswith("tokcodec: a.png.tok: ")
    run("decode", "a.png.tok", "--weights", "weights/mine.safetensors", cwd=tmp_path)
    assert Image.open(tmp_path / "a.png.png").size == (512, 512)
    (said,) = lines(run("encode", "a.png", "--weights", tmp_path, status=1))
    assert said.startswith(f"tokcodec: {tmp_path}: ")


def test_transparency_and_background(run, tmp_path):
    Image.new("RGBA", (300, 300), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    for name, options in {"white": [], "red": ["--background", "#f00"]}.items():
        Image.new("RGB", (300, 300), name).save(tmp_path / f"{name}.png")
        run("encode", tmp_path / f"{name}.png")
        run("encode", tmp_path / "clear.png", "-o", tmp_path / "clear.tok", "-f", *options)
        expected = (tmp_path / f"{name}.png.tok").read_bytes()
        assert (tmp_path / "clear.tok").read_bytes() == expected


def test_bombs(run, tmp_path):
    Image.new("1", (20_000, 10_000)).save(tmp_path / "bomb.png")
    (said,) = lines(run("encode", tmp_path / "bomb.png", status=1))
    assert "--allow-large" in said
    run("encode", tmp_path / "bomb.png", "--allow-large")
    (said,) = lines(run("decode", tmp_path / "bomb.png.tok", "--size", "original", status=1))
    assert "--size" in said
    (said,) = lines(run("decode", tmp_path / "bomb.png.tok"))
    assert "--size original: 20,000x10,000" in said
    run("decode", tmp_path / "bomb.png.tok", "--size", "64", "-f")
    assert Image.open(tmp_path / "bomb.png.png").size == (64, 32)


@pytest.mark.parametrize(
    ("arguments", "status", "names"),
    [
        ([], 2, "Usage: tokcodec"),
        (["encode"], 2, ""),
        (["encode", "a.png", "--fit", "squash"], 2, "squash"),
        (["encode", "a.png", "--background", "colourless"], 2, "--background"),
        (["encode", "a.png", "b.png", "-o", "-"], 2, ""),
        (["encode", "-", "a.png"], 2, ""),
        (["encode", "-", "--json"], 2, ""),
        (["encode", "empty"], 1, "empty"),
        (["encode", "file:///photo.jpg"], 1, "no images in file:///photo.jpg"),
        (["decode", "a.tok", "--size", "0x4"], 2, "--size"),
        (["encode", "nothere.png"], 1, "nothere.png: "),
        (["encode", "-"], 1, "standard input: "),
        (["decode", "nothere.tok"], 1, "nothere.tok: "),
        (["decode", "-"], 1, "standard input: "),
        (["decode", "good.tok", "-o", "a.xyz"], 1, "a.xyz: "),
        (["decode", "good.tok", "-o", "good.tok/a.png"], 1, "good.tok/a.png: "),
        (["encode", "a.png", "--weights", "x"], 1, "x: "),
        (["encode", "a.png", "--model", "tokcodec"], 2, "--weights"),
        (["encode", "a.png", "--weights", "titok-s128"], 1, "yucornetto/tokenizer_titok_s128"),
        (["encode", "a.png", "--weights", "a.png"], 1, "a.png: not a checkpoint"),
        (["encode", "a.png", "--text", "--max-bytes", "5"], 1, "smallest message has"),
        (["encode", "one", "--text", "-o", "all.txt"], 2, "all.txt is named like a file"),
        (["evaluate", "a.png", "-o", "report.json"], 2, "report.json is named like a file"),
        (["page", "a.png", "-o", "page.html"], 2, "page.html is named like a file"),
        (["web", "-o", "page.html"], 2, "page.html is named like a file"),
        (["train", "one", "-o", "a.safetensors"], 2, "a.safetensors is named like a file"),
        (["convert", "list.txt"], 1, "list.txt: not a checkpoint"),
        (["convert", "titok-s128"], 1, "yucornetto/tokenizer_titok_s128"),
        (["tokenize", "empty", "-o", "x"], 1, "empty: there are no images in this folder"),
        (["tokenize", "a.png", "-o", "x", "--batch-size", "0"], 2, "--batch-size"),
        (["tokenize", "a.png", "-o", "x", "--batch-size", "1" * 30], 2, "--batch-size"),
        (["encode", "a.png", "--batch-size", "1" * 30], 2, "--batch-size"),
        (["tokenize", "--from-file", "a.png", "-o", "x"], 1, "a.png: cannot read as text"),
        (["tokenize", "--from-file", "huge", "-o", "x"], 1, "huge: cannot read as text: more than"),
        (["train", "one", "-o", "run", "--held-out", "a.png"], 1, "a.png: cannot read it as text"),
        (["inspect", "huge"], 1, "huge: cannot read: more than"),
        (["stats", "huge"], 1, "huge: cannot read: more than"),
        (["inspect", "-"], 1, "standard input: "),
        (["inspect", "nothere"], 1, "nothere: "),
        (["inspect", "one/x.png"], 1, "one/x.png: "),
        (["stats", "empty"], 1, "empty"),
        (["stats", "one/x.png"], 1, "one/x.png: "),
        (["train", "one", "-o", "run", "--model", "one/x.png"], 1, "one/x.png: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_and_errors(run, tmp_path, arguments, status, names):
    for name in ("empty", "one", "two"):
        (tmp_path / name).mkdir()
    for name in ("one/x.png", "two/x.png", "a.png"):
        shutil.copy(PHOTOS[1], tmp_path / name)
    (tmp_path / "list.txt").write_text("one/x.png\n")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    run("encode", "a.png", "-o", "good.tok", cwd=tmp_path)
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    done = run(*arguments, status=status, cwd=tmp_path)
    assert names in (done.stderr + done.stdout).decode()
    if status == 1:
        assert len(lines(done)) == 1
        assert done.stdout == b""
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["encode", "--help"], 0),
        (["inspect", "good.tok", "--json"], 0),
        (["inspect", "damaged.tok"], 1),
        (["encode", "good.tok", "damaged.tok", "-o", "-"], 2),
        (["stats", "."], 3),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else str(value),
)
def test_the_installed_command_is_what_the_other_tests_call(
    start, run, tmp_path, arguments, status
):
    shutil.copy(UNKNOWN, tmp_path / "good.tok")
    (tmp_path / "damaged.tok").write_bytes(b"TK")
    done = [way(*arguments, status=status, cwd=tmp_path) for way in (start, run)]
    assert done[0].stdout == done[1].stdout
    assert done[0].stderr == done[1].stderr
    assert done[0].stdout + done[0].stderr


def test_debug_shows_where(tmp_path):
    done = subprocess.run(
        [COMMAND, "inspect", tmp_path / "nothere", "--debug"], capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"Traceback" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_folder_shows_one_bar_on_a_terminal(folder, tmp_path):
    import pty

    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, "encode", folder, "-o", tmp_path / "out"],
        stderr=follower,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            shown += os.read(leader, 65536)
        except OSError:
            break
    os.close(leader)
    assert process.wait() == 3
    assert b"5 of 5 images" in shown
    assert re.search(rb"3 encoded \([\d,]+ bytes to \d+\) .* images/s, 2 failed\r\n$", shown)


def test_help_shows_no_types_of_python(run):
    for arguments in ([], ["encode"], ["tokenize"], ["export"]):
        text = run(*arguments, "--help").stdout.decode()
        assert not re.search(r"<(bool|str|list|int)", text)
