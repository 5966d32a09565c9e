"""An image in one packet: the best in N bytes, and as text."""

import binascii
import contextlib
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA, PHOTOS
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from test_tokenfile import token_files

from tokcodec import Codec, TokenFile
from tokcodec.errors import ImageError, TokenFileError
from tokcodec.evaluate.metrics import psnr
from tokcodec.packets import fill_missing


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


@given(token_files(), st.integers(0, 3))
def test_marks_around_a_message_are_not_part_of_it(token_file, number):
    marks = "_" * number
    text = f"{marks}{token_file.to_text()}{marks} -- and more"
    assert list(TokenFile.find(text.encode())) == [token_file]


@pytest.mark.parametrize(
    "text", [b"tok:t" * 100_000, b"tok:t" + b"a " * 500_000, b"tok: tok:" * 100_000], ids=len
)
def test_long_texts_take_no_time(text):
    before = time.process_time()
    with contextlib.suppress(TokenFileError):
        assert all(isinstance(own, TokenFileError) for own in TokenFile.find(text))
    assert time.process_time() - before < 10


@st.composite
def images(draw):
    """A file without tiles, and the number of packets that it is to be split into."""
    rows, columns, bits = (draw(st.integers(1, most)) for most in (12, 12, 32))
    tokens = draw(arrays(np.int64, (1, rows, columns), elements=st.integers(0, 2**bits - 1)))
    return TokenFile.packed(tokens, bits, b"ab", 40, 30, "aspect"), draw(st.integers(1, 15))


@given(images(), st.booleans(), st.data())
def test_packets_in_any_order_and_number(image, parity, data):
    file, count = image
    split = file.split(count, parity=parity)
    parts = split.parts()
    there = data.draw(st.lists(st.sampled_from(parts), min_size=1, max_size=len(parts)))
    (joined,) = TokenFile.find("\n".join(part.to_text() for part in there).encode())
    tokens = joined.tokens_with(None, incomplete=True)
    known = tokens >= 0
    assert tokens[known].tolist() == file.tokens[known].tolist()
    arrived = {part.to_bytes() for part in there}
    if len(arrived) >= split.packets.count:  # all, or all but the one that parity restores
        assert known.all()
        assert joined.tokens.tolist() == file.tokens.tolist()
    else:
        with pytest.raises(TokenFileError):
            joined.tokens  # noqa: B018


def test_packets_at_the_command_line(run, tmp_path):
    photo, folder = PHOTOS[0], tmp_path / "sent"
    how = ("--packets", 3, "--packet-bytes", 150, "--parity")
    said = run("encode", photo, "-o", f"{folder}/", *how).stderr
    assert said.rstrip().endswith(b", 4 packets")
    sent = sorted(folder.iterdir())
    assert [path.name for path in sent] == [f"{photo.name}.{n}.tok" for n in (1, 2, 3, 4)]
    assert all(path.stat().st_size <= 150 for path in sent)
    (line,) = lines(run("encode", photo, "-o", f"{folder}/", *how, "--json"))
    assert line["status"] == "skipped"
    text = run("encode", photo, "-o", "-", "--text", "--packets", 3, "--packet-bytes", 150).stdout
    assert [len(message) <= 150 for message in text.split()] == [True] * 3
    facts = json.loads(run("inspect", "-", "--json", stdin=text.split()[1]).stdout)
    assert (facts["packets"], facts["packets_there"]) == (3, [2])
    assert 0 < facts["missing_tokens"] < facts["num_tokens"]
    # A lone packet is a coarse image.
    run("decode", sent[1], "-o", tmp_path / "coarse.png")
    with Image.open(tmp_path / "coarse.png") as coarse, Image.open(photo) as whole:
        assert coarse.size == whole.size
        assert psnr(np.asarray(coarse), np.asarray(whole.convert("RGB"))) > 13


def test_images_are_put_together_from_packets(run, tmp_path):
    names = [photo.name for photo in PHOTOS[:2]]
    how = ("--packets", 3, "--packet-bytes", 120, "--parity")
    run("encode", *PHOTOS[:2], "-o", tmp_path / "sent", *how)
    expected = {name: tmp_path / "whole" / f"{name}.png" for name in names}
    run("decode", tmp_path / "sent", "-o", tmp_path / "whole")
    assert sorted((tmp_path / "whole").iterdir()) == sorted(expected.values())
    (tmp_path / "sent" / f"{names[0]}.1.tok").unlink()  # parity restores it
    (tmp_path / "sent" / f"{names[1]}.2.tok").unlink()
    (tmp_path / "sent" / f"{names[1]}.4.tok").unlink()
    told = lines(run("decode", tmp_path / "sent", "-o", tmp_path / "left", "--json"))
    missing = {Path(line["output"]).name: line["missing_tokens"] for line in told}
    assert missing[f"{names[0]}.png"] == 0
    assert 0 < missing[f"{names[1]}.png"] < told[0]["num_tokens"]
    said = run("decode", tmp_path / "sent", "-o", tmp_path / "again").stderr.decode()
    of = told[0]["num_tokens"] if told[0]["missing_tokens"] else told[1]["num_tokens"]
    assert f"1 image had missing tokens: {missing[f'{names[1]}.png']:,} of {of:,}\n" in said
    restored = tmp_path / "left" / f"{names[0]}.png"
    assert restored.read_bytes() == expected[names[0]].read_bytes()
    originals = ("--originals", PHOTOS[0].parent, "--against", "")
    said = run("page", tmp_path / "sent", *originals, "-o", tmp_path / "page", status=3).stderr
    assert said.decode().count("incomplete") == 1
    page = (tmp_path / "page" / "index.html").read_text()
    assert f'"name": "{names[0]}"' in page
    shutil.copy(PHOTOS[0], tmp_path / "sent")
    report = json.loads(run("stats", tmp_path / "sent", "--json", status=3).stdout)
    assert (report["images"], report["failed"]) == (1, 1)
    assert report["tokens"] == told[0]["num_tokens"]
    assert report["source_bytes"] == PHOTOS[0].stat().st_size
    # Several sources of one image go to one file.
    parts = sorted((tmp_path / "sent").glob(f"{names[0]}.*"))
    run("decode", *parts, "-o", tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes() == restored.read_bytes()
    run("decode", tmp_path / "sent", "-o", tmp_path / "two.png", status=3)


def test_several_messages_in_one_text(run, tmp_path):
    messages = [run("encode", photo, "--text", "-o", "-").stdout for photo in PHOTOS[:2]]
    packets = run("encode", PHOTOS[2], "--text", "--packets", 2, "-o", "-").stdout
    chat = tmp_path / "chat.txt"
    chat.write_bytes(b"> Look: " + b"\nand ".join(messages) + b"\n" + packets.splitlines()[1])
    facts = json.loads(run("inspect", chat, "--json").stdout)
    assert [message["model"] for message in facts["messages"]] == ["tokcodec"] * 3
    told = lines(run("decode", chat, "-o", f"{tmp_path}/out/", "--json"))
    assert [line["missing_tokens"] > 0 for line in told] == [False, False, True]
    for number, photo in enumerate(PHOTOS[:3], 1):
        image = Image.open(tmp_path / "out" / f"chat.txt-{number}.png")
        assert image.size == Image.open(photo).size
    # One file, or standard output, takes one image.
    run("decode", chat, "-o", tmp_path / "one.png", status=3)
    assert (tmp_path / "one.png").exists()
    run("decode", "-", "-o", "-", stdin=chat.read_bytes(), status=3)
    run("decode", chat, "--grid", 2, "-o", tmp_path / "all.png")


def test_damaged_files_at_the_command_line(run, tmp_path):
    run("encode", PHOTOS[0], "-o", tmp_path / "a.tok", "--tokens", 150)
    data = (tmp_path / "a.tok").read_bytes()
    (tmp_path / "cut.tok").write_bytes(data[:100])
    message = run("encode", PHOTOS[0], "--text", "--tokens", 150, "-o", "-").stdout
    (tmp_path / "cut.txt").write_bytes(b"I got: " + message[:140])
    for name in ("cut.tok", "cut.txt"):
        run("decode", tmp_path / name, "-o", tmp_path / "image.png", status=1)
        assert not (tmp_path / "image.png").exists()
        command = ("decode", tmp_path / name, "-o", tmp_path / "image.png", "--damaged", "--json")
        (line,) = lines(run(*command))
        assert 0 < line["missing_tokens"] < line["num_tokens"]
        (tmp_path / "image.png").unlink()
    (tmp_path / "head.tok").write_bytes(data[:7])
    run("decode", tmp_path / "head.tok", "-o", tmp_path / "image.png", "--damaged", status=1)


@pytest.mark.parametrize("packed", [False, True])
def test_a_cut_file_is_read_as_far_as_it_reaches(packed):
    codec = Codec.load(runtime="numpy")
    file = codec.compress(PHOTOS[0], tokens=150, packed=packed)
    data, whole = file.to_bytes(), file.tokens
    left = []
    for length in (*range(30, len(data) - 6, 17), *range(len(data) - 6, len(data))):
        with pytest.raises(TokenFileError):
            TokenFile.from_bytes(data[:length])
        cut = TokenFile.from_bytes(data[:length], damaged=True)
        tokens = cut.tokens_with(codec.header, incomplete=True)
        known = tokens >= 0
        assert tokens[known].tolist() == whole[known].tolist()
        left.append(known.mean())
        assert codec.decompress(cut).size == (file.width, file.height)
    assert left == sorted(left)
    # Of the bytes that are left hardly any is wasted.
    assert left[-1] > 0.85
    assert TokenFile.from_bytes(data, damaged=True) == file
    with pytest.raises(TokenFileError):
        TokenFile.from_bytes(data[:8], damaged=True)


def test_text_at_the_command_line(run, tmp_path):
    text = run("encode", PHOTOS[2], "--text", "-o", "-", "--max-bytes", 160).stdout
    assert text.endswith(b"\n")
    assert len(text) - 1 <= 160
    count = TokenFile.from_bytes(text).num_tokens
    run("encode", PHOTOS[2], "-o", tmp_path / "a.tok", "--tokens", count)
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


def sealed(body):
    return body + binascii.crc_hqx(body, 0xFFFF).to_bytes(2, "little")


def grid_of(rows, columns, bits=13):
    tokens = np.arange(rows * columns).reshape(1, rows, columns)
    return TokenFile.packed(tokens, bits, b"ab", 40, 30, "aspect")


def test_packets_that_claim_too_much_are_refused_at_once():
    head = b"\xb4" + bytes([12]) + b"ab" + b"\x28\x1e" + b"\x80\x20" * 2  # 4096 x 4096 tokens
    for number in (0, 3, 15):  # 15 is parity
        with pytest.raises(TokenFileError):
            TokenFile.from_bytes(sealed(head + bytes([number << 4 | 14]) + b"\0\0" + bytes(20)))


@pytest.mark.parametrize("change", [0, 2, 5])
def test_lying_parity_is_an_error(change):
    *parts, parity = grid_of(6, 7).split(3, parity=True).parts()
    body = bytearray(parity.to_bytes()[:-2])
    place = len(body) - parity.payload_bytes + change
    body[place] ^= 0x11  # the length of a payload, its end, or its content
    lying = TokenFile.from_bytes(sealed(bytes(body)))
    (joined,) = TokenFile.join([lying, *parts[1:]])
    with pytest.raises(TokenFileError):
        joined.tokens_with(None, incomplete=True)


def test_damaged_packets_are_made_up_for():
    file = grid_of(6, 7)
    parts = file.split(3, parity=True).parts()
    data = parts[1].to_bytes()
    broken = TokenFile.from_bytes(data[:-4] + b"\xff" + data[-3:], damaged=True)
    assert broken.damaged
    for there, damaged in (([0, 2, 3], False), ([0, 1], False), ([0, 3], True), ([0, 2], True)):
        (joined,) = TokenFile.join([broken, *(parts[number] for number in there)])
        assert joined.damaged == (damaged and 1 not in there)
        tokens = joined.tokens_with(None, incomplete=True)
        known = tokens >= 0
        wrong = known & (tokens != file.tokens)
        assert known.all() == (there == [0, 2, 3] or there == [0, 2])
        assert wrong.sum() <= (2 if joined.damaged else 0)


def test_parity_has_a_limit():
    file = grid_of(200, 400, 20)
    assert len(file.split(2).parts()) == 2
    with pytest.raises(ValueError, match="parity"):
        file.split(2, parity=True)


def test_images_that_are_too_large_for_parity_fail_alone(monkeypatch):
    codec = Codec.load(runtime="numpy")
    monkeypatch.setattr("tokcodec.tokenfile.MOST_BYTES", 10)
    items = [(tokens, PHOTOS[0]) for tokens in (1, 2)]
    how = {"tokens": 60, "packets": 2, "parity": True}
    assert all(isinstance(own, ImageError) for _, own in codec.compress_stream(items, **how))
    with pytest.raises(ImageError):
        codec.compress(PHOTOS[0], **how)
    assert codec.compress(PHOTOS[0], packets=2, parity=True, packet_bytes=20).num_tokens < 60


def test_missing_tokens_far_from_others_are_filled_in_time():
    grid = np.full((400, 400), -1)
    grid[0, :5] = 1
    grid[5, 5] = 3
    lookup = lambda tokens: np.stack([tokens, -tokens], axis=1).astype(np.float32)  # noqa: E731
    filled = fill_missing(grid, lookup, lambda means: means[:, 0].round().astype(int))
    assert (filled[0, :5] == 1).all()
    assert filled[5, 6] == 3  # its neighbour
    assert filled[-1, -1] == 1  # the mean of all
    assert filled.min() >= 1


def test_packets_replace_nothing_and_leave_nothing(run, tmp_path):
    photo, folder = PHOTOS[0], tmp_path / "sent"
    foreign = folder / f"{photo.name}.2.tok"
    folder.mkdir()
    foreign.write_bytes(grid_of(2, 3).to_bytes())
    command = ("encode", photo, "-o", folder, "--tokens", 30, "--packets")
    (line,) = lines(run(*command, 3, "--json", status=1))
    assert (line["state"], line["status"]) == ("foreign", "failed")
    assert list(folder.iterdir()) == [foreign]
    foreign.rename(folder / f"{photo.name}.5.tok")
    run(*command, 3, "--parity", "-f")
    run(*command, 2, status=1)
    run(*command, 2, "-f")
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"{photo.name}.{number}.tok" for number in (1, 2, 5)]
    # A folder that is not there yet; files and standard output take no packets.
    run("encode", photo, "-o", tmp_path / "new", "--packets", 2)
    assert len(list((tmp_path / "new").iterdir())) == 2
    for output in (tmp_path / "one.tok", "-"):
        run("encode", photo, "-o", output, "--packets", 2, status=2)
    run("encode", "-", "-o", tmp_path / "new", "--packets", 2, stdin=photo.read_bytes(), status=2)


def test_images_of_packets_replace_no_others(run, tmp_path):
    sent = tmp_path / "sent"
    for how in (["--packets", 3, "--tokens", 30], ["--tokens", 40]):
        run("encode", PHOTOS[0], "-o", f"{sent}/", *how)
    for part in TokenFile.load(sent / f"{PHOTOS[0].name}.tok").split(2).parts():
        part.save(sent / f"{PHOTOS[0].name}.{part.packets.numbers[0] + 8}.tok")
    told = lines(run("decode", sent, "-o", tmp_path / "out", "--json", "-f"))
    outputs = [line["output"] for line in told if line["status"] == "ok"]
    assert len(outputs) == len(set(outputs)) == len(list((tmp_path / "out").iterdir())) == 3


def test_packets_that_arrive_later_are_decoded(run, tmp_path):
    run("encode", PHOTOS[0], "-o", f"{tmp_path}/sent/", "--packets", 2, "--tokens", 30)
    late = tmp_path / "sent" / f"{PHOTOS[0].name}.2.tok"
    data = late.read_bytes()
    late.unlink()
    command = ("decode", tmp_path / "sent", "-o", tmp_path / "out", "--json")
    assert lines(run(*command))[0]["missing_tokens"] > 0
    assert lines(run(*command))[0]["state"] == "current"
    late.write_bytes(data)
    assert lines(run(*command, status=3))[0]["state"] == "stale"
    assert lines(run(*command, "-f"))[0]["missing_tokens"] == 0
