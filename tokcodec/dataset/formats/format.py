"""``Format``: a format of exports, and the data that it writes and reads."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tokcodec.dataset.formats.vocabulary import Vocabulary
from tokcodec.io.json import parse_json

_LONGEST_META = 1 << 26  # characters; the classes are among them

Record = dict[str, Any]  # the columns of one row, by name
Row = tuple[NDArray[Any], Record]  # its tokens, [N] or [rows, columns], and other columns
Kind = Literal["int", "str", "json"]


@dataclass(frozen=True)
class Rows:
    """Consecutive rows.

    Attributes:
        tokens: [n, N]; or a list of [N] where rows differ in length.
        columns: the other columns, n values each.
    """

    tokens: NDArray[Any] | list[NDArray[Any]]
    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, some: slice) -> "Rows":
        columns = {name: values[some] for name, values in self.columns.items()}
        return Rows(self.tokens[some], columns)

    def records(self) -> Iterator[Record]:
        """The columns of each row."""
        for values in zip(*self.columns.values(), strict=True):
            yield dict(zip(self.columns, values, strict=True))


@dataclass(frozen=True)
class Facts:
    """What holds for all rows of an export.

    Attributes:
        dtype: the type of the tokens.
        length: the number of tokens of every row, with special ones; None if rows differ.
        vocabulary: the meaning of the tokens.
        kinds: the kinds of the other columns, by name.
        meta: the fields of ``NAME.meta.json`` except those about files, for formats that can hold
            them.
    """

    dtype: "np.dtype[Any]"
    length: int | None
    vocabulary: Vocabulary
    kinds: dict[str, Kind]
    meta: dict[str, Any]


@dataclass(frozen=True)
class Shard:
    """A file to write.

    Attributes:
        name: the name of the file, below the folder of the export.
        file: the file, open for writing and seekable.
        rows: the rows, to be read once.
        facts: what holds for them.
        open: opens another file of the export by its name, which appears when it is closed.
        discard: removes a file of an earlier export by its name; returns whether it existed.
    """

    name: str
    file: IO[bytes]
    rows: Iterator[Rows]
    facts: Facts
    open: Callable[[str], AbstractContextManager[IO[bytes]]]
    discard: Callable[[str], bool]


@dataclass(frozen=True)
class Exported:
    """An exported file to read.

    Attributes:
        path: a local file.
        meta: the fields of ``NAME.meta.json``; empty if there is no such file.
        records: yields the lines of ``NAME.index.jsonl``; none if there is no such file.
    """

    path: Path
    meta: dict[str, Any]
    records: Callable[[], Iterator[Record]]


@dataclass(frozen=True)
class Format:
    """A format of exports.

    Attributes:
        name: as users write it.
        reader: the programs that read it.
        suffix: the suffix of its files.
        dtypes: the types of tokens, the preferred ones first.
        write: writes a shard.
        read: returns the number of rows, or None if it is not known, and an iterator over the rows;
            raises any error if the file is not of the format. None if the format is not read.
        meta: returns the fields of ``NAME.meta.json`` in the file itself; raises as ``read``.
        finish: returns the name and the content of a file about all shards, from the stem of the
            export, the facts, and a name, a number of rows and bytes for each shard.
        one, many: the name of the only shard, and of shard ``number``; None if there is only one.
        indexed: whether the other columns go to an index next to the file.
        ragged: whether rows may differ in length.
        labelled: whether every row needs a label.
    """

    name: str
    reader: str
    suffix: str
    dtypes: tuple[str, ...]
    write: Callable[[Shard], None]
    read: Callable[[Exported], tuple[int | None, Iterator[Row]]] | None = None
    meta: Callable[[Path], dict[str, Any]] | None = None
    finish: Callable[[str, Facts, list[Record]], tuple[str, str]] | None = None
    one: str = "{name}"
    many: str | None = "{stem}-{number:05}{suffix}"
    indexed: bool = False
    ragged: bool = True
    labelled: bool = False


def parse_meta(text: str) -> dict[str, Any]:
    """Parse ``NAME.meta.json``, or a line of ``NAME.index.jsonl``; raises ValueError."""
    meta = parse_json(text, _LONGEST_META)
    if not isinstance(meta, dict):
        raise ValueError("its metadata is not a JSON object")
    return meta
