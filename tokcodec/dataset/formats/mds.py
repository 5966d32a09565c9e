"""MDS: a folder of ``shard.NNNNN.mds`` and ``index.json``, as mosaicml-streaming reads it.

Columns: ``tokens``, an array; ``class_id``, -1 without a label; text, "" where there is none;
integers, -1 where there are none; anything else as JSON. The layout is version 2 of the library's
streaming/base/format/mds.
"""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokcodec.dataset.formats.format import Facts, Format, Record, Shard
from tokcodec.errors import ArgumentError

_MOST = (1 << 32) - 1  # bytes of a shard
_SIZES = {"int": 8}  # of an encoding with a fixed size


def write(shard: Shard) -> None:
    config = _config(shard.facts)
    names, encodings = config["column_names"], config["column_encodings"]
    samples: list[bytes] = []
    for rows in shard.rows:
        for tokens, record in zip(rows.tokens, rows.records(), strict=True):
            values = {**record, "tokens": tokens}
            cells = [_encoded(values[n], e) for n, e in zip(names, encodings, strict=True)]
            sizes = [len(c) for c, e in zip(cells, encodings, strict=True) if e not in _SIZES]
            samples.append(np.array(sizes, "<u4").tobytes() + b"".join(cells))
    head = json.dumps(config, sort_keys=True).encode()
    start = 4 + 4 * (len(samples) + 1) + len(head)
    ends = np.cumsum([start, *map(len, samples)])
    if ends[-1] > _MOST:
        raise ArgumentError(f"{shard.name} would be larger than 4 GiB; write fewer rows per shard")
    for part in (np.uint32(len(samples)).tobytes(), ends.astype("<u4").tobytes(), head, *samples):
        shard.file.write(part)


def _config(facts: Facts) -> dict[str, Any]:
    kinds = {**facts.kinds, "class_id": "int", "tokens": f"ndarray:{facts.dtype.name}"}
    names = sorted(kinds)
    return {
        "column_encodings": [kinds[name] for name in names],
        "column_names": names,
        "column_sizes": [_SIZES.get(kinds[name]) for name in names],
        "compression": None,
        "format": "mds",
        "hashes": [],
        "size_limit": None,
        "version": 2,
    }


def _encoded(value: Any, encoding: str) -> bytes:
    if encoding == "int":
        return np.int64(-1 if value is None else value).tobytes()
    if encoding == "str":
        return ("" if value is None else str(value)).encode()
    if encoding == "json":
        return json.dumps(value, default=str).encode()
    tokens: NDArray[Any] = value
    dtype = np.min_scalar_type(len(tokens))
    code = ("uint8", "uint16", "uint32").index(dtype.name)
    return bytes([1 << 2 | code]) + np.array([len(tokens)], dtype).tobytes() + tokens.tobytes()


def finish(stem: str, facts: Facts, shards: list[Record]) -> tuple[str, str]:
    """The index of all shards."""
    files = [
        {
            **_config(facts),
            "raw_data": {
                "basename": shard["name"].rpartition("/")[2],
                "bytes": shard["bytes"],
                "hashes": {},
            },
            "samples": shard["rows"],
            "zip_data": None,
        }
        for shard in shards
    ]
    return f"{stem}/index.json", json.dumps({"shards": files, "version": 2}, sort_keys=True)


FORMAT = Format(
    "mds",
    "mosaicml-streaming, Composer",
    "",
    ("uint16", "uint32", "uint64"),
    write,
    finish=finish,
    one="{name}/shard.00000.mds",
    many="{name}/shard.{number:05}.mds",
)
