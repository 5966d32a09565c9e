"""Reads token datasets a batch of rows at a time, or row by row, without torch."""

import math
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokcodec.dataset import require_pyarrow
from tokcodec.dataset.folder import DatasetFolder, damaged, files_of, shard_name
from tokcodec.dataset.table import GRID, ROWS_AT_A_TIME, Metadata
from tokcodec.errors import DatasetError, FailedRowError, counted, quoted
from tokcodec.io.parquet import batch_size
from tokcodec.io.remote import location, reason_of
from tokcodec.tokenfile import ID_BYTES, TokenFile

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class TokenRows:
    """A token dataset: the names of its files in order, and their metadata.

    Whatever reads rows raises ``DatasetError`` for a file that is damaged or cannot be read.
    """

    path: Path
    folder: DatasetFolder
    names: tuple[str, ...]
    metadata: Metadata

    def __repr__(self) -> str:
        files = counted(len(self.names), "file")
        return f"<TokenRows {self.path}: {files}, rows of {self.row}>"

    @property
    def row(self) -> str:
        """What a row holds, in words."""
        metadata = self.metadata
        count = f"{metadata.run['tokens']:,} " if metadata.run["tokens"] else ""
        if metadata.has_grids and count:
            count = f"up to {count}"
        tokens = f"{count}tokens of {metadata.model.quantizer.bits} bits"
        return f"{tokens}, {metadata.run['fit']}, model {metadata.model_id[:8]}"

    @property
    def file_bytes(self) -> int:
        """The size of its files together."""
        return sum(map(self.folder.size, self.names))

    @property
    def written_at(self) -> int | None:
        """When the newest of its files was written, in nanoseconds; None in a store."""
        times = map(self.folder.written_at, self.names)
        return max((time for time in times if time is not None), default=None)

    def columns(self, *names: str) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield these columns a batch of rows at a time: the file, and pyarrow's arrays by name.

        Raises:
            DatasetError: a file cannot be read, lacks a column, has another number of rows than it
                claims, or has rows whose status and tokens disagree.
        """
        wanted = {*names, "status"} if "tokens" in names else {*names}
        for file in self.names:
            with self.folder.reading(file) as source:
                there = source.schema_arrow.names
                if unknown := wanted.difference(there):
                    raise DatasetError(
                        f"no column {quoted(min(unknown))}; its columns are {', '.join(there)}",
                        name=self.folder / file,
                    )
                count, most = 0, self.folder.size(file)
                for group in range(source.num_row_groups):
                    try:
                        size = batch_size(source, group, wanted, ROWS_AT_A_TIME)
                    except DatasetError as error:
                        raise error.named(self.folder / file) from error
                    for batch in source.iter_batches(size, [group], sorted(wanted)):
                        if "tokens" in names:
                            _check_status(batch, self.folder / file)
                        count += batch.num_rows
                        if count > most:  # even equal rows take more, as their groups are small
                            raise DatasetError(
                                f"damaged: more rows than its {most:,} bytes can hold",
                                name=self.folder / file,
                            )
                        yield self.folder / file, {name: batch.column(name) for name in names}
                if count != (claimed := source.metadata.num_rows):
                    raise DatasetError(
                        f"damaged: holds {count:,} of {counted(claimed, 'row')}; fetch or make "
                        "it again",
                        name=self.folder / file,
                    )

    def tokens(self) -> Iterator[NDArray[Any]]:
        """All tokens, a batch of rows at a time: [n, N] in the smallest unsigned type, without
        failed rows. If every row has its own grid, a row at a time: [1, N]."""
        for grids in self.grids():
            yield grids.reshape(len(grids), -1)

    def grids(self) -> Iterator[NDArray[Any]]:
        """All tokens as from ``tokens``, but in rows and columns: [n, rows, columns]."""
        for grids, _ in self.parts():
            yield from grids

    def parts(self, *names: str) -> Iterator[tuple[list[NDArray[Any]], dict[str, list[Any]]]]:
        """Yield the tokens and these columns of rows that did not fail, a batch of rows at a time.

        The tokens are one array [n, rows, columns] or, if every row has its own grid, n arrays
        [1, rows, columns].
        """
        names = (*(GRID if self.metadata.has_grids else ()), *names)
        for file, columns in self.columns("tokens", *names):
            tokens, lengths = self.flat(file, columns["tokens"])
            kept = columns["tokens"].is_valid()
            with damaged(file):
                values = {name: columns[name].filter(kept).to_pylist() for name in names}
            if not self.metadata.has_grids:
                yield [tokens.reshape(-1, *self.metadata.grid)], values
                continue
            grids = []
            rows = np.split(tokens, lengths.cumsum())[:-1]
            for row, *shape in zip(rows, *(values[name] for name in GRID), strict=True):
                if None in shape or min(shape) < 1 or math.prod(shape) != len(row):
                    raise DatasetError(
                        f"damaged: {counted(len(row), 'token')} as {tuple(shape)}", name=file
                    )
                grids.append(row.reshape(1, *shape))
            yield grids, values

    def flat(self, file: Path, column: "pa.Array") -> tuple[NDArray[Any], NDArray[Any]]:
        """The tokens of all rows of a ``tokens`` column, concatenated, in the smallest unsigned
        type; and the number of tokens of each row that did not fail. Errors name the ``file``."""
        width, size = self.metadata.run["tokens"], self.metadata.model.quantizer.codebook_size
        kept = column.drop_null()
        flat = kept.flatten()
        if flat.null_count:
            raise DatasetError("damaged: a row with a missing token", name=file)
        tokens = flat.to_numpy()
        if (largest := tokens.max(initial=0)) >= size:
            raise DatasetError(f"damaged: token {largest:,} of a codebook of {size:,}", name=file)
        if self.metadata.has_grids:
            lengths = kept.value_lengths().to_numpy()
        else:
            lengths = np.full(len(kept), width)
        return tokens.astype(smallest_type(self.metadata)), lengths

    def failures(self) -> Iterator[tuple[str, str]]:
        """Yield the key and the error of every row that failed."""
        for file, columns in self.columns("key", "error"):
            failed = columns["error"].is_valid()
            with damaged(file):
                lists = [column.filter(failed).to_pylist() for column in columns.values()]
            yield from zip(*lists, strict=True)

    def __len__(self) -> int:
        count = 0
        for name in self.names:
            with self.folder.reading(name) as source:
                count += source.metadata.num_rows
        return count


def _check_status(table: "pa.RecordBatch", file: Path) -> None:
    """Raise DatasetError if a row that failed has tokens, or another row has none."""
    import pyarrow.compute as pc

    ok = pc.equal(table.column("status"), "ok").fill_null(False)
    if not ok.equals(pc.is_valid(table.column("tokens"))):
        raise DatasetError("damaged: rows whose status and tokens disagree", name=file)


def open_dataset(path: str | Path) -> TokenRows:
    """Open a dataset: one Parquet file, or a folder of ``shard-*.parquet``; a path or a URL.

    Raises:
        DatasetError: it is not a dataset, or incomplete, or its files are of several runs; or
            pyarrow is not installed.
    """
    require_pyarrow()
    folder, names = files_of(path)
    path = location(str(path))
    one_file = folder.path != path
    all_metadata = [folder.metadata(name) for name in names]
    first = all_metadata[0]
    for name, metadata in zip(names, all_metadata, strict=True):
        if (metadata.plan, metadata.model_id, metadata.run) != (
            first.plan,
            first.model_id,
            first.run,
        ):
            raise DatasetError(f"is of another run than {names[0]}", name=folder / name)
        if not one_file and name != shard_name(metadata.number):
            raise DatasetError(
                f"is a copy of {shard_name(metadata.number)} or was renamed; delete it, and "
                "tokenize the same sources to finish the dataset",
                name=folder / name,
            )
    if not one_file and len(names) != first.shards:
        raise DatasetError(
            f"holds {len(names):,} of {counted(first.shards, 'shard')}; tokenize the same "
            "sources to finish it",
            name=path,
        )
    return TokenRows(path, folder, names, first)


class ChosenRows:
    """A choice of rows by their keys, or their numbers from 0; all rows if it is empty."""

    def __init__(self, keys: Collection[str], numbers: Collection[int]) -> None:
        self._chosen: frozenset[object] = frozenset((*keys, *numbers))
        self._missing = set(self._chosen)

    def takes(self, key: str | None, number: int) -> bool:
        """Whether a row is chosen."""
        self._missing -= {key, number}
        return not self._chosen or not self._chosen.isdisjoint((key, number))

    def check(self, name: object) -> None:
        """Raise DatasetError if a chosen row was not among those that ``takes`` was asked about."""
        if self._missing:
            missing = min(self._missing, key=str)
            what = "number" if isinstance(missing, int) else "key"
            raise DatasetError(f"no row with the {what} {missing}", name=name)


def name_of_row(key: str, view: int | None) -> str:
    """The key of a row, followed by ``.view1`` and so on for a view that is not the first."""
    return key + (f".view{view}" if view else "")


def token_files(
    dataset: TokenRows, keys: Collection[str] = (), numbers: Collection[int] = ()
) -> Iterator[tuple[str, TokenFile | DatasetError]]:
    """Yield a name and a token file for each row, or the error of a row that failed or is damaged.

    The name is that of ``name_of_row``.

    Args:
        dataset: the dataset.
        keys, numbers: only the rows with these keys, or with these numbers from 0; all rows if
            both are empty.

    Raises:
        DatasetError: no row has one of these keys or numbers.
    """
    chosen = ChosenRows(keys, numbers)
    number = -1
    grid = GRID if dataset.metadata.has_grids else ()
    box = ("box",) if dataset.metadata.has_boxes else ()
    names = ("key", "view", "width", "height", "error", *grid, *box, "tokens")
    for file, columns in dataset.columns(*names):
        for place in range(len(columns["tokens"])):
            number += 1
            row = {name: column[place] for name, column in columns.items()}
            try:
                key, view = row["key"].as_py(), row["view"].as_py()
            except UnicodeDecodeError:
                key = view = None
            if not chosen.takes(key, number):
                continue
            name = f"row {number}" if key is None else name_of_row(key, view)
            found: TokenFile | DatasetError
            try:
                found = _token_file(dataset, file, columns["tokens"].slice(place, 1), row)
            except DatasetError as error:
                found = error
            yield name, found
    chosen.check(dataset.path)


def _token_file(
    dataset: TokenRows, file: Path, column: "pa.Array", row: dict[str, Any]
) -> TokenFile:
    """The token file of one row, of which ``row`` has pyarrow's scalars by name.

    Raises:
        DatasetError: it failed, or is damaged.
    """
    metadata = dataset.metadata
    try:
        if row["key"].as_py() is None:
            raise ValueError("a row without a key")
        if not row["tokens"].is_valid:
            raise FailedRowError(f"has no tokens: {row['error'].as_py()}")
        tokens, _ = dataset.flat(file, column)
        grid = [row[name].as_py() for name in GRID] if metadata.has_grids else metadata.grid
        size = row["width"].as_py(), row["height"].as_py()
        if metadata.has_boxes:
            _, _, *size = row["box"].as_py()
        return TokenFile.packed(
            tokens.astype(np.int64).reshape(1, *grid),
            metadata.model.quantizer.bits,
            bytes.fromhex(metadata.model_id)[:ID_BYTES],
            *size,
            metadata.decoded_fit,
        )
    except (TypeError, ValueError) as error:
        raise DatasetError(f"damaged: {reason_of(error)}", name=file) from error


def class_numbers(labels: Iterable[str]) -> dict[str, int]:
    """The class of each label: the label itself if all labels are integers of at most 18 digits,
    else its index among the sorted labels.

    >>> class_numbers(["10", "2"])
    {'2': 2, '10': 10}
    >>> class_numbers(["dog", "cat"])
    {'cat': 0, 'dog': 1}
    """
    distinct = set(labels)
    if all(re.fullmatch("0|[1-9][0-9]{0,17}", label) for label in distinct):
        return {label: int(label) for label in sorted(distinct, key=int)}
    return {label: number for number, label in enumerate(sorted(distinct))}


def smallest_type(metadata: Metadata) -> Any:
    """The unsigned type that holds every token of this codebook."""
    return np.min_scalar_type(metadata.model.quantizer.codebook_size - 1)
