"""An image in one packet: the best in so many bytes, and as text."""

import json
import shutil

import pytest
from conftest import DATA, PHOTOS
from hypothesis import given
from test_tokenfile import token_files

from tokcodec import TokenFile, checkpoint
from tokcodec.errors import TokenFileError


def lines(done):
    return [json.loads(line) for line in done.stdout.decode().splitlines()]


@pytest.mark.parametrize("limit", [43, 120, 232, 300, 433, 434])
def test_the_best_that_fits(run, tmp_path, limit):
    """It is the file of the checkpoint of most tokens that fits; packed, if that does."""
    told = lines(run("encode", DATA, "-o", tmp_path, "--max-bytes", limit, "--json"))
    assert len(told) == 4
    for line in told:
        file = TokenFile.load(line["output"])
        size = (tmp_path / line["output"]).stat().st_size
        assert size == file.file_bytes == line["file_bytes"] <= limit
        assert line["entropy_coded"] == file.entropy_coded
        better = []
        for header in checkpoint.bundled():
            alone = tmp_path / f"{header.name}.tok"
            run(
                "encode",
                line["source"],
                "--weights",
                header.name,
                "--entropy-coded",
                "-o",
                alone,
                "-f",
            )
            entropy_coded = TokenFile.load(alone)
            if header.name == line["checkpoint"]:
                assert file in (entropy_coded, entropy_coded.as_packed())
                assert file.entropy_coded == (entropy_coded.as_packed().file_bytes > limit)
            elif header.config.num_tokens > file.num_tokens:
                better.append(entropy_coded.file_bytes)
        assert all(size > limit for size in better)


def test_what_does_not_fit_is_refused(run, tmp_path):
    said = run("encode", PHOTOS[0], "-o", tmp_path / "a.tok", "--max-bytes", 20, status=1).stderr
    least = said.decode().partition(" takes ")[2].split()[0]
    assert f"takes {least} bytes at least, with tokcodec; that is more than".encode() in said
    assert not (tmp_path / "a.tok").exists()
    run("encode", PHOTOS[0], "-o", tmp_path / "a.tok", "--max-bytes", least)
    run("encode", PHOTOS[0], "-o", tmp_path / "a.tok", "--max-bytes", int(least) - 1, status=1)
    # Of a checkpoint that is named, and from a pipe that is read once.
    said = run("encode", "-", "--max-bytes", 90, "--weights", "tokcodec", "-o", "-",
               stdin=PHOTOS[0].read_bytes(), status=1).stderr  # fmt: skip
    assert b"standard input: takes " in said
    assert b"with tokcodec" in said
    done = run("encode", "-", "--max-bytes", 90, stdin=PHOTOS[0].read_bytes())
    assert TokenFile.from_bytes(done.stdout).num_tokens == 16


@given(token_files())
def test_text_is_the_file(token_file):
    text = token_file.to_text()
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    broken = "\n ".join(text[start : start + 40] for start in range(0, len(text), 40))
    for some in (text, f"\n {text}\r\n\n", broken, text + "=" * (-len(text) % 4)):
        assert TokenFile.from_bytes(some.encode()) == token_file


def test_text_at_the_command_line(run, tmp_path):
    text = run("encode", PHOTOS[2], "--text", "-o", "-", "--max-bytes", 232).stdout
    assert text.endswith(b"\n")
    assert len(text) - 1 <= 232
    run("encode", PHOTOS[2], "-o", tmp_path / "a.tok")
    assert TokenFile.from_bytes(text) == TokenFile.load(tmp_path / "a.tok")
    (tmp_path / "b.tok").write_bytes(b" \n" + text)
    run("decode", tmp_path / "a.tok", tmp_path / "b.tok", "-o", tmp_path / "images")
    from_pipe = run("decode", "-", "-o", "-", stdin=text).stdout
    for name in ("a.png", "b.png"):
        assert (tmp_path / "images" / name).read_bytes() == from_pipe
    facts = [json.loads(run("inspect", tmp_path / n, "--json").stdout) for n in ("a.tok", "b.tok")]
    assert facts[0] == facts[1]
    # What is there as the other is no file that this run would write.
    said = run("encode", PHOTOS[2], "-o", tmp_path / "a.tok", "--text", status=1).stderr
    assert b"a.tok: is there, not as text; -f overwrites it" in said
    run("encode", PHOTOS[2], "-o", tmp_path / "a.tok", "--text", "-f")
    assert b"skipped" in run("encode", PHOTOS[2], "-o", tmp_path / "a.tok", "--text").stderr
    damaged = text[:60] + (b"A" if text[60:61] != b"A" else b"B") + text[61:]
    with pytest.raises(TokenFileError, match="checksum"):
        TokenFile.from_bytes(damaged)


def test_within_a_limit_it_goes_on(run, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(DATA, photos, ignore=shutil.ignore_patterns("*.md"))
    command = ("encode", photos, "-o", tmp_path / "out", "--max-bytes", "130")
    for text in ([], ["--text"]):
        run(*command, *text, "-f")
        (tmp_path / "out" / "coffee.png.tok").unlink()
        before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        said = run(*command, *text).stderr.decode()
        assert "1 encoded" in said
        assert "3 skipped as done" in said
        assert (
            before.items()
            <= {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}.items()
        )
    # More, or fewer, bytes ask for another file.
    run(*command, "-f")
    for limit in ("434", "50"):
        said = run(*command[:-1], limit, status=3).stderr.decode()
        assert said.count("is there, of another model; -f overwrites it") == 4
