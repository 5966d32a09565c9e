"""``.jsonl``: a line ``{"class_id": int, "tokens": [...], ...}`` for each row, as the trainers of
TiTok, RAR and MaskBit read it. ``class_id`` is null without a label."""

import json
from collections.abc import Iterator

import numpy as np

from tokcodec.dataset.formats.format import Exported, Format, Row, Shard
from tokcodec.io.json import parse_json

_LONGEST = 1 << 24  # characters of a line


def write(shard: Shard) -> None:
    for rows in shard.rows:
        for tokens, record in zip(rows.tokens, rows.records(), strict=True):
            line = {"class_id": record["class_id"], "tokens": tokens.tolist(), **record}
            text = json.dumps(line, ensure_ascii=False, separators=(",", ":"), default=str)
            shard.file.write(text.encode() + b"\n")


def read(source: Exported) -> tuple[None, Iterator[Row]]:
    return None, _rows(source)


def _rows(source: Exported) -> Iterator[Row]:
    with source.path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                record = parse_json(line, _LONGEST)
                tokens = np.array(record.pop("tokens"))
                if tokens.dtype.kind not in "iu" or tokens.ndim not in (1, 2):
                    raise ValueError("its tokens are not integers in one or two dimensions")
            except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
                raise ValueError(f"line {number}: {error}") from error
            yield tokens, record


FORMAT = Format(
    "jsonl",
    'TiTok, RAR, MaskBit; `datasets.load_dataset("json")`',
    ".jsonl",
    ("uint8", "uint16", "uint32", "uint64"),
    write,
    read,
)
