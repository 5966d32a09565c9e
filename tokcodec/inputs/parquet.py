"""Parquet files with a column of images."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from tokcodec.errors import DatasetError
from tokcodec.inputs.records import Record, Stamp, stored, too_large
from tokcodec.io.read import MAX_BYTES
from tokcodec.io.remote import open_input, reason_of

PARQUET_SUFFIX = ".parquet"
IMAGE_COLUMNS = ("image", "img", "jpg", "png", "picture")


@dataclass(frozen=True)
class Rows:
    """Rows ``start`` to ``stop`` of a Parquet file with a column of images.

    ``max_bytes`` as of ``gather``.
    """

    stamps: tuple[Stamp]
    name: str
    start: int
    stop: int
    label: str | None
    max_bytes: int = MAX_BYTES

    def records(self) -> Iterator[Record]:
        import pyarrow.parquet as pq

        (stamp,) = self.stamps
        row = self.start
        try:
            with open_input(stamp.path) as opened:
                file = pq.ParquetFile(opened)
                image = image_column(stamp, file.schema_arrow)
                columns = [image, *([self.label] if self.label else [])]
                first = 0  # row of the group
                for group in range(file.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    if first >= self.stop:
                        break
                    if first + rows > row:
                        number = first
                        for batch in file.iter_batches(64, [group], columns):
                            for values in batch.to_pylist():
                                if number == row and row < self.stop:
                                    yield self._record(row, values, image)
                                    row += 1
                                number += 1
                    first += rows
            reason = "not in the file any more"
        except Exception as error:  # of pyarrow, or of a store behind fsspec
            reason = reason_of(error)
        for missing in range(row, self.stop):
            read = partial(stored, reason)
            yield Record(f"{self.name}/{missing}", None, read, stamp, str(missing))

    def _record(self, row: int, values: dict[str, Any], image: str) -> Record:
        key = f"{self.name}/{row}"
        data = value = values[image]
        if isinstance(value, dict):
            data, key = value["bytes"], value.get("path") or key
        own = values.get(self.label) if self.label else None
        label = None if own is None else str(own)
        if data is None:
            data = "no image in this row"
        elif len(data) > self.max_bytes:
            data = too_large(len(data), self.max_bytes)
        return Record(key, label, partial(stored, data), self.stamps[0], str(row))

    def __len__(self) -> int:
        return self.stop - self.start


def row_ranges(
    stamp: Stamp, name: str, size: int | None, label: str | None, max_bytes: int
) -> Iterator[Rows]:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DatasetError(
            "Parquet needs pyarrow: pip install 'tokcodec[parquet]'", name=stamp
        ) from error
    try:
        with open_input(stamp.path) as opened:
            file = pq.ParquetFile(opened)
            total, schema = file.metadata.num_rows, file.schema_arrow
    except Exception as error:  # of pyarrow, or of a store behind fsspec
        raise DatasetError(f"cannot read as Parquet: {reason_of(error)}", name=stamp) from error
    image_column(stamp, schema)
    if label is not None and label not in schema.names:
        raise DatasetError(f"no column {label} for the label", name=stamp)
    column = label or ("label" if "label" in schema.names else None)
    size = size or max(1, total)
    for start in range(0, total, size):
        yield Rows((stamp,), name, start, min(start + size, total), column, max_bytes)


def image_column(stamp: Stamp, schema: Any) -> str:
    """The column of a Parquet file that holds images: bytes, or ``{bytes, path}``.

    Raises:
        DatasetError: there is none.
    """
    import pyarrow as pa

    def holds_images(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            index = kind.get_field_index("bytes")
            return index >= 0 and holds_images(kind.field(index).type)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    fitting: list[str] = [f.name for f in schema if holds_images(f.type)]
    names: tuple[str, ...] = (*IMAGE_COLUMNS, *(fitting if len(fitting) == 1 else ()))
    for name in names:
        if name in fitting:
            return name
    raise DatasetError(
        "no column of images (binary, or a struct with bytes) that stands out; name it one of "
        f"{', '.join(IMAGE_COLUMNS)}",
        name=stamp,
    )
