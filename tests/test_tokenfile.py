import zlib

import numpy as np
import pytest
from conftest import GOLDEN
from hypothesis import given
from hypothesis import strategies as st

from tokcodec.config.geometry import FITS
from tokcodec.errors import FullDiskError, OutputError, TokenFileError
from tokcodec.tokenfile import TokenFile, check_tokens

SMALL = TokenFile.packed(np.array([1, 8191, 2]), 13, bytes.fromhex("01ab23cd"), 512, 300, "crop")
# TK, version 1 and fit 1, id, 512, 300, 13 bits, 3 tokens, the tokens.
SMALL_BODY = bytes.fromhex("544b 11 01ab23cd 0002 2c01 0d 03 01e0ff0b00")


def sealed(body):
    return body + zlib.crc32(body).to_bytes(4, "little")


@st.composite
def token_files(draw):
    bits = draw(st.integers(1, 32))
    count = draw(st.integers(1, 400))
    seed = draw(st.integers(0, 2**32 - 1))
    return TokenFile.packed(
        np.random.default_rng(seed).integers(0, 2**bits, count),
        bits,
        draw(st.binary(min_size=4, max_size=4)),
        draw(st.integers(1, 65535)),
        draw(st.integers(1, 65535)),
        draw(st.sampled_from(FITS)),
    )


@given(token_files())
def test_round_trip(token_file):
    data = token_file.to_bytes()
    again = TokenFile.from_bytes(data)
    assert again == token_file
    assert again.tokens.tolist() == token_file.tokens.tolist()
    assert again.tokens.dtype == np.int64
    assert len(data) == token_file.file_bytes
    overhead = 17 if len(token_file.tokens) <= 127 else 18
    assert len(data) == len(token_file.payload) + overhead


def test_bytes_by_hand():
    assert SMALL.to_bytes() == sealed(SMALL_BODY)
    assert TokenFile.from_bytes(sealed(SMALL_BODY)) == SMALL


@pytest.mark.parametrize(
    ("count", "encoded"),
    [(127, "7f"), (128, "8001"), (16383, "ff7f"), (16384, "808001"), (2097152, "80808001")],
)
def test_count_is_leb128(count, encoded):
    tokens = np.arange(count) % 2
    data = TokenFile.packed(tokens, 1, b"abcd", 1, 1, "tile").to_bytes()
    assert data[12 : 12 + len(encoded) // 2].hex() == encoded
    assert (TokenFile.from_bytes(data).tokens == tokens).all()


# Files kept for good: every later tokcodec must read them and write them again.
@pytest.mark.parametrize(
    ("name", "fit", "size", "bits", "count", "total"),
    [
        ("v1-16-stretch.tok", "stretch", (512, 512), 13, 16, 10648),
        ("v1-200-tile.tok", "tile", (65535, 1), 20, 200, 1990000),
        ("v1-1-pad.tok", "pad", (1, 1), 1, 1, 1),
        ("v2-12-native.tok", "native", (50, 33), 12, 12, 22506),
    ],
)
def test_kept_files(name, fit, size, bits, count, total):
    data = (GOLDEN / name).read_bytes()
    token_file = TokenFile.from_bytes(data)
    assert (token_file.fit, (token_file.width, token_file.height)) == (fit, size)
    assert (token_file.bits, len(token_file.tokens)) == (bits, count)
    assert int(token_file.tokens.sum()) == total
    assert token_file.to_bytes() == data


@pytest.mark.parametrize(
    "name", ["v1-16-stretch.tok", "v1-200-tile.tok", "v1-1-pad.tok", "v2-12-native.tok"]
)
def test_every_flipped_bit_and_every_truncation_is_caught(name):
    data = (GOLDEN / name).read_bytes()
    for place in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(TokenFileError):
            TokenFile.from_bytes(bytes(damaged))
    for length in range(len(data)):
        with pytest.raises(TokenFileError):
            TokenFile.from_bytes(data[:length])


def changed(offset, value):
    body = bytearray(SMALL_BODY)
    body[offset : offset + len(value)] = value
    return sealed(bytes(body))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a token file"),
        (b"\x89PNG\r\n", "not a token file"),
        (changed(2, b"\x21"), "needs a newer tokcodec"),
        (changed(2, b"\x19"), "needs a newer tokcodec"),
        (changed(2, b"\x15"), "damaged: 3 tokens of 13 bits, entropy-coded in 5 bytes"),
        (SMALL_BODY[:9], "truncated"),
        (SMALL_BODY, "truncated or damaged: 3 tokens of 13 bits need 22 bytes, it has 18"),
        (sealed(SMALL_BODY) + b"\0", "1 bytes behind its end"),
        (SMALL_BODY + b"\0\0\0\0", "checksum"),
        (changed(7, b"\0\0"), "0x300 pixels"),
        (changed(11, b"\0"), "0 bits a token"),
        (changed(11, b"\x21"), "33 bits a token"),
        (changed(17, b"\x80"), "padding bit"),
        (sealed(SMALL_BODY[:12] + b"\x83\0" + SMALL_BODY[13:]), "shortest form"),
        (sealed(SMALL_BODY[:12] + b"\x83\x80\x80\x80" + SMALL_BODY[13:]), "does not end"),
        (sealed(SMALL_BODY[:12] + b"\xff\xff\xff\x7f" + SMALL_BODY[13:]), "truncated or damaged"),
        (sealed(SMALL_BODY[:12] + b"\0"), "0 tokens"),
    ],
)
def test_refusals_say_why(data, message):
    with pytest.raises(TokenFileError) as caught:
        TokenFile.from_bytes(data)
    assert message in str(caught.value)


def test_tokens_beyond_the_codebook():
    check_tokens(SMALL.tokens, 8192)
    with pytest.raises(TokenFileError, match="token 8191 of a codebook of 8191"):
        check_tokens(SMALL.tokens, 8191)


def test_save_replaces_whole_files_only(tmp_path, monkeypatch):
    path = tmp_path / "a.tok"
    path.write_bytes(b"before")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(FullDiskError, match=r"a\.tok: cannot write: No space left; free some"):
        SMALL.save(path)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(5, "I/O error")))
    with pytest.raises(OutputError, match=r"a\.tok: cannot write: I/O error; choose another -o"):
        SMALL.save(path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    SMALL.save(path)
    assert TokenFile.load(path) == SMALL


def test_errors_name_the_file(tmp_path):
    (tmp_path / "a.tok").write_bytes(b"TK")
    with pytest.raises(TokenFileError, match=r"a\.tok: truncated"):
        TokenFile.load(tmp_path / "a.tok")
    with pytest.raises(TokenFileError, match=r"b\.tok: cannot read: No such file"):
        TokenFile.load(tmp_path / "b.tok")
