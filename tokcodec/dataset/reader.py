"""Reading token datasets: a batch of rows at a time, or row by row. No torch."""

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
from tokcodec.io.parquet import rows_at_once
from tokcodec.io.remote import location, reason_of
from tokcodec.tokenfile import ID_BYTES, TokenFile

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class TokenRows:
    """A token dataset: the names of its files in order, and their metadata."""

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
    def files(self) -> tuple[Path, ...]:
        """The paths of its files."""
        return tuple(self.folder / name for name in self.names)

    @property
    def file_bytes(self) -> int:
        """The size of its files together."""
        return sum(map(self.folder.size, self.names))

    @property
    def written_at(self) -> int | None:
        """When the newest of its files was written, in nanoseconds; None in a store."""
        times = [self.folder.written_at(name) for name in self.names]
        return max((time for time in times if time is not None), default=None)

    def columns(self, *names: str) -> Iterator[tuple[Path, dict[str, Any]]]:
        """These columns, a batch of rows at a time: its file, and arrays of pyarrow by name.

        Raises:
            DatasetError: a file cannot be read, has no such column, or has other rows than it
                says; or rows with tokens are not those that are ok.
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
                count = 0
                # A damaged file may claim row groups of any size. What pyarrow says of a column's
                # chunks would tell more, but asking for that of a damaged footer ends the process.
                try:
                    size = rows_at_once(source.schema_arrow, wanted, ROWS_AT_A_TIME)
                except DatasetError as error:
                    raise error.named(self.folder / file) from error
                for batch in source.iter_batches(size, columns=sorted(wanted)):
                    if "tokens" in names:
                        check_status(batch, self.folder / file)
                    count += batch.num_rows
                    yield self.folder / file, {name: batch.column(name) for name in names}
                if count != (claimed := source.metadata.num_rows):
                    raise DatasetError(
                        f"damaged: holds {count:,} of {counted(claimed, 'row')}; fetch or make "
                        "it again",
                        name=self.folder / file,
                    )

    def tokens(self) -> Iterator[NDArray[Any]]:
        """All tokens, a batch of rows at a time: [n, N] in the smallest unsigned type, without
        failed rows. Where every row has its own grid, a row at a time: [1, N].

        Raises:
            DatasetError: as ``columns`` and ``rows``.
        """
        for file, columns in self.columns("tokens"):
            yield from self.rows(file, columns["tokens"])

    def grids(self) -> Iterator[NDArray[Any]]:
        """As ``tokens``, in rows and columns: [n, rows, columns].

        Raises:
            DatasetError: as ``columns`` and ``rows``; or rows and columns are not those of tokens.
        """
        names = ("tokens", *(GRID if self.metadata.has_grids else ()))
        for file, columns in self.columns(*names):
            yield from self.grids_of(file, columns)

    def grids_of(self, file: Path, columns: dict[str, Any]) -> Iterator[NDArray[Any]]:
        """As ``grids``, of one batch of rows; ``columns`` has its tokens and, where every row has
        its own grid, its rows and columns.

        Raises:
            DatasetError: as ``rows``; or rows and columns are not those of tokens.
        """
        parts = self.rows(file, columns["tokens"])
        shapes: Iterable[tuple[Any, ...]]
        if not self.metadata.has_grids:
            shapes = [self.metadata.grid]
        else:
            kept = columns["tokens"].is_valid()
            own = (columns[name].filter(kept).to_pylist() for name in GRID)
            shapes = zip(*own, strict=True)
        for tokens, shape in zip(parts, shapes, strict=True):
            if None in shape or math.prod(shape) != tokens.shape[1]:
                raise DatasetError(
                    f"damaged: {counted(tokens.shape[1], 'token')} as {shape}", name=file
                )
            yield tokens.reshape(-1, *shape)

    def rows(self, file: Path, column: "pa.Array") -> list[NDArray[Any]]:
        """The rows of a ``tokens`` column that did not fail, in the smallest unsigned type: one
        [n, N] or, where every row has its own grid, n times [1, N].

        Raises:
            DatasetError: as ``flat``.
        """
        tokens, lengths = self.flat(file, column)
        if not self.metadata.has_grids:
            return [tokens.reshape(-1, self.metadata.run["tokens"])]
        return [row[None] for row in np.split(tokens, lengths.cumsum())[:-1]]

    def flat(self, file: Path, column: "pa.Array") -> tuple[NDArray[Any], NDArray[Any]]:
        """The rows of a ``tokens`` column that did not fail, one after another, in the smallest
        unsigned type; and the number of tokens of each.

        Raises:
            DatasetError: a token is missing, or the codebook does not have it; with the name of
                the ``file`` that the column is from.
        """
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
        """Key and error of every row that failed.

        Raises:
            DatasetError: as ``columns``.
        """
        for file, columns in self.columns("key", "error"):
            failed = columns["error"].is_valid()
            names = ("key", "error")
            with damaged(file):
                keys, errors = (columns[name].filter(failed).to_pylist() for name in names)
            yield from zip(keys, errors, strict=True)

    def __len__(self) -> int:
        count = 0
        for name in self.names:
            with self.folder.reading(name) as source:
                count += source.metadata.num_rows
        return count


def check_status(table: "pa.RecordBatch", file: Path) -> None:
    """Refuses a row that failed and has tokens, or did not fail and has none.

    Raises:
        DatasetError: there is one; with the name of the ``file`` it is from.
    """
    import pyarrow.compute as pc

    ok = pc.equal(table.column("status"), "ok").fill_null(False)
    if not ok.equals(pc.is_valid(table.column("tokens"))):
        raise DatasetError("damaged: rows whose status and tokens disagree", name=file)


def open_dataset(path: str | Path) -> TokenRows:
    """Opens a dataset: one Parquet file, or a folder of ``shard-*.parquet``; a path, or a URL.

    Raises:
        DatasetError: it is none, files of it are missing, or they are of several runs; or pyarrow
            is not installed.
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
    """The rows that are chosen by their keys, or their numbers from 0; all if none is."""

    def __init__(self, keys: Collection[str], numbers: Collection[int]) -> None:
        self._chosen: frozenset[object] = frozenset((*keys, *numbers))
        self._missing = set(self._chosen)

    def takes(self, key: str | None, number: int) -> bool:
        """Whether a row is chosen."""
        self._missing -= {key, number}
        return not self._chosen or not self._chosen.isdisjoint((key, number))

    def check(self, name: object) -> None:
        """
        Raises:
            DatasetError: ``name``, all rows of which were asked about, has not all that are chosen.
        """
        if self._missing:
            raise DatasetError(f"no row {min(map(str, self._missing))}", name=name)


def name_of_row(key: str, view: int | None) -> str:
    """The key, with ``.view1`` behind it for a view that is not the first."""
    return key + (f".view{view}" if view else "")


def token_files(
    dataset: TokenRows, keys: Collection[str] = (), numbers: Collection[int] = ()
) -> Iterator[tuple[str, TokenFile | DatasetError]]:
    """A name and the token file of every row, or of the selected ones; for rows that failed or
    are damaged an error.

    Args:
        dataset: the rows.
        keys, numbers: of the rows, from 0; all rows if both are empty. Another view than 0 has it
            in its name: ``a.jpg.view1``.

    Raises:
        DatasetError: no row has one of these keys or numbers.
    """
    chosen = ChosenRows(keys, numbers)
    number = -1
    names = (
        "key",
        "view",
        "width",
        "height",
        "error",
        *(GRID if dataset.metadata.has_grids else ()),
        *(("box",) if dataset.metadata.has_boxes else ()),
    )
    for file, columns in dataset.columns(*names, "tokens"):
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
    """Of one row, scalars of pyarrow by name.

    Raises:
        DatasetError: it failed, or is damaged.
    """
    metadata = dataset.metadata
    try:
        if row["key"].as_py() is None:
            raise ValueError("a row without a key")
        if not row["tokens"].is_valid:
            raise FailedRowError(f"has no tokens: {row['error'].as_py()}")
        ((tokens,),) = dataset.rows(file, column)
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
    """The class of each label: the number that it is if all labels are numbers of at most 18
    digits, else its place among the sorted labels.

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
