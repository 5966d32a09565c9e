"""The files of an export: their names, and how they appear."""

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from operator import itemgetter
from pathlib import Path
from typing import IO

from tokcodec.dataset.folder import DatasetFolder
from tokcodec.dataset.formats.format import Facts, Format, Record, Rows, Shard
from tokcodec.errors import ArgumentError, DatasetError, Hint, OutputError
from tokcodec.io.files import is_stream
from tokcodec.io.job import single_job
from tokcodec.io.remote import location


def write(
    target: "Output", facts: Facts, rows: Iterator[Rows], size: int | None, dataset: Path
) -> int:
    """Write all files, and return the number of rows; the first shard gets its name last.

    Args:
        target: the files.
        facts: about the rows.
        rows: the rows of all shards.
        size: rows of a shard; None for one shard.
        dataset: the name of the dataset, for errors.

    Raises:
        DatasetError: there are no rows.
        OutputError: a file cannot be written.
    """
    with contextlib.ExitStack() as first:
        for number, part in _shards(rows, size):
            name = target.name(number)
            written: Record = {"name": name, "rows": 0}
            with contextlib.ExitStack() as stack:
                file = (stack if number else first).enter_context(target.open(name))
                index = None
                if target.format.indexed and not target.is_stream:
                    index = stack.enter_context(target.open(target.index(number)))
                counted = _counted(part, written, index)
                target.format.write(
                    Shard(name, file, counted, facts, target.open_other, target.discard)
                )
                if not number:
                    target.discard(name)  # before anything new appears
                written["bytes"] = file.seek(0, os.SEEK_END)
            target.written.append(written)
        if not target.written:
            raise DatasetError("holds no rows", name=dataset)
        target.finish(facts)
    return sum(shard["rows"] for shard in target.written)


class Output:
    """The files of an export."""

    def __init__(self, output: str | Path, form: Format, sharded: bool) -> None:
        """Raise ArgumentError for a stream if the export has several files, OutputError for a URL
        that cannot be opened here."""
        path = location(str(output))
        self.format = form
        self.written: list[Record] = []
        self._folder = DatasetFolder(path.parent)
        self._name = path.name
        self._stem = path.name.removesuffix(form.suffix)
        self._is_sharded = sharded
        self._unsynced = False
        self.is_stream = not self._folder.is_remote and is_stream(path)
        if self.is_stream and (sharded or form.one != "{name}"):
            raise ArgumentError(f"{path} takes one file; {form.name} has several here")

    def name(self, number: int) -> str:
        """The name of a shard."""
        template = self.format.many if self._is_sharded else self.format.one
        assert template is not None
        return template.format(
            name=self._name, stem=self._stem, suffix=self.format.suffix, number=number
        )

    def index(self, number: int) -> str:
        """The name of the index of a shard."""
        return f"{self.name(number) if self._is_sharded else self._name}.index.jsonl"

    def check(self, dataset: str | Path, force: bool) -> None:
        """Raise OutputError if the first file exists and may not be replaced."""
        name = self.name(0)
        if not self._folder.is_remote:
            single_job(dataset, self._folder / name).check(force)
        elif self._folder.exists(name) and not force:
            raise OutputError("is there already", name=self._folder / name, hint=Hint.OVERWRITE)

    def open_other(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Open a further file; there may be millions, so they are synced together at the end."""
        self._unsynced = not self._folder.is_remote
        return self.open(name, sync=False)

    @contextlib.contextmanager
    def open(self, name: str, sync: bool = True) -> Iterator[IO[bytes]]:
        with self._folder.writing(name, sync) as file:
            yield file
            if self._folder.is_remote:  # where nothing is replaced
                self.discard(name)

    def discard(self, name: str) -> bool:
        if self.is_stream or not self._folder.exists(name):
            return False
        self._folder.remove(name)
        return True

    def finish(self, facts: Facts) -> None:
        """Write the files about all shards, and remove further shards of an earlier export."""
        if self.is_stream:
            return
        if self._unsynced:
            os.sync()
        number = len(self.written)
        while self._is_sharded and self.discard(self.name(number)):
            self.discard(self.index(number))
            number += 1
        rows = sum(shard["rows"] for shard in self.written)
        meta = json.dumps({**facts.meta, "rows": rows, "files": self.written}, indent=1)
        texts = [(f"{self._name}.meta.json", meta)]
        if self.format.finish:
            texts.append(self.format.finish(self._stem, facts, self.written))
        for name, text in texts:
            with self.open(name) as file:
                file.write(text.encode() + b"\n")


def _shards(rows: Iterable[Rows], size: int | None) -> Iterator[tuple[int, Iterator[Rows]]]:
    """Yield each shard's number and rows, which must be taken before those of the next."""
    most = size or sys.maxsize

    def pieces() -> Iterator[tuple[int, Rows]]:
        number, left = 0, most
        for part in rows:
            while len(part) > left:
                yield number, part[:left]
                part = part[left:]
                number, left = number + 1, most
            yield number, part
            left -= len(part)

    for number, shard in itertools.groupby(pieces(), key=itemgetter(0)):
        yield number, (part for _, part in shard)


def _counted(rows: Iterator[Rows], shard: Record, index: IO[bytes] | None) -> Iterator[Rows]:
    """The rows, which are counted in ``shard`` and added to its index as they are taken."""
    for part in rows:
        shard["rows"] += len(part)
        if index:
            for tokens, record in zip(part.tokens, part.records(), strict=True):
                line = json.dumps({**record, "length": len(tokens)}, default=str)
                index.write(line.encode() + b"\n")
        yield part
