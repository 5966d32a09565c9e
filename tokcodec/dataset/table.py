"""The Parquet files of a token dataset: their columns and their metadata.

Columns: ``key``, ``source``, ``label``, ``view``, ``width``, ``height``, ``tokens``, ``status``,
``error``; ``rows`` and ``columns`` of the tokens in the fits where every image has its own grid;
``box`` (left, top, width and height in pixels) where the views are random crops; then columns of
text: ``txt`` and ``json`` beside images, and the chosen columns of Parquet inputs. ``tokens`` is
null in a failed row, and a fixed-size list where all rows have the same grid.

Metadata of the file:

===================  ===========================================================================
``tokcodec.config``   canonical JSON of the model's ``ModelConfig``
``tokcodec.model_id``  64 hex digits
``tokcodec.run``      JSON: fit, views, dtype, device, compute batch, versions
``tokcodec.plan``     digest of the whole plan that the file is part of
``tokcodec.shards``   number of files that the plan has
``tokcodec.number``   which of them this is, from 0
``tokcodec.shard``    digest of the inputs of this file
``tokcodec.inputs``   SHA-256 over the bytes of these inputs
===================  ===========================================================================
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from tokcodec.config import ModelConfig
from tokcodec.config.geometry import FITS, MAX_TILE_TOKENS, Fit
from tokcodec.dataset.views import Views
from tokcodec.errors import ConfigError, DatasetError, quoted
from tokcodec.io.json import parse_json

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROWS_AT_A_TIME = 512  # rows of a row group, and of a batch that is read
GRID = ("rows", "columns")
_EXPORTED = ("class_id", "length")  # columns that exports have besides those of a dataset
GRID_FITS = ("aspect", "native")  # in which every image has its own grid


@dataclass(frozen=True)
class Metadata:
    """The metadata of a file; see the table at the top of this module."""

    model: ModelConfig
    model_id: str
    run: dict[str, Any]
    plan: str
    shards: int
    number: int
    shard: str
    inputs: str

    @property
    def has_grids(self) -> bool:
        """Whether every row has its own number of rows and columns of tokens."""
        return self.run.get("fit") in GRID_FITS

    @property
    def has_boxes(self) -> bool:
        """Whether rows are random crops of images, and have the box of each."""
        return str(self.run.get("views")).startswith("random")

    @property
    def decoded_fit(self) -> Fit:
        """The fit of the image that the tokens of a row decode to."""
        fit: Fit = "crop" if self.run["views"] == "ten-crop" else self.run["fit"]
        return fit

    @property
    def grid(self) -> tuple[int, ...]:
        """The shape of the tokens of a row, where all rows have the same."""
        edge, tokens = self.model.preprocessing.image_size, self.run["tokens"]
        return self.model.place(self.run["fit"], (edge, edge), tokens)[1]

    def to_arrow(self) -> dict[str, str]:
        return {
            "tokcodec.config": self.model.to_json(),
            "tokcodec.model_id": self.model_id,
            "tokcodec.run": json.dumps(self.run, sort_keys=True),
            "tokcodec.plan": self.plan,
            "tokcodec.shards": str(self.shards),
            "tokcodec.number": str(self.number),
            "tokcodec.shard": self.shard,
            "tokcodec.inputs": self.inputs,
        }


def parse_metadata(columns: "pa.Schema", name: str) -> Metadata:
    """The metadata in the schema of a file; errors name the file ``name``.

    Raises:
        DatasetError: the file is not a token dataset, or its metadata is damaged.
    """
    fields: dict[bytes, bytes] = columns.metadata or {}
    if b"tokcodec.config" not in fields:
        raise DatasetError("not a token dataset; tokenize makes one of images", name=name)

    def text(field: str) -> str:
        return fields[f"tokcodec.{field}".encode()].decode()

    try:
        metadata = Metadata(
            model=ModelConfig.from_json(text("config")),
            model_id=text("model_id"),
            run=parse_json(text("run")),
            plan=text("plan"),
            shards=int(text("shards")),
            number=int(text("number")),
            shard=text("shard"),
            inputs=text("inputs"),
        )
        _check(metadata, columns)
    except ConfigError as error:
        raise DatasetError(f"{error}", name=name) from error
    except KeyError as error:
        raise DatasetError(f"its metadata has no {error.args[0]!r}", name=name) from error
    except ValueError as error:
        raise DatasetError(f"its metadata is damaged: {error}", name=name) from error
    return metadata


def _check(metadata: Metadata, columns: "pa.Schema") -> None:
    """Raise ValueError if metadata and columns are not what readers rely on."""
    run = metadata.run
    if not isinstance(run, dict):
        raise ValueError("tokcodec.run is not a JSON object")
    if not re.fullmatch("[0-9a-f]{64}", metadata.model_id):
        raise ValueError("tokcodec.model_id is not 64 hex digits")
    if run["fit"] not in FITS:
        raise ValueError(f"fit {quoted(run['fit'])}, not one of {', '.join(FITS)}")
    Views.parse(run["views"], run.get("crop_range"), run.get("seed"))
    tokens, fit, model = run["tokens"], run["fit"], metadata.model
    most = MAX_TILE_TOKENS if model.multiple else model.num_tokens
    valid = type(tokens) is int and 1 <= tokens <= most
    if valid and not metadata.has_grids:
        valid = tokens == math.prod(metadata.grid)
    if not (tokens is None if fit == "native" else valid):
        raise ValueError(f"tokens {quoted(tokens)} of the fit {fit}")
    for field in schema(metadata):
        place = columns.get_field_index(field.name)
        kind = "not there, or twice" if place < 0 else columns.types[place]
        if kind != field.type:
            raise ValueError(f"column {field.name} is {kind}; it should be {field.type}")


def schema(metadata: Metadata, text_columns: Sequence[str] = ()) -> "pa.Schema":
    """The columns; tokens are uint16, or uint32 where K is above 65,536.

    Raises:
        DatasetError: a column of text has the name of another column, here or in exports.
    """
    import pyarrow as pa

    token = pa.uint16() if metadata.model.quantizer.codebook_size <= 1 << 16 else pa.uint32()
    length = -1 if metadata.has_grids else metadata.run["tokens"]  # -1: of any length
    columns = {
        "key": pa.string(),
        "source": pa.string(),
        "label": pa.string(),
        "view": pa.uint8(),
        "width": pa.int32(),
        "height": pa.int32(),
        "tokens": pa.list_(token, length),
        "status": pa.string(),
        "error": pa.string(),
        **(dict.fromkeys(GRID, pa.int32()) if metadata.has_grids else {}),
        **({"box": pa.list_(pa.int32(), 4)} if metadata.has_boxes else {}),
    }
    for name in text_columns:
        if name in columns or name in _EXPORTED:
            whose = "token datasets" if name in columns else "exports"
            raise DatasetError(f"{whose} have a column {name} of their own; rename that one")
        columns[name] = pa.string()
    return pa.schema(columns)


def write_rows(
    file: IO[bytes],
    rows: Sequence[Mapping[str, Any]],
    metadata: Metadata,
    text_columns: Sequence[str],
) -> None:
    """Write rows as Parquet.

    A row has values by column; those that it lacks are null. Its ``tokens`` are int64 [N] or, where
    every row has its own grid, [rows, columns]. A row without tokens failed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = schema(metadata, text_columns)
    token = columns.field("tokens").type.value_type.to_pandas_dtype()

    def cells(row: Mapping[str, Any]) -> dict[str, Any]:
        tokens = row.get("tokens")
        if tokens is None:
            return {**row, "status": "failed"}
        grid = dict(zip(GRID, tokens.shape, strict=True)) if metadata.has_grids else {}
        return {**row, "tokens": tokens.ravel().astype(token), "status": "ok", **grid}

    table = pa.Table.from_pylist(
        [cells(row) for row in rows], columns.with_metadata(metadata.to_arrow())
    )
    pq.write_table(table, file, row_group_size=ROWS_AT_A_TIME, write_page_checksum=True)


def join(file: IO[bytes], shards: Iterable["pq.ParquetFile"], metadata: Metadata) -> None:
    """Write the rows of all shards to one file, one row group at a time."""
    import pyarrow.parquet as pq

    writer = None
    for shard in shards:
        if writer is None:
            columns = shard.schema_arrow.with_metadata(metadata.to_arrow())
            writer = pq.ParquetWriter(file, columns, write_page_checksum=True)
        for group in range(shard.num_row_groups):
            table = shard.read_row_group(group)
            writer.write_table(table.cast(columns), row_group_size=ROWS_AT_A_TIME)
    assert writer
    writer.close()
