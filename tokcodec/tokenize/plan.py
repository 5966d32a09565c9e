"""The plan of a run: its inputs, cut into shards."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokcodec.dataset.folder import shard_name
from tokcodec.errors import DatasetError, counted
from tokcodec.inputs.listing import Batch, Selection, list_inputs
from tokcodec.inputs.parquet import Rows
from tokcodec.inputs.records import Files
from tokcodec.inputs.webdataset import Tar
from tokcodec.io.find import Stamp
from tokcodec.io.read import MAX_BYTES


@dataclass(frozen=True)
class Shard:
    """The unit of work: one output file.

    Attributes:
        number: its place in the plan.
        batch: its inputs.
        digest: SHA-256, in hex, over names, labels, sizes and mtimes of its inputs.
    """

    number: int
    batch: Batch
    digest: str

    def __str__(self) -> str:
        """Its inputs in words."""
        first, more = self.batch.stamps[0], len(self.batch.stamps) - 1
        return f"{first} and {counted(more, 'other')}" if more else str(first)

    @property
    def name(self) -> str:
        """The name of its file."""
        return shard_name(self.number)


@dataclass(frozen=True)
class Plan:
    """All shards of a run, a digest of them, their columns of text, and how they were cut."""

    shards: tuple[Shard, ...]
    digest: str
    text_columns: tuple[str, ...]
    cut: dict[str, object]

    def __str__(self) -> str:
        """Its inputs in words."""
        return f"{self.shards[0]} to {self.shards[-1]}" if self.shards[1:] else str(self.shards[0])

    def share(self, index: int, count: int) -> tuple[Shard, ...]:
        """Part ``index`` of ``count``, from 0: every ``count``-th shard."""
        return self.shards[index::count]


def make_plan(
    sources: Sequence[str],
    *,
    listed: Sequence[str] = (),
    rows_per_shard: int = 10_000,
    views: int = 1,
    label: str | None = None,
    text_columns: Sequence[str] = (),
    limit: int | None = None,
    without: Sequence[Path] = (),
    max_bytes: int = MAX_BYTES,
    selection: Selection | None = None,
) -> Plan:
    """List the inputs and cut them into shards: one for each tar, else ``rows_per_shard`` rows.

    Args:
        sources, listed, label, text_columns, without, max_bytes, selection: see
            ``listing.list_inputs``.
        rows_per_shard: rows of a shard.
        views: rows of an image.
        limit: take only the first images, this many.

    Raises:
        DatasetError: there are no inputs, or two have the same key.
    """
    size = max(1, rows_per_shard // views)
    batches = list_inputs(
        sources,
        listed,
        size,
        label,
        tuple(dict.fromkeys(text_columns)),
        without,
        max_bytes,
        selection,
        with_texts=True,
    )
    _check_keys(batches)
    if text_columns and not any(isinstance(batch, Rows) for batch in batches):
        raise DatasetError(
            f"there is no Parquet file to take {', '.join(text_columns)} from; texts of tars and "
            "folders are kept without being named"
        )
    if limit is not None:
        batches = list(_first(batches, limit))
    if not batches:
        raise DatasetError("no images to tokenize")
    shards = []
    for number, batch in enumerate(batches):
        fields: dict[str, Any] = dict(vars(batch))
        fields["stamps"] = list(map(_facts, batch.stamps))
        if isinstance(batch, Files):
            fields |= {"keys": batch.keys, "labels": batch.labels}
            fields["texts"] = [
                {name: _facts(own) for name, own in texts.items()} for texts in batch.texts
            ]
        fields.pop("kinds", None)
        fields.pop("max_bytes")  # which decides what fails, as Pillow's limit does
        shards.append(Shard(number, batch, _digest(fields)))
    cut: dict[str, object] = {"rows_per_shard": rows_per_shard, "limit": limit, "label": label}
    columns = tuple({name: None for batch in batches for name in batch.text_columns})
    return Plan(tuple(shards), _digest([shard.digest for shard in shards]), columns, cut)


def _facts(stamp: Stamp) -> tuple[str, int, str]:
    """The name of a file in rows, and what shows whether it has changed."""
    return str(stamp), stamp.size, stamp.mtime


def _check_keys(batches: Sequence[Batch]) -> None:
    seen: dict[str, str] = {}
    for batch in batches:
        if isinstance(batch, Tar):
            continue
        keys = batch.keys if isinstance(batch, Files) else [batch.name]
        for key, stamp in zip(keys, batch.stamps, strict=True):
            other = seen.setdefault(key, stamp.path)
            if other != stamp.path:
                raise DatasetError(
                    f"{other} and {stamp.path} would both have the key {key}; "
                    "give the folder above them"
                )


def _first(batches: Sequence[Batch], limit: int) -> Iterator[Batch]:
    for batch in batches:
        if limit == 0:
            return
        if isinstance(batch, Files):
            stamps, texts = batch.stamps[:limit], batch.texts[:limit]
            batch = dataclasses.replace(batch, stamps=stamps, texts=texts)
            count = len(batch)
        elif isinstance(batch, Rows):
            batch = dataclasses.replace(batch, stop=min(batch.stop, batch.start + limit))
            count = len(batch)
        else:
            batch = dataclasses.replace(batch, limit=limit)
            count = sum(1 for _ in batch.records())
        yield batch
        limit -= count


def _digest(fields: object) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
