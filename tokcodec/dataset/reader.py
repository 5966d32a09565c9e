"""Reading token datasets: whole, or row by row. No torch."""

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokcodec.dataset import require_pyarrow
from tokcodec.dataset.table import SHAPE, Metadata, opened, read_metadata, reading
from tokcodec.errors import DatasetError, FailedRowError
from tokcodec.io.remote import is_there, listed, location, reason_of
from tokcodec.tokenfile import ID_BYTES, TokenFile

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class TokenRows:
    """A token dataset on disk: its files in order, and their metadata."""

    path: Path
    files: tuple[Path, ...]
    metadata: Metadata

    def __repr__(self) -> str:
        files = "1 file" if len(self.files) == 1 else f"{len(self.files)} files"
        return f"<TokenRows {self.path}: {files}, rows of {self.row}>"

    @property
    def row(self) -> str:
        """What a row holds, in words."""
        metadata = self.metadata
        count = "" if metadata.native else f"{metadata.run['tokens']} "
        tokens = f"{count}tokens of {metadata.model.quantizer.bits} bits"
        return f"{tokens}, {metadata.run['fit']}, model {metadata.model_id[:6]}"

    def columns(self, *names: str) -> Iterator[tuple[Path, dict[str, Any]]]:
        """These columns, a row group at a time: its file, and arrays of pyarrow by name.

        Raises:
            DatasetError: a file cannot be read.
        """
        import pyarrow.parquet as pq

        for file in self.files:
            with reading(file):
                source = pq.ParquetFile(opened(file))
                for group in range(source.num_row_groups):
                    table = source.read_row_group(group, list(names))
                    yield file, {name: table.column(name).combine_chunks() for name in names}

    def tokens(self) -> Iterator[NDArray[Any]]:
        """All tokens, a row group at a time: [n, N] in the smallest unsigned type; failed rows left
        out. In the native fit, where every row has its own number of tokens, one at a time: [1, N].

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
        side = self.metadata.model.preprocessing.image_size
        names = ("tokens", *(SHAPE if self.metadata.native else ()))
        for file, columns in self.columns(*names):
            parts = self.rows(file, columns["tokens"])
            shapes: Iterable[tuple[Any, ...]] = [self.metadata.model.token_shape(side, side)]
            if self.metadata.native:
                kept = columns["tokens"].is_valid()
                own = (columns[name].filter(kept).to_pylist() for name in SHAPE)
                shapes = zip(*own, strict=True)
            for tokens, shape in zip(parts, shapes, strict=True):
                if None in shape or math.prod(shape) != tokens.shape[1]:
                    raise DatasetError(f"{file}: damaged: {tokens.shape[1]} tokens as {shape}")
                yield tokens.reshape(-1, *shape)

    def rows(self, file: Path, column: "pa.ListArray") -> list[NDArray[Any]]:
        """Of a ``tokens`` column the rows that did not fail, in the smallest unsigned type: one
        [n, N], or in the native fit n times [1, N].

        Raises:
            DatasetError: a row of another length, or with tokens that the codebook does not have;
                with the name of the ``file`` it is from.
        """
        width, size = self.metadata.run["tokens"], self.metadata.model.quantizer.codebook_size
        kept = column.drop_null()
        lengths, flat = kept.value_lengths().to_numpy(), kept.flatten()
        if flat.null_count or not (self.metadata.native or (lengths == width).all()):
            raise DatasetError(f"{file}: damaged: a row that has not {width} tokens")
        tokens = flat.to_numpy(zero_copy_only=False)
        for token in (tokens.min(initial=0), tokens.max(initial=0)):
            if not 0 <= token < size:
                raise DatasetError(f"{file}: damaged: token {token} of a codebook of {size}")
        tokens = tokens.astype(smallest_type(self.metadata))
        if not self.metadata.native:
            return [tokens.reshape(-1, width)]
        return [row[None] for row in np.split(tokens, lengths.cumsum())[:-1]]

    def failures(self) -> Iterator[tuple[str, str]]:
        """Key and error of every row that failed.

        Raises:
            DatasetError: as ``columns``.
        """
        for file, columns in self.columns("key", "error"):
            failed = columns["error"].is_valid()
            names = ("key", "error")
            with reading(file):
                keys, errors = (columns[name].filter(failed).to_pylist() for name in names)
            yield from zip(keys, errors, strict=True)

    def __len__(self) -> int:
        import pyarrow.parquet as pq

        count = 0
        for file in self.files:
            with reading(file):
                count += pq.read_metadata(opened(file)).num_rows
        return count


def open_dataset(path: str | Path) -> TokenRows:
    """Opens a dataset: one Parquet file, or a folder of ``shard-*.parquet``; a path, or a URL.

    Raises:
        DatasetError: it is none, files of it are missing, or they are of several runs; or pyarrow
            is not installed.
    """
    require_pyarrow()
    path = location(path) if isinstance(path, str) else path
    try:
        files = tuple(listed(path, "shard-*.parquet"))
        whole = not files and is_there(path) and not path.is_dir()
    except OSError as error:
        raise DatasetError(f"{path}: cannot read: {reason_of(error)}") from error
    if whole:
        files = (path,)
    if not files:
        raise DatasetError(f"{path}: no token dataset: neither a file nor a folder of shards")
    all_metadata = [read_metadata(file) for file in files]
    first = all_metadata[0]
    for file, metadata in zip(files, all_metadata, strict=True):
        if (metadata.plan, metadata.model_id, metadata.run) != (
            first.plan,
            first.model_id,
            first.run,
        ):
            raise DatasetError(f"{file}: is of another run than {files[0].name}")
    if not whole and len(files) != first.shards:
        raise DatasetError(
            f"{path}: holds {len(files)} of {first.shards} shards; "
            "run its tokenize command again to finish it"
        )
    return TokenRows(path, files, first)


def load_tokens(path: str | Path) -> NDArray[Any] | list[NDArray[Any]]:
    """All tokens of a dataset in the smallest unsigned type, failed rows left out: [n, N], or in
    the native fit, where every row has its own number of tokens, a list of [N].

    Raises:
        DatasetError: as ``open_dataset``; or the dataset is damaged.
    """
    dataset = open_dataset(path)
    parts = list(dataset.tokens())
    if dataset.metadata.native:
        return [row for part in parts for row in part]
    width = dataset.metadata.run["tokens"]
    kind = smallest_type(dataset.metadata)
    return np.concatenate(parts) if parts else np.empty((0, width), kind)


def token_files(
    dataset: TokenRows, selected: Collection[str] = ()
) -> Iterator[tuple[str, TokenFile | DatasetError]]:
    """A name and the token file of every row, or of the selected ones; for rows that failed or
    are damaged an error.

    Args:
        dataset: the rows.
        selected: keys, or numbers of rows from 0; all rows if empty. Another view than 0 has it
            in its name: ``a.jpg.view1``.

    Raises:
        DatasetError: nothing has a selected key or number.
    """
    chosen, missing = set(selected), set(selected)
    number = -1
    shape = SHAPE if dataset.metadata.native else ()
    names = ("key", "view", "width", "height", "error", *shape)
    for file, columns in dataset.columns(*names, "tokens"):
        for place in range(len(columns["tokens"])):
            number += 1
            row = {name: column[place] for name, column in columns.items()}
            try:
                key, view = row["key"].as_py(), row["view"].as_py()
            except UnicodeDecodeError:
                key = view = None
            known = {str(number)} if key is None else {key, str(number)}
            if chosen and not known & chosen:
                continue
            missing -= known
            name = f"row {number}" if key is None else key + (f".view{view}" if view else "")
            found: TokenFile | DatasetError
            try:
                found = _token_file(dataset, file, columns["tokens"].slice(place, 1), row)
            except DatasetError as error:
                found = error
            yield name, found
    if missing:
        raise DatasetError(f"{dataset.path}: no row {sorted(missing)[0]}")


def _token_file(
    dataset: TokenRows, file: Path, column: "pa.ListArray", row: dict[str, Any]
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
        (tokens,) = dataset.rows(file, column)
        side = metadata.model.preprocessing.image_size
        shape = metadata.model.token_shape(side, side)
        if metadata.native:
            shape = tuple(row[name].as_py() for name in SHAPE)
        if metadata.model.has_grid:
            tokens = tokens.reshape(-1, *shape)
        return TokenFile.packed(
            tokens.astype(np.int64),
            metadata.model.quantizer.bits,
            bytes.fromhex(metadata.model_id)[:ID_BYTES],
            row["width"].as_py(),
            row["height"].as_py(),
            "crop" if metadata.run["views"] == "ten-crop" else metadata.run["fit"],
        )
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{file}: damaged: {reason_of(error)}") from error


def smallest_type(metadata: Metadata) -> Any:
    """The unsigned type that holds every token of this codebook."""
    return np.min_scalar_type(metadata.model.quantizer.codebook_size - 1)
