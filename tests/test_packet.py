"""An image in one packet: the best in N bytes, and as text."""

import json
import shutil

import numpy as np
import pytest
from conftest import DATA, PHOTOS
from hypothesis import given
from hypothesis import strategies as st
from test_tokenfile import token_files

from tokcodec import TokenFile
from tokcodec.errors import TokenFileError


def lines(done):
    return [json.loads(line) for line in done.stdout.decode().splitlines()]


@pytest.mark.parametrize("limit", [40, 120, 300])
def test_files_have_at_most_max_bytes(run, tmp_path, limit):
    told = lines(run("encode", DATA, "-o", tmp_path, "--max-bytes", limit, "--json"))
    assert len(told) == 4
    for line in told:
        file = TokenFile.load(line["output"])
        assert file.file_bytes == line["file_bytes"] <= limit
        assert (file.num_tokens, file.entropy_coded) == (line["num_tokens"], line["entropy_coded"])
        # More tokens than this take more bytes.
        assert file.num_tokens > 4 * (limit - 20) / 13


def test_what_does_not_fit_fails(run, tmp_path):
    target = tmp_path / "a.tok"
    said = run("encode", PHOTOS[0], "-o", target, "--max-bytes", 5, status=1).stderr.decode()
    assert said.startswith(f"tokcodec: {PHOTOS[0]}: ")
    assert not target.exists()
    done = run("encode", "-", "--max-bytes", 90, stdin=PHOTOS[0].read_bytes())
    assert 60 < len(done.stdout) <= 90


@given(token_files())
def test_text_is_the_file(token_file):
    text = token_file.to_text()
    assert text.startswith("tok:")
    assert set(text[4:]) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    broken = "\n ".join(text[start : start + 40] for start in range(0, len(text), 40))
    for some in (text, f"\n {text}\r\n\n", broken, text + "=" * (-len(text) % 4)):
        assert TokenFile.from_bytes(some.encode()) == token_file


# Around messages, and in what mail and chat programs put into them. No word begins a message.
WORDS = st.text(st.sampled_from("toky \n>\"'*.,;-_=é\u00a0"), max_size=12)


@given(
    st.lists(st.tuples(WORDS, token_files(), st.integers(1, 200)), min_size=1, max_size=4), WORDS
)
def test_messages_are_found_in_any_text(messages, last):
    text = ""
    for words, token_file, width in messages:
        message = token_file.to_text()
        lines = [message[start : start + width] for start in range(4, len(message), width)]
        text += f"{words} {message[:4]}" + "\r\n> ".join(lines) + " "
    text = (text + last).replace("tok:", "Tok:", 1).encode()
    assert list(TokenFile.find(text)) == [token_file for _, token_file, _ in messages]


def test_a_damaged_message_is_an_error_among_others():
    one = TokenFile.packed(np.arange(24).reshape(1, 4, 6), 13, b"ab", 40, 30, "aspect")
    good, bad = one.to_text(), one.to_text().replace("A", "B", 1)
    first, second, third = TokenFile.find(f"{bad} and {good}, {good[:30]}".encode())
    assert second == one
    assert isinstance(first, TokenFileError)
    assert isinstance(third, TokenFileError)
    for text in (f"{good} {good}", bad, "no message", ""):
        with pytest.raises(TokenFileError):
            TokenFile.from_bytes(text.encode())


def test_text_at_the_command_line(run, tmp_path):
    text = run("encode", PHOTOS[2], "--text", "-o", "-", "--max-bytes", 160).stdout
    assert text.endswith(b"\n")
    assert len(text) - 1 <= 160
    run("encode", PHOTOS[2], "-o", tmp_path / "a.tok", "--max-bytes", 117)
    assert TokenFile.from_bytes(text) == TokenFile.load(tmp_path / "a.tok")
    (tmp_path / "b.tok").write_bytes(b" \n" + text)
    run("decode", tmp_path / "a.tok", tmp_path / "b.tok", "-o", tmp_path / "images")
    from_pipe = run("decode", "-", "-o", "-", stdin=text).stdout
    for name in ("a.png", "b.png"):
        assert (tmp_path / "images" / name).read_bytes() == from_pipe
    facts = [json.loads(run("inspect", tmp_path / n, "--json").stdout) for n in ("a.tok", "b.tok")]
    assert facts[0] == facts[1]
    # The same tokens as bytes are not what this run would write.
    command = ("encode", PHOTOS[2], "-o", tmp_path / "c.tok")
    run(*command)
    (line,) = lines(run(*command, "--text", "--json", status=1))
    assert (line["state"], line["status"]) == ("stale", "failed")
    run(*command, "--text", "-f")
    (line,) = lines(run(*command, "--text", "--json"))
    assert (line["state"], line["status"]) == ("current", "skipped")
    damaged = text[:60] + (b"A" if text[60:61] != b"A" else b"B") + text[61:]
    with pytest.raises(TokenFileError):
        TokenFile.from_bytes(damaged)


def test_within_a_limit_it_continues(run, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(DATA, photos, ignore=shutil.ignore_patterns("*.md"))
    command = ("encode", photos, "-o", tmp_path / "out", "--json", "--max-bytes")
    for text in ([], ["--text"]):
        run(*command, 130, *text, "-f")
        (tmp_path / "out" / "coffee.png.tok").unlink()
        before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        states = [line["state"] for line in lines(run(*command, 130, *text))]
        assert sorted(states) == ["current"] * 3 + ["new"]
        after = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        assert before.items() <= after.items()
    # More, or fewer, bytes ask for another file.
    run(*command, 130, "-f")
    for limit in (434, 50):
        states = [line["state"] for line in lines(run(*command, limit, status=3))]
        assert states == ["stale"] * 4
