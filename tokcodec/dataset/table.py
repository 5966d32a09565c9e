"""The Parquet files of a token dataset: their columns, their metadata, written whole.

Columns: ``key``, ``label``, ``view``, ``width``, ``height``, ``tokens``, ``status``, ``error``;
``rows`` and ``columns`` of the tokens in the native fit; and ``txt`` and ``json`` where the inputs
are tars. ``tokens`` is null on failure.

Metadata, beside the columns:

===================  ===========================================================================
``tokcodec.config``   canonical JSON of the model's ``ModelConfig``
``tokcodec.model_id``  64 hex digits
``tokcodec.run``      JSON: fit, views, dtype, device, compute batch, versions
``tokcodec.plan``     digest of the whole plan that the file is part of
``tokcodec.shards``   number of files that the plan has
``tokcodec.shard``    digest of the inputs of this file
``tokcodec.inputs``   SHA-256 over the bytes of these inputs
===================  ===========================================================================
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from tokcodec.config import ModelConfig
from tokcodec.config.geometry import FITS
from tokcodec.dataset.views import Views
from tokcodec.errors import ConfigError, DatasetError, quoted
from tokcodec.io.files import write_atomically
from tokcodec.io.json import parse_json
from tokcodec.io.remote import is_remote, open_input, put, reason_of

if TYPE_CHECKING:
    import pyarrow as pa

# Of a row group: what a reader of one random row has to decode.
_GROUP = 512
COMPANIONS = ("txt", "json")
SHAPE = ("rows", "columns")


@dataclass(frozen=True)
class Row:
    """One row; ``tokens`` int64 [N], or None with the reason in ``error``; the shape of the tokens
    where these have rows and columns of their own."""

    key: str
    label: str | None
    view: int
    width: int | None
    height: int | None
    tokens: NDArray[Any] | None
    error: str | None
    companions: dict[str, str]
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Metadata:
    """What a file says of itself."""

    model: ModelConfig
    model_id: str
    run: dict[str, Any]
    plan: str
    shards: int
    shard: str
    inputs: str

    @property
    def native(self) -> bool:
        """Whether every row has rows and columns of tokens of its own."""
        return self.run.get("fit") == "native"

    def to_arrow(self) -> dict[str, str]:
        return {
            "tokcodec.config": self.model.to_json(),
            "tokcodec.model_id": self.model_id,
            "tokcodec.run": json.dumps(self.run, sort_keys=True),
            "tokcodec.plan": self.plan,
            "tokcodec.shards": str(self.shards),
            "tokcodec.shard": self.shard,
            "tokcodec.inputs": self.inputs,
        }


def opened(path: Path) -> Any:
    """What pyarrow reads of a file: its path, or a remote one opened.

    Raises:
        OSError: it cannot be opened.
    """
    return open_input(path) if is_remote(path) else path


@contextlib.contextmanager
def reading(path: Path, remedy: str = "fetch or make it again") -> Iterator[None]:
    """While rows of a file are read.

    Raises:
        DatasetError: the file cannot be read; with what to do.
    """
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: damaged: {reason_of(error)}; {remedy}") from error


def read_metadata(path: Path) -> Metadata:
    """The metadata of a dataset's file.

    Raises:
        DatasetError: it cannot be read as Parquet, or is no token dataset.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_schema(opened(path))
        fields: dict[bytes, bytes] = columns.metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: cannot read as Parquet: {reason_of(error)}") from error

    def said(name: str) -> str:
        return fields[f"tokcodec.{name}".encode()].decode()

    try:
        metadata = Metadata(
            model=ModelConfig.from_json(said("config")),
            model_id=said("model_id"),
            run=parse_json(said("run")),
            plan=said("plan"),
            shards=int(said("shards")),
            shard=said("shard"),
            inputs=said("inputs"),
        )
        kind = dict(zip(columns.names, columns.types, strict=True))["tokens"]
        if not (pa.types.is_list(kind) and pa.types.is_integer(kind.value_type)):
            raise DatasetError(f"{path}: not a token dataset (its tokens are {kind})")
        _check(metadata, columns)
    except ConfigError as error:
        raise DatasetError(f"{path}: {error}") from error
    except KeyError as error:
        raise DatasetError(f"{path}: not a token dataset (no {error.args[0]!r} in it)") from error
    except ValueError as error:
        raise DatasetError(f"{path}: its metadata is damaged: {error}") from error
    return metadata


def _check(metadata: Metadata, columns: "pa.Schema") -> None:
    """
    Raises:
        ValueError: what readers count on is not so.
    """
    run = metadata.run
    if not isinstance(run, dict):
        raise ValueError("tokcodec.run is no JSON object")
    if not re.fullmatch("[0-9a-f]{64}", metadata.model_id):
        raise ValueError("tokcodec.model_id is not 64 hex digits")
    for name, known in (("fit", FITS), ("views", get_args(Views))):
        if run[name] not in known:
            raise ValueError(f"{name} {quoted(run[name])}, not one of {', '.join(known)}")
    tokens, most = run["tokens"], metadata.model.num_tokens
    counted = type(tokens) is int and 1 <= tokens <= most
    if not (tokens is None if metadata.native else counted):
        raise ValueError(f"tokens {quoted(tokens)} of a {run['fit']} fit, {most} tokens a tile")
    for field in schema(metadata.model, (), metadata.native):
        place = columns.get_field_index(field.name)
        kind = "not there, or twice" if place < 0 else columns.types[place]
        if field.name != "tokens" and kind != field.type:
            raise ValueError(f"column {field.name} is {kind}; it should be {field.type}")


def schema(config: ModelConfig, companions: Sequence[str], native: bool = False) -> "pa.Schema":
    """The columns; tokens are uint16, or uint32 where K is above 65,536."""
    import pyarrow as pa

    small = config.quantizer.codebook_size <= 1 << 16
    columns = {
        "key": pa.string(),
        "label": pa.string(),
        "view": pa.uint8(),
        "width": pa.int32(),
        "height": pa.int32(),
        "tokens": pa.list_(pa.uint16() if small else pa.uint32()),
        "status": pa.string(),
        "error": pa.string(),
        **(dict.fromkeys(SHAPE, pa.int32()) if native else {}),
        **dict.fromkeys(companions, pa.string()),
    }
    return pa.schema(columns)


def write_rows(
    path: Path, rows: Sequence[Row], metadata: Metadata, companions: Sequence[str]
) -> None:
    """Writes a file, whole or not at all, to a path or a store.

    Raises:
        OutputError: the file system refused.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = schema(metadata.model, companions, metadata.native)
    tokens = [row.tokens for row in rows]
    lengths = [0 if t is None else len(t) for t in tokens]
    values = np.concatenate([t for t in tokens if t is not None] or [np.zeros(0)])
    kind = columns.field("tokens").type
    lists = pa.ListArray.from_arrays(
        pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)),
        pa.array(values.astype(kind.value_type.to_pandas_dtype())),
        type=kind,
        mask=pa.array([t is None for t in tokens], pa.bool_()),
    )
    arrays = {
        "tokens": lists,
        "status": pa.array(["ok" if t is not None else "failed" for t in tokens], pa.string()),
    }
    for name in ("key", "label", "view", "width", "height", "error"):
        arrays[name] = pa.array([getattr(row, name) for row in rows], columns.field(name).type)
    if metadata.native:
        for axis, name in enumerate(SHAPE):
            arrays[name] = pa.array([row.shape and row.shape[axis] for row in rows], pa.int32())
    for name in companions:
        arrays[name] = pa.array([row.companions.get(name) for row in rows], pa.string())
    table = pa.table(
        [arrays[name] for name in columns.names],
        schema=columns.with_metadata(metadata.to_arrow()),
    )
    _write(path, lambda file: pq.write_table(table, file, row_group_size=_GROUP))


def merge(path: Path, parts: Iterable[Path], metadata: Metadata) -> None:
    """Joins the files of a run to one, row group by row group.

    Raises:
        OutputError: the file system refused.
    """
    import pyarrow.parquet as pq

    def write(file: Any) -> None:
        writer = None
        for part in parts:
            source = pq.ParquetFile(opened(part))
            if writer is None:
                columns = source.schema_arrow.with_metadata(metadata.to_arrow())
                writer = pq.ParquetWriter(file, columns)
            for group in range(source.num_row_groups):
                table = source.read_row_group(group)
                writer.write_table(table.cast(columns), row_group_size=_GROUP)
        assert writer
        writer.close()

    _write(path, write)


def _write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    if is_remote(path):
        put(path, write)
    else:
        write_atomically(path, write, durable=True)
