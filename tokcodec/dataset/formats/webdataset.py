"""WebDataset tars: ``NUMBER.npy`` with the tokens of a row [N], ``NUMBER.json`` with its columns,
and where there are any, ``NUMBER.cls`` with its class and ``NUMBER.txt`` with its caption."""

import io
import json
import tarfile

import numpy as np

from tokcodec.dataset.formats.format import Format, Shard


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


FORMAT = Format(
    "webdataset",
    'webdataset, open-muse; `datasets.load_dataset("webdataset")`',
    ".tar",
    ("uint8", "uint16", "uint32", "uint64"),
    write,
)
