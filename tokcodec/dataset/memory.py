"""Loads token datasets into memory: ``load_tokens``, and what ``TokenDataset`` needs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from tokcodec.dataset.folder import damaged
from tokcodec.dataset.reader import TokenRows, open_dataset, smallest_type
from tokcodec.dataset.table import GRID
from tokcodec.errors import DatasetError

if TYPE_CHECKING:
    import pyarrow as pa

Tokens = NDArray[Any] | list[NDArray[Any]]


@overload
def load_tokens(path: str | Path) -> Tokens: ...
@overload
def load_tokens(
    path: str | Path, columns: Sequence[str]
) -> tuple[Tokens, dict[str, NDArray[Any]]]: ...
def load_tokens(
    path: str | Path, columns: Sequence[str] | None = None
) -> Tokens | tuple[Tokens, dict[str, NDArray[Any]]]:
    """Load all tokens of a dataset in the smallest unsigned type, without failed rows.

    Returns [n, N] or, if every row has its own grid, a list of [N].

    >>> tokens = load_tokens("dataset")  # doctest: +SKIP
    >>> tokens, columns = load_tokens("dataset", ("key", "label"))  # doctest: +SKIP

    Args:
        path: a folder of shards, or one Parquet file; a path or a URL.
        columns: return also a dict of these columns, each an array of n values: text as NumPy's
            ``StringDType``, integers as int64, other numbers as float64, and lists of k numbers as
            [n, k]. A missing text is ``""``, a missing integer -1, another missing number NaN.

    Raises:
        DatasetError: see ``open_dataset``; the dataset is damaged; or a column is missing, or holds
            neither text nor numbers.
    """
    dataset = open_dataset(path)
    loaded = load(dataset, columns or ())
    tokens: Tokens
    if dataset.metadata.has_grids:
        tokens = [loaded.tokens[start:end] for start, end in pairwise(loaded.starts.tolist())]
    else:
        tokens = loaded.tokens.reshape(-1, dataset.metadata.run["tokens"])
    if columns is None:
        return tokens
    return tokens, {name: loaded.array(name) for name in columns}


@dataclass(frozen=True)
class LoadedRows:
    """The rows of a dataset that did not fail.

    Attributes:
        tokens: the tokens of all rows, concatenated, in the smallest unsigned type.
        starts: int64 [n + 1]: row i is ``tokens[starts[i] : starts[i + 1]]``.
        columns: n values each.
    """

    tokens: NDArray[Any]
    starts: NDArray[np.int64]
    columns: "dict[str, pa.ChunkedArray]"

    def array(self, name: str) -> NDArray[Any]:
        """A column as ``load_tokens`` returns it; raises DatasetError if it holds neither text nor
        numbers."""
        import pyarrow as pa

        column = self.columns[name]
        try:
            parts = [_array(chunk) for chunk in (pa.array([], column.type), *column.chunks)]
        except TypeError as error:
            raise DatasetError(f"column {name} holds neither text nor numbers: {error}") from error
        return np.concatenate(parts)


def load(rows: TokenRows, names: Iterable[str] = ()) -> LoadedRows:
    """Read and check all rows, with these columns and, if every row has its own grid, its ``rows``
    and ``columns``.

    Raises:
        DatasetError: the dataset is damaged, or a column is missing.
    """
    import pyarrow as pa

    grid = GRID if rows.metadata.has_grids else ()
    columns: dict[str, list[pa.Array]] = {name: [] for name in (*grid, *names)}
    tokens = bytearray()  # grows in place; concatenating parts would take twice the memory
    lengths: list[NDArray[Any]] = [np.zeros(1, np.int64)]
    for file, group in rows.columns("tokens", *columns):
        flat, own = rows.flat(file, group["tokens"])
        tokens += flat.tobytes()
        lengths.append(own)
        kept = group["tokens"].is_valid()
        with damaged(file):
            for name, chunks in columns.items():
                chunks.append(group[name].filter(kept))
                chunks[-1].validate(full=True)
        if grid:
            height, width = (_array(columns[name][-1]) for name in grid)
            if (
                min(height.min(initial=1), width.min(initial=1)) < 1
                or (height * width != own).any()
            ):
                raise DatasetError("damaged: a row whose tokens do not fill its grid", name=file)
    with rows.folder.reading(rows.names[0]) as source:
        types = {field.name: field.type for field in source.schema_arrow}
    with damaged(rows.path):  # if files disagree on the type of a column
        return LoadedRows(
            np.frombuffer(tokens, smallest_type(rows.metadata)),
            np.concatenate(lengths).cumsum(),
            {name: pa.chunked_array(chunks, types[name]) for name, chunks in columns.items()},
        )


def _array(column: "pa.Array") -> NDArray[Any]:
    """A column as an array; raises TypeError if it holds neither text nor numbers."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array(column.fill_null("").to_pylist(), np.dtypes.StringDType())
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        integers: NDArray[np.int64] = column.cast(pa.int64()).fill_null(-1).to_numpy()
        return integers
    if pa.types.is_floating(kind):
        floats: NDArray[np.float64] = column.cast(pa.float64()).fill_null(np.nan).to_numpy()
        return floats
    if pa.types.is_fixed_size_list(kind):
        # Missing lists have no values that flatten() would return.
        numbers = _array(column.fill_null(pa.scalar([None] * kind.list_size, kind)).flatten())
        return numbers.reshape(-1, kind.list_size)
    raise TypeError(f"its type is {kind}")
