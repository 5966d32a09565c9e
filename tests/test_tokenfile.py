import base64
import binascii

import numpy as np
import pytest
from conftest import GOLDEN
from hypothesis import given
from hypothesis import strategies as st

from tokcodec import checkpoint
from tokcodec.coding.header import HeaderReader, leb128, shape_number
from tokcodec.config.geometry import FITS
from tokcodec.errors import FullDiskError, OutputError, TokenFileError
from tokcodec.tokenfile import MAX_TOKENS, TokenFile, check_tokens, is_token_file

SMALL = TokenFile.packed(np.array([[[1, 8191, 2]]]), 13, bytes.fromhex("01ab"), 512, 300, "stretch")
# packed, fit 1 and 13 bits, model_id, the fourth shape, 512, 129 more than 512 / 3, the tokens.
SMALL_BODY = bytes.fromhex("b6 2c 01ab 03 8004 8202 01e0ff0b00")


def sealed(body):
    return body + binascii.crc_hqx(body, 0xFFFF).to_bytes(2, "little")


@st.composite
def token_files(draw):
    bits = draw(st.integers(1, 32))
    fit = draw(st.sampled_from(FITS))
    tiles = draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) if fit == "tile" else (1, 1)
    shape = (tiles[0] * tiles[1], draw(st.integers(1, 20)), draw(st.integers(1, 20)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return TokenFile.packed(
        generator.integers(0, 2**bits, shape),
        bits,
        draw(st.binary(min_size=2, max_size=2)),
        draw(st.integers(1, 65535)),
        draw(st.integers(1, 65535)),
        fit,
        tiles,
    )


@given(token_files())
def test_round_trip(token_file):
    data = token_file.to_bytes()
    again = TokenFile.from_bytes(data)
    assert again == token_file
    assert again.tokens.tolist() == token_file.tokens.tolist()
    assert again.grid.shape == again.shape == token_file.shape
    assert again.tokens.dtype == np.int64
    assert len(data) == token_file.file_bytes
    assert is_token_file(data)
    assert not is_token_file(token_file.to_text().encode())


def test_bytes_by_hand():
    assert SMALL.to_bytes() == sealed(SMALL_BODY)
    assert TokenFile.from_bytes(sealed(SMALL_BODY)) == SMALL


@pytest.mark.parametrize(("size", "besides"), [((640, 480), 10), ((4000, 3000), 11)])
def test_bytes_besides_64_tokens_of_a_photo(size, besides):
    file = TokenFile.packed(np.zeros((1, 7, 9), np.int64), 13, b"ab", *size, "aspect")
    assert file.file_bytes == len(file.payload) + besides


def test_every_grid_is_read_as_it_was_written():
    generator = np.random.default_rng(0)
    grids = [(rows, columns) for rows in range(1, 33) for columns in range(1, 33)]
    for rows, columns in [*grids, (1, 257), (300, 1)]:
        tokens = generator.integers(0, 64, (1, rows, columns))
        file = TokenFile.packed(tokens, 6, b"ab", 640, 480, "aspect")
        again = TokenFile.from_bytes(file.to_bytes())
        assert (again.rows, again.columns, again.num_tokens) == (rows, columns, tokens.size)
        assert np.array_equal(again.grid, tokens)
    # Tokens in one dimension are one row.
    flat = TokenFile.packed(np.arange(32)[None], 6, b"ab", 640, 480, "stretch")
    assert (flat.rows, flat.columns, flat.tokens.tolist()) == (1, 32, list(range(32)))


@pytest.mark.parametrize(
    ("number", "encoded"),
    [(1, "01"), (127, "7f"), (128, "8001"), (16383, "ff7f"), (16384, "808001"), (65535, "ffff03")],
)
def test_sizes_are_leb128(number, encoded):
    data = TokenFile.packed(np.zeros((1, 1), int), 1, b"ab", number, 1, "crop").to_bytes()
    assert data[5 : 5 + len(encoded) // 2].hex() == encoded
    assert TokenFile.from_bytes(data).width == number


def test_shapes_are_numbered_along_diagonals():
    shapes = [(rows, columns) for rows in range(1, 30) for columns in range(1, 30)]
    shapes.sort(key=lambda shape: (sum(shape), shape[0]))
    for number, shape in enumerate(shapes[:400]):
        assert shape_number(*shape) == number
        assert HeaderReader(leb128(number), 0).shape() == shape


@pytest.mark.parametrize(
    "change",
    [
        {"model_id": b"abcd"},
        {"width": 0},
        {"height": 65536},
        {"tiles": (2, 1)},
        {"tokens": np.zeros(3, int)},
        {"tokens": np.zeros((2, 3), int)},
        {"tokens": np.zeros((1, 0), int)},
        {"tokens": np.zeros((1, 65536), int)},
        {"tokens": np.array([[8192]])},
        {"fit": "tile", "tiles": (5000, 4000), "tokens": np.zeros((20_000_000, 1), np.int8)},
    ],
    ids=str,
)
def test_what_a_file_cannot_say(change):
    fields = {
        "tokens": np.zeros((1, 3), int),
        "bits": 13,
        "model_id": b"ab",
        "width": 1,
        "height": 1,
        "fit": "crop",
    }
    with pytest.raises(ValueError, match=r"."):
        TokenFile.packed(**fields | change)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"t",
        b"ts",
        b"\x89PNG\r\n",
        SMALL_BODY,
        sealed(SMALL_BODY) + b"\0",
        sealed(SMALL_BODY)[:-1],
        sealed(SMALL_BODY[:4]),
        sealed(SMALL_BODY[:3]),
        sealed(b"\xb8" + SMALL_BODY[1:]),
        sealed(b"\xb6\xcc" + SMALL_BODY[2:]),
        sealed(SMALL_BODY + b"\0"),
        sealed(SMALL_BODY[:-1] + b"\x80"),
    ],
)
def test_refusals_are_one_line(data):
    for form in (data, base64.urlsafe_b64encode(data)):
        with pytest.raises(TokenFileError) as caught:
            TokenFile.from_bytes(form)
        assert len(str(caught.value).splitlines()) == 1


def test_a_claim_of_many_tokens_takes_no_time():
    for form in (0xB6, 0xB7):
        for rows, columns in ((b"\x80\x20", b"\x80\x20"), (b"\xff\xff\3", b"\xff\xff\3")):
            body = bytes([form, 0x0C]) + b"ab\1\1" + rows + columns + bytes(9)
            with pytest.raises(TokenFileError):
                TokenFile.from_bytes(sealed(body))
    assert MAX_TOKENS == 1 << 24


def test_tokens_beyond_the_codebook():
    check_tokens(SMALL.tokens, 8192)
    with pytest.raises(TokenFileError):
        check_tokens(SMALL.tokens, 8191)


def test_the_model_is_found_by_two_bytes():
    header = checkpoint.read_header(GOLDEN / "patch.safetensors")
    file = TokenFile.of(header, np.zeros((1, 4, 4), np.int64), 32, 32, "stretch")
    assert len(file.model_id) == 2
    assert header.decodes(file.model_id)
    assert checkpoint.find_by_model_id(file.model_id, header) == header


def test_tiles_are_those_of_the_image():
    header = checkpoint.read_header(GOLDEN / "patch.safetensors")
    tokens = np.arange(6 * 16).reshape(6, 4, 4) % 60
    file = TokenFile.of(header, tokens, 65, 33, "tile")
    assert (file.tiles, file.rows, file.columns) == ((2, 3), 4, 4)
    assert np.array_equal(TokenFile.from_bytes(file.to_bytes()).grid, tokens)
    with pytest.raises(ValueError, match="2x3 tiles"):
        TokenFile.of(header, tokens[1:], 65, 33, "tile")


def test_save_replaces_whole_files_only(tmp_path, monkeypatch):
    path = tmp_path / "a.tok"
    path.write_bytes(b"before")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(FullDiskError, match=r"a\.tok"):
        SMALL.save(path)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(5, "I/O error")))
    with pytest.raises(OutputError, match=r"a\.tok"):
        SMALL.save(path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    SMALL.save(path)
    assert TokenFile.load(path) == SMALL


def test_errors_name_the_file(tmp_path):
    (tmp_path / "a.tok").write_bytes(b"TK")
    for name in ("a.tok", "b.tok"):
        with pytest.raises(TokenFileError) as caught:
            TokenFile.load(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
