"""Test vectors of the token file: read and written by tokcodec, and by a reader and writer that
were written from TOKEN_FILE.md alone."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from vectors import reference

from tokcodec import TokenFile
from tokcodec.coding.prior import Prior
from tokcodec.errors import TokenFileError

HERE = Path(__file__).parent / "vectors"
VECTORS = json.loads((HERE / "token_files.json").read_text())
FILES = VECTORS["files"]


def read_tables():
    tables = json.loads((HERE / "prior.json").read_text())
    return {
        name: np.frombuffer(base64.b64decode(table["base64"]), table["type"]).reshape(
            table["shape"]
        )
        for name, table in tables.items()
    }


TABLES = read_tables()
PRIOR = Prior(**TABLES)
LISTS = {name: table.tolist() for name, table in TABLES.items()}


@pytest.mark.parametrize("vector", FILES, ids=lambda v: f"{v['fit']}-{v['rows']}x{v['columns']}")
def test_files(vector):
    data = bytes.fromhex(vector["file"])
    fields = {name: value for name, value in vector.items() if name != "file"}
    assert reference.read(data, LISTS) == fields
    assert reference.write(fields, LISTS if vector["entropy_coded"] else None) == data

    file = TokenFile.from_bytes(data)
    assert file.to_bytes() == data
    for name in ("fit", "width", "height", "bits", "rows", "columns", "entropy_coded"):
        assert getattr(file, name) == vector[name]
    assert file.model_id.hex() == vector["model_id"]
    assert file.tiles == (vector["tile_rows"], vector["tile_columns"])
    if not file.entropy_coded:
        assert file.tokens.tolist() == vector["tokens"]
        assert file.as_packed().to_bytes() == data
    else:
        tokens = np.array(vector["tokens"]).reshape(file.shape)
        assert PRIOR.decode(file.payload, file.shape).tolist() == tokens.tolist()
        assert PRIOR.encode(tokens) == file.payload


@pytest.mark.parametrize("vector", VECTORS["packets"], ids=lambda v: len(v["packets"]) - 1)
def test_packets(vector):
    image, packets = vector["image"], [bytes.fromhex(own) for own in vector["packets"]]
    tokens = np.array(image["tokens"])
    count = len(packets) - 1
    whole = TokenFile.packed(
        tokens.reshape(1, image["rows"], image["columns"]),
        image["bits"],
        bytes.fromhex(image["model_id"]),
        image["width"],
        image["height"],
        image["fit"],
    )
    prior = PRIOR if image["entropy_coded"] else None
    assert [part.to_bytes() for part in whole.split(count, prior, parity=True).parts()] == packets
    # Any one may be lost.
    for lost in range(count + 1):
        left = [own for number, own in enumerate(packets) if number != lost]
        assert reference.read_packets(left, LISTS) == image["tokens"]
        (joined,) = TokenFile.join(map(TokenFile.from_bytes, reversed(left)))
        assert read_with_prior(joined).tolist() == tokens.tolist()


@pytest.mark.parametrize("why", VECTORS["refused_packets"])
def test_refused_packets(why):
    data = bytes.fromhex(VECTORS["refused_packets"][why])
    with pytest.raises(reference.RefusedError):
        reference.read_packets([data], LISTS)
    with pytest.raises(TokenFileError):
        TokenFile.from_bytes(data)


def read_with_prior(file, **how):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TokenFile, "_prior", lambda *_: PRIOR)
        return file.tokens_with(None, **how)


def read_tokens(data):
    """The tokens of a file by the prior of the vectors, as ``tokens_with`` of its checkpoint."""
    file = TokenFile.from_bytes(data)
    if not file.entropy_coded:
        return file.tokens
    tokens = PRIOR.decode(file.payload, file.shape)
    if PRIOR.encode(tokens) != file.payload:
        raise TokenFileError("another payload")
    return tokens


@pytest.mark.parametrize("why", VECTORS["refused"])
def test_refused(why):
    data = bytes.fromhex(VECTORS["refused"][why])
    with pytest.raises(reference.RefusedError):
        reference.read(data, LISTS)
    with pytest.raises(TokenFileError) as caught:
        read_tokens(data)
    assert len(str(caught.value).splitlines()) == 1


def test_every_changed_byte_and_every_truncation_is_refused():
    for vector in FILES:
        data = bytes.fromhex(vector["file"])
        for place in range(len(data)):
            # The first bytes may turn it into another kind of file; of long files, every tenth.
            if place > 40 and place % 10:
                continue
            damaged = bytearray(data)
            for _ in range(255):
                damaged[place] = (damaged[place] + 1) % 256
                with pytest.raises(TokenFileError):
                    TokenFile.from_bytes(bytes(damaged))
        for length in range(len(data)):
            with pytest.raises(TokenFileError):
                TokenFile.from_bytes(data[:length])


def test_text():
    for vector in FILES:
        data = bytes.fromhex(vector["file"])
        text = TokenFile.from_bytes(data).to_text()
        assert text.startswith("tok:t")
        assert text[4:] == base64.urlsafe_b64encode(data).decode().rstrip("=")
        assert TokenFile.from_bytes(text.encode()).to_bytes() == data
