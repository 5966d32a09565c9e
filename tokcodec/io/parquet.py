"""How much of a Parquet file to read at once, whoever wrote it."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tokcodec.errors import DatasetError
from tokcodec.io.read import expands_too_far

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_BATCH_BYTES = 64 << 20  # of a column in memory, about
_VALUE_BYTES = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}


def batch_size(file: "pq.ParquetFile", group: int, columns: Iterable[str], most: int) -> int:
    """The number of rows to read at once, so that memory follows the size of the file.

    It depends on what the footer says of these columns of the row group, and is at most ``most``.
    With a dictionary, every row may have the longest value.

    Raises:
        DatasetError: a column has far more bytes in memory than in the file.
        OSError: the footer is damaged.
    """
    row_group = file.metadata.row_group(group)
    columns = list(columns)
    size = rows_at_once(file.schema_arrow, columns, most)
    paths = [f"{file.schema.column(index).path}." for index in range(len(file.schema))]
    for name in columns:
        indices = [index for index, path in enumerate(paths) if path.startswith(f"{name}.")]
        # To ask for the column chunk of a damaged footer may end the process. To open it for
        # reading, here without reading a row, raises OSError.
        next(file.reader.iter_batches(0, [group], indices), None)
        own = [row_group.column(index) for index in indices]
        expanded = sum(
            max(
                chunk.total_uncompressed_size,
                # A run of one value has no bytes for each.
                chunk.num_values * _VALUE_BYTES.get(chunk.physical_type, 4),
            )
            for chunk in own
        )
        stored = sum(chunk.total_compressed_size for chunk in own)
        if expands_too_far(expanded, stored):
            raise DatasetError(
                f"column {name} of row group {group} expands from {stored:,} to {expanded:,} bytes"
            )
        shared = any(c.has_dictionary_page and c.physical_type == "BYTE_ARRAY" for c in own)
        rows = 1 if shared else row_group.num_rows
        size = min(size, _BATCH_BYTES * rows // max(1, expanded))
    return max(1, size)


def rows_at_once(schema: "pa.Schema", columns: Iterable[str], most: int) -> int:
    """The number of rows to read at once, at most ``most``, given the types of these columns.

    Raises:
        DatasetError: a single value of one takes too much memory.
    """
    for name in columns:
        row = _least_bytes(schema.field(schema.names.index(name)).type)
        if row > _BATCH_BYTES:
            raise DatasetError(f"each value of column {name} expands to {row:,} bytes")
        most = min(most, _BATCH_BYTES // max(1, row))
    return most


def _least_bytes(kind: "pa.DataType") -> int:
    """The bytes in memory of any value of a type, even a missing one."""
    import pyarrow as pa

    fields: list[Any] = [kind.field(index) for index in range(kind.num_fields)]
    inner = sum(_least_bytes(field.type) for field in fields)
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) * max(1, inner)
    if pa.types.is_fixed_size_binary(kind):
        return int(kind.byte_width)
    return inner or 1
