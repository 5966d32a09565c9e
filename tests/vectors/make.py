"""Makes prior.json and token_files.json, with reference.py: python tests/vectors/make.py

The prior holds random numbers from a seed, and tokens of entropy-coded files are drawn by it.
"""

import base64
import binascii
import json
from pathlib import Path

import numpy as np
import reference
from reference import leb128

HERE = Path(__file__).parent
SIZE = 100  # of the codebook


def make_prior():
    rng = np.random.RandomState(0)  # its stream is frozen for good

    def table(kind, most, *shape):
        return rng.randint(-most, most + 1, shape).astype(kind)

    return {
        "group": rng.randint(0, 64, SIZE).astype("uint8"),
        "vectors": table("int8", 127, SIZE + 1, 32),
        "layer": table("int8", 20, 320, 128),
        "size_bias": table("int16", 5000, 32, 128),
        "row_bias": table("int16", 2000, 16, 128),
        "column_bias": table("int16", 2000, 16, 128),
        "group_scores": table("int8", 3, 64, 128),
        "group_bias": table("int16", 1500, 64),
        "token_scores": table("int8", 7, SIZE, 128),
        "token_bias": table("int16", 3000, SIZE),
        "powers": np.arange(60000, 0, -60).astype("uint16"),
    }


def pick(slots, symbols, rng):
    slot = rng.randint(reference.TOTAL)
    return symbols[next(index for index, end in enumerate(slots) if slot < end)]


def draw(prior, tiles, rows, columns, rng):
    """Tokens as likely as the prior says."""
    tokens = []
    for _ in range(tiles):
        tile = {}
        for row, column in reference.order(rows, columns):
            hidden = reference.hidden_of(prior, tile, row, column, rows, columns)
            slots, groups = reference.symbol_ends(prior, hidden)
            group = None
            while group not in prior["group"]:  # the prior has groups without tokens
                group = pick(slots, groups, rng)
            tile[row, column] = pick(*reference.symbol_ends(prior, hidden, group), rng)
        tokens += [tile[place] for place in sorted(tile)]
    return tokens


def main() -> None:
    tables = make_prior()
    text = {
        name: {
            "type": table.dtype.name,
            "shape": table.shape,
            "base64": base64.b64encode(
                table.astype(table.dtype.newbyteorder("<")).tobytes()
            ).decode(),
        }
        for name, table in tables.items()
    }
    (HERE / "prior.json").write_text(json.dumps(text, indent=1) + "\n")
    prior = {name: table.tolist() for name, table in tables.items()}
    rng = np.random.RandomState(1)
    files = []

    def add(fit, width, height, bits, rows, columns, tiles=(1, 1), coded=False):
        number = tiles[0] * tiles[1]
        tokens = (
            draw(prior, number, rows, columns, rng)
            if coded
            else rng.randint(0, min(2**bits, SIZE), number * rows * columns).tolist()
        )
        image = {
            "fit": fit, "width": width, "height": height, "bits": bits,
            "model_id": "01ab", "rows": rows, "columns": columns,
            "tile_rows": tiles[0], "tile_columns": tiles[1], "tokens": tokens,
        }  # fmt: skip
        data = reference.write(image, prior if coded else None)
        image["entropy_coded"] = data[0] == 0xB7
        if image["entropy_coded"] != coded:  # drawn so that packing is shorter
            return add(fit, width, height, bits, rows, columns, tiles, coded)
        files.append({"file": data.hex(), **image})
        return None

    add("aspect", 640, 480, 13, 7, 9)
    add("stretch", 1, 65535, 1, 1, 1)
    add("crop", 300, 128, 20, 2, 64)
    add("pad", 127, 16384, 32, 1, 16)
    add("tile", 513, 300, 7, 2, 3, (2, 3))
    add("native", 16383, 200, 7, 13, 5)
    add("aspect", 640, 480, 7, 7, 9, coded=True)
    add("aspect", 480, 641, 7, 5, 4, coded=True)
    add("stretch", 33, 44, 7, 1, 12, coded=True)
    add("crop", 33, 44, 7, 12, 1, coded=True)
    add("tile", 64, 90, 7, 3, 2, (3, 2), coded=True)
    add("native", 20, 17, 7, 9, 12, coded=True)
    alike = dict(files[6], tokens=[35] * 63)
    del alike["file"]
    files.append({**alike, "file": reference.write(alike, prior).hex()})

    def sealed(body):
        return (body + binascii.crc_hqx(body, 0xFFFF).to_bytes(2, "little")).hex()

    def sizes(rows, columns):
        names = ("fit", "rows", "columns", "tile_rows", "tile_columns", "width", "height")
        return reference.write_sizes(
            dict(zip(names, ("aspect", rows, columns, 1, 1, 1, 1), strict=True))
        )

    good = bytes.fromhex(files[0]["file"])[:-2]
    coded = bytes.fromhex(files[6]["file"])[:-2]
    head, start = good[:4], 8  # start of the payload: one byte for the grid, three for the size
    refused = {
        "no bytes": "",
        "another first byte": sealed(b"\xb8" + good[1:]),
        "a wrong checksum": (good + b"\0\0").hex(),
        "fit 6": sealed(good[:1] + bytes([6 << 5 | 12]) + good[2:]),
        "a width of 0": sealed(good[:5] + b"\0" + good[7:]),
        "a width of 65536": sealed(good[:5] + b"\x80\x80\x04" + good[7:]),
        "a height of 0": sealed(good[:5] + b"\1\1" + good[start:]),
        "a height of 65536": sealed(good[:7] + leb128(2 * (65536 - 498)) + good[start:]),
        "65536 rows": sealed(head + leb128(reference.number_of_shape(65536, 1)) + good[5:]),
        "a number not in its shortest form": sealed(good[:5] + b"\x80\x85\0" + good[7:]),
        "a number of six bytes": sealed(good[:5] + b"\x80" * 5 + b"\1" + good[7:]),
        "a header that ends": sealed(good[:7]),
        "more than 2^24 tokens": sealed(head + sizes(65535, 65535) + bytes(100)),
        "a byte too many": sealed(good + b"\0"),
        "a byte too few": sealed(good[:-1]),
        "a set bit after the tokens": sealed(good[:-1] + bytes([good[-1] | 0x80])),
        "an entropy-coded payload as long as the packed one": sealed(
            coded[:start] + bytes(range(1, 57))
        ),
        "too many tokens for an entropy-coded payload": sealed(
            coded[:4] + sizes(4096, 2) + coded[start : start + 8]
        ),
        "a zero byte at the end of an entropy-coded payload": sealed(coded + b"\0"),
        "an entropy-coded payload that is too long": sealed(coded + b"\1\2\3\4"),
        "an entropy-coded payload that is too short": sealed(coded[:-4]),
    }
    packets = [
        {
            "image": {key: value for key, value in files[index].items() if key != "file"},
            "packets": [own.hex() for own in reference.write_packets(files[index], count, coded)],
        }
        for index, count, coded in ((0, 3, None), (5, 4, None), (6, 2, prior), (12, 5, prior))
    ]
    good, coded = (bytes.fromhex(packets[index]["packets"][0])[:-2] for index in (0, 2))
    refused_packets = {
        "a wrong checksum": (good + b"\0\0").hex(),
        "a number above that of parity": sealed(good[:start] + b"\x42" + good[start + 1 :]),
        "sixteen packets": sealed(good[:start] + b"\x0f" + good[start + 1 :]),
        "a packet that ends in its header": sealed(good[: start + 2]),
        "tiles": sealed(good[:1] + bytes([4 << 5 | good[1] & 31]) + good[2:5] + b"\0" + good[5:]),
        "a packet without tokens": sealed(head + sizes(1, 2) + good[start:]),
        "a byte too many": sealed(good + b"\0"),
        "a byte too few": sealed(good[:-1]),
        "too many tokens for parity": sealed(
            head + sizes(16384, 128) + b"\x32" + good[start + 1 :]
        ),
        "an entropy-coded packet that is too long": sealed(coded + bytes(100)),
    }
    vectors = {
        "files": files, "packets": packets, "refused": refused, "refused_packets": refused_packets,
    }  # fmt: skip
    (HERE / "token_files.json").write_text(json.dumps(vectors, indent=1) + "\n")


if __name__ == "__main__":
    main()
