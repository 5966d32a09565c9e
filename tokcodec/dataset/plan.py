"""The plan of a run: its inputs cut into shards, each with a digest that says what goes into it."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokcodec.dataset.sources import Batch, Files, Rows, Tar, list_inputs
from tokcodec.errors import DatasetError


@dataclass(frozen=True)
class Shard:
    """The unit of work: one output file.

    Attributes:
        number: its place in the plan.
        batch: its inputs.
        digest: SHA-256, in hex, over keys, labels, and path, size and mtime of every input.
    """

    number: int
    batch: Batch
    digest: str

    @property
    def name(self) -> str:
        return f"part-{self.number:05}.parquet"


@dataclass(frozen=True)
class Plan:
    """All shards of a run, and the digest over theirs."""

    shards: tuple[Shard, ...]
    digest: str

    def part(self, index: int, count: int) -> tuple[Shard, ...]:
        """Part ``index`` of ``count``, from 0: every ``count``-th shard."""
        return self.shards[index::count]


def make_plan(
    sources: Sequence[str],
    listed: Sequence[str],
    rows_per_shard: int,
    views: int,
    label: str | None,
    limit: int | None,
) -> Plan:
    """Lists the inputs and cuts them into shards: one a tar, else of ``rows_per_shard`` rows.

    Args:
        sources, listed, label: see ``sources.list_inputs``.
        rows_per_shard: rows of a shard; a picture has ``views`` of them.
        limit: only so many pictures, the first ones.

    Raises:
        DatasetError: no inputs, or two of one key.
    """
    batches = list_inputs(sources, listed, max(1, rows_per_shard // views), label)
    if limit is not None:
        batches = list(_first(batches, limit))
    if not batches:
        raise DatasetError("no pictures to tokenize")
    shards = []
    for number, batch in enumerate(batches):
        shards.append(Shard(number, batch, _digest(dataclasses.asdict(batch))))
    return Plan(tuple(shards), _digest([shard.digest for shard in shards]))


def _first(batches: Sequence[Batch], limit: int) -> Iterator[Batch]:
    for batch in batches:
        if limit == 0:
            return
        if isinstance(batch, Files):
            keys, labels, stamps = batch.keys[:limit], batch.labels[:limit], batch.stamps[:limit]
            batch = Files(keys, labels, stamps)
            count = len(batch)
        elif isinstance(batch, Rows):
            batch = dataclasses.replace(batch, stop=min(batch.stop, batch.start + limit))
            count = len(batch)
        else:
            batch = Tar(batch.stamps, limit)
            count = sum(1 for _ in batch.records())
        yield batch
        limit -= count


def _digest(fields: object) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
