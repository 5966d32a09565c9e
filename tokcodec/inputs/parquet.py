"""Parquet files with a column of images."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from tokcodec.errors import DatasetError
from tokcodec.inputs.records import MAX_TEXT, Record, stored, too_large
from tokcodec.io.find import Stamp
from tokcodec.io.parquet import batch_size
from tokcodec.io.read import MAX_BYTES
from tokcodec.io.remote import open_input, reason_of

if TYPE_CHECKING:
    import pyarrow.parquet as pq

PARQUET_SUFFIX = ".parquet"
IMAGE_COLUMNS = ("image", "img", "jpg", "png", "picture")
_BATCH_ROWS = 64  # the most that are read at once
_FREE_ROWS = 1 << 20  # that a file of any size may claim


@dataclass(frozen=True)
class Rows:
    """Rows ``start`` to ``stop`` of a Parquet file of ``total`` rows with a column of images.

    For ``label``, ``text_columns`` and ``max_bytes`` see ``listing.gather``.
    """

    stamps: tuple[Stamp]
    name: str
    start: int
    stop: int
    total: int
    label: str | None
    text_columns: tuple[str, ...] = ()
    max_bytes: int = MAX_BYTES

    def records(self) -> Iterator[Record]:
        (stamp,) = self.stamps
        row = self.start
        try:
            with _open(stamp) as file:
                image = image_column(stamp, file.schema_arrow)
                columns = [image, *([self.label] if self.label else []), *self.text_columns]
                first = 0  # row of the group
                for group in range(file.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    if first <= row < min(self.stop, first + rows):
                        size = batch_size(file, group, columns, _BATCH_ROWS)
                        batches = file.iter_batches(size, [group], columns)
                        cells = chain.from_iterable(batch.to_pylist() for batch in batches)
                        for values in islice(cells, row - first, self.stop - first):
                            yield self._record(row, values, image)
                            row += 1
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
        texts = {
            name: Record(
                f"{key}.{name}", None, partial(stored, _text(value)), self.stamps[0], str(row)
            )
            for name in self.text_columns
            if (value := values[name]) is not None
        }
        if data is None:
            data = "no image in this row"
        elif len(data) > self.max_bytes:
            data = too_large(len(data), self.max_bytes)
        size = self.stamps[0].size // self.total
        return Record(key, label, partial(stored, data), self.stamps[0], str(row), texts, size)

    @property
    def source_bytes(self) -> int:
        """The bytes of the file, in proportion to the number of these rows."""
        return self.stamps[0].size * len(self) // self.total

    def __len__(self) -> int:
        return self.stop - self.start


def _text(value: Any) -> bytes | str:
    """A cell as text, strings as they are and other values as JSON; or why it is too large."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    data = text.encode()
    return data if len(data) <= MAX_TEXT else too_large(len(data), MAX_TEXT)


def row_ranges(
    stamp: Stamp,
    name: str,
    size: int | None,
    label: str | None,
    text_columns: Sequence[str],
    max_bytes: int,
) -> Iterator[Rows]:
    try:
        with _open(stamp) as file:
            total, schema = file.metadata.num_rows, file.schema_arrow
    except DatasetError:
        raise
    except Exception as error:  # of pyarrow, or of a store behind fsspec
        raise DatasetError(f"cannot read as Parquet: {reason_of(error)}", name=stamp) from error
    if stamp.size and total > max(_FREE_ROWS, stamp.size):  # each of which would be a failed row
        raise DatasetError(
            f"damaged: claims {total:,} rows in {stamp.size:,} bytes; fetch it again", name=stamp
        )
    if len(set(schema.names)) < len(schema.names):
        raise DatasetError("two of its columns have the same name; rename one", name=stamp)
    image_column(stamp, schema)
    for column in (*([label] if label is not None else []), *text_columns):
        if column not in schema.names:
            has = ", ".join(schema.names)
            raise DatasetError(f"has no column {column}; its columns are {has}", name=stamp)
    label = label or ("label" if "label" in schema.names else None)
    size = size or max(1, total)
    for start in range(0, total, size):
        stop = min(start + size, total)
        yield Rows((stamp,), name, start, stop, total, label, tuple(text_columns), max_bytes)


@contextlib.contextmanager
def _open(stamp: Stamp) -> "Iterator[pq.ParquetFile]":
    """Open a file so that its row groups are read one page at a time."""
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DatasetError(
            "Parquet needs pyarrow: pip install 'tokcodec[parquet]'", name=stamp
        ) from error
    with open_input(stamp.path) as opened:
        yield pq.ParquetFile(
            opened, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True
        )


def image_column(stamp: Stamp, schema: Any) -> str:
    """The column of images of a Parquet file: bytes, or ``{bytes, path}``; raises DatasetError if
    there is none."""
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
    if "tokens" in schema.names:
        raise DatasetError(
            "is a token dataset, not images; decode it to images, or export it", name=stamp
        )
    raise DatasetError(
        "has no column that clearly holds images (binary, or a struct with bytes); name it "
        f"one of {', '.join(IMAGE_COLUMNS)}",
        name=stamp,
    )
