"""The plan of a run: its inputs cut into shards, each with a digest that says what goes into it."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokcodec.dataset.folder import shard_name
from tokcodec.errors import DatasetError, counted
from tokcodec.inputs.listing import Batch, Selection, list_inputs
from tokcodec.inputs.parquet import Rows
from tokcodec.inputs.records import Files
from tokcodec.inputs.webdataset import Tar
from tokcodec.io.read import MAX_BYTES


@dataclass(frozen=True)
class Shard:
    """The unit of work: one output file.

    Attributes:
        number: its place in the plan.
        batch: its inputs.
        digest: SHA-256, in hex, over keys, labels, sizes and mtimes of its inputs.
    """

    number: int
    batch: Batch
    digest: str

    def __str__(self) -> str:
        """Its inputs, in words."""
        first, more = self.batch.stamps[0], len(self.batch.stamps) - 1
        return f"{first} and {counted(more, 'other')}" if more else str(first)

    @property
    def name(self) -> str:
        """Of its file."""
        return shard_name(self.number)


@dataclass(frozen=True)
class Plan:
    """All shards of a run, the digest over theirs, and how they were cut."""

    shards: tuple[Shard, ...]
    digest: str
    cut: dict[str, int | str | None]

    def __str__(self) -> str:
        """Its inputs, in words."""
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
    limit: int | None = None,
    without: Sequence[Path] = (),
    max_bytes: int = MAX_BYTES,
    selection: Selection | None = None,
) -> Plan:
    """Lists the inputs and cuts them into shards: a tar each, else of ``rows_per_shard`` rows.

    Args:
        sources, listed, label, without, max_bytes, selection: see ``listing.list_inputs``.
        rows_per_shard: rows of a shard.
        views: rows of an image.
        limit: only this many images, the first ones.

    Raises:
        DatasetError: there are no inputs, or two have the same key.
    """
    size = max(1, rows_per_shard // views)
    batches = list_inputs(sources, listed, size, label, without, max_bytes, selection)
    _check_keys(batches)
    if limit is not None:
        batches = list(_first(batches, limit))
    if not batches:
        raise DatasetError("no images to tokenize")
    shards = []
    for number, batch in enumerate(batches):
        fields = dataclasses.asdict(batch)
        # Where they lie does not matter, so that data may be moved.
        fields["stamps"] = [(stamp.size, stamp.mtime) for stamp in batch.stamps]
        fields.pop("kinds", None)
        fields.pop("max_bytes")  # which decides what fails, as Pillow's limit does
        shards.append(Shard(number, batch, _digest(fields)))
    cut = {"rows_per_shard": rows_per_shard, "limit": limit, "label": label}
    return Plan(tuple(shards), _digest([shard.digest for shard in shards]), cut)


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
            keys, labels, stamps = batch.keys[:limit], batch.labels[:limit], batch.stamps[:limit]
            batch = dataclasses.replace(batch, keys=keys, labels=labels, stamps=stamps)
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
