"""WebDataset tars: ``NUMBER.npy`` with the tokens of a row [N], ``NUMBER.json`` with its columns,
and where there are any, ``NUMBER.cls`` with its class and ``NUMBER.txt`` with its caption."""

import io
import json
import tarfile
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import IO

import numpy as np

from tokcodec.dataset.formats.format import Exported, Format, Row, Shard, parse_meta
from tokcodec.dataset.formats.npy import rows_of
from tokcodec.io.read import MAX_BYTES, check_size
from tokcodec.io.remote import open_input
from tokcodec.io.tar import members


def write(shard: Shard) -> None:
    number = 0
    # Keys of a dataset may hold dots, at which WebDataset would cut them.
    stem = shard.name.rpartition("/")[2].rpartition(".")[0]
    with tarfile.open(fileobj=shard.file, mode="w", format=tarfile.USTAR_FORMAT) as tar:

        def add(suffix: str, content: bytes) -> None:
            member = tarfile.TarInfo(f"{stem}-{number:08}.{suffix}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))

        for rows in shard.rows:
            for tokens, record in zip(rows.tokens, rows.records(), strict=True):
                array = io.BytesIO()
                np.save(array, tokens)
                add("npy", array.getvalue())
                class_id, caption = record["class_id"], record.pop("txt", None)
                if class_id is not None:
                    add("cls", str(class_id).encode())
                if caption is not None:
                    add("txt", str(caption).encode())
                add("json", json.dumps(record, ensure_ascii=False, default=str).encode())
                number += 1


def holds_tokens(name: str) -> bool:
    """Whether a tar, a path or a URL, begins with an array, as exports do."""
    try:
        with open_input(name) as file:
            first = next(members(file), None)
    except OSError:
        return False
    return first is not None and first.name.endswith(".npy")


def read(source: Exported) -> tuple[None, Iterator[Row]]:
    return None, _rows(source.path)


def _rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for _, contents in groupby(_contents(file), itemgetter(0)):
            own = {suffix: content for _, suffix, content in contents}
            array = np.lib.format.read_array(io.BytesIO(own.get("npy", b"")), allow_pickle=False)
            _, rows = rows_of(array[None])
            for tokens, _ in rows:
                yield tokens, parse_meta(own.get("json", b"{}").decode())


def _contents(file: IO[bytes]) -> Iterator[tuple[str, str, bytes]]:
    """The stem, the suffix and the content of each array and each JSON object of a tar."""
    for member in members(file):
        stem, _, suffix = member.name.rpartition(".")
        if suffix in ("npy", "json"):
            check_size(member.size, MAX_BYTES)
            yield stem, suffix, member.read()


FORMAT = Format(
    "webdataset",
    'webdataset, open-muse; `datasets.load_dataset("webdataset")`',
    ".tar",
    ("uint8", "uint16", "uint32", "uint64"),
    write,
    read,
)
