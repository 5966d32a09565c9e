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


class Output:
    """The files of an export."""

    def __init__(self, output: str | Path, form: Format, rows_per_shard: int | None) -> None:
        """Raise ArgumentError for a stream if the export has several files, OutputError for a URL
        that cannot be opened here."""
        path = location(str(output))
        self._format, self._rows_per_shard = form, rows_per_shard
        self._written: list[Record] = []
        self._folder = DatasetFolder(path.parent)
        self._name = path.name
        self._stem = path.name.removesuffix(form.suffix)
        self._is_sharded = rows_per_shard is not None
        self._unsynced = False
        self._is_stream = not self._folder.is_remote and is_stream(path)
        if self._is_stream and (self._is_sharded or form.one != "{name}"):
            raise ArgumentError(f"{path} takes one file; {form.name} has several here")

    def check(self, dataset: str | Path, force: bool) -> None:
        """Raise OutputError if the first file exists and may not be replaced."""
        name = self._shard_name(0)
        if not self._folder.is_remote:
            single_job(dataset, self._folder / name).check(force)
        elif self._folder.exists(name) and not force:
            raise OutputError("already exists", name=self._folder / name, hint=Hint.OVERWRITE)

    def write(self, facts: Facts, rows: Iterator[Rows], dataset: Path) -> int:
        """Write the rows of a dataset, and return their number; the first shard appears last.

        Raises:
            DatasetError: the dataset has no rows.
            OutputError: a file cannot be written.
        """
        with contextlib.ExitStack() as first:
            for number, part in _shards(rows, self._rows_per_shard):
                name = self._shard_name(number)
                written: Record = {"name": name, "rows": 0}
                with contextlib.ExitStack() as stack:
                    file = (stack if number else first).enter_context(self._open(name))
                    index = None
                    if self._format.indexed and not self._is_stream:
                        index = stack.enter_context(self._open(self._index_name(number)))
                    counted = _counted(part, written, index)
                    self._format.write(
                        Shard(name, file, counted, facts, self._open_other, self._discard)
                    )
                    if not number:
                        self._discard(name)  # before anything new appears
                    written["bytes"] = file.seek(0, os.SEEK_END)
                self._written.append(written)
            if not self._written:
                raise DatasetError("holds no rows", name=dataset)
            self._finish(facts)
        return sum(shard["rows"] for shard in self._written)

    def _shard_name(self, number: int) -> str:
        """The name of a shard."""
        template = self._format.many if self._is_sharded else self._format.one
        assert template is not None
        return template.format(
            name=self._name, stem=self._stem, suffix=self._format.suffix, number=number
        )

    def _index_name(self, number: int) -> str:
        """The name of the index of a shard."""
        return f"{self._shard_name(number) if self._is_sharded else self._name}.index.jsonl"

    def _open_other(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Open a further file; there may be millions, so they are synced together at the end."""
        self._unsynced = not self._folder.is_remote
        return self._open(name, sync=False)

    @contextlib.contextmanager
    def _open(self, name: str, sync: bool = True) -> Iterator[IO[bytes]]:
        with self._folder.writing(name, sync) as file:
            yield file
            if self._folder.is_remote:  # where nothing is replaced
                self._discard(name)

    def _discard(self, name: str) -> bool:
        if self._is_stream or not self._folder.exists(name):
            return False
        self._folder.remove(name)
        return True

    def _finish(self, facts: Facts) -> None:
        """Write the files about all shards, and remove further shards of an earlier export."""
        if self._is_stream:
            return
        if self._unsynced:
            os.sync()
        number = len(self._written)
        while self._is_sharded and self._discard(self._shard_name(number)):
            self._discard(self._index_name(number))
            number += 1
        rows = sum(shard["rows"] for shard in self._written)
        meta = json.dumps({**facts.meta, "rows": rows, "files": self._written}, indent=1)
        texts = [(f"{self._name}.meta.json", meta)]
        if self._format.finish:
            texts.append(self._format.finish(self._stem, facts, self._written))
        for name, text in texts:
            with self._open(name) as file:
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
