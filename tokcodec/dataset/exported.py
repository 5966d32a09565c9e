"""Reads arrays of tokens, which ``export`` wrote or a generative model sampled, as token files."""

import contextlib
import io
import math
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat, zip_longest
from pathlib import Path
from typing import Any, cast

from numpy.typing import NDArray

from tokcodec.checkpoint import Header, find_by_model_id
from tokcodec.config.geometry import FITS, Fit
from tokcodec.dataset.formats import format_of
from tokcodec.dataset.formats.format import Exported, Record, Row, parse_meta
from tokcodec.dataset.formats.vocabulary import Vocabulary
from tokcodec.dataset.reader import ChosenRows, name_of_row
from tokcodec.dataset.table import GRID
from tokcodec.errors import DatasetError, Hint, counted, quoted
from tokcodec.io.remote import is_remote, open_input, read_bytes, reason_of
from tokcodec.tokenfile import ID_BYTES, TokenFile

_SHARD = re.compile(r"-\d{5}(?=\.\w+$)")


@dataclass(frozen=True)
class ExportedTokens:
    """A file of tokens, and the model of the tokens.

    Attributes:
        name: the name of the file, as it was given.
        source: the local file and its metadata.
        count: the number of rows; None if it is not known.
        rows: the rows, to be read once.
        header: the given checkpoint, or the one that the metadata names.
        vocabulary: the meaning of the ids.
        copy: keeps the temporary copy of a URL.
    """

    name: str
    source: Exported
    count: int | None
    rows: Iterator[Row]
    header: Header
    vocabulary: Vocabulary
    copy: object

    def token_files(
        self, keys: Collection[str] = (), numbers: Collection[int] = ()
    ) -> Iterator[tuple[str, TokenFile | DatasetError]]:
        """Yield a name and a token file for each row, or the error of a row that is damaged.

        The name is that of ``name_of_row``, or the number, ``00000``, of a row without a key.

        Args:
            keys, numbers: only the rows with these keys, or with these numbers from 0; all rows if
                both are empty.

        Raises:
            DatasetError: the file is damaged, or no row has one of these keys or numbers.
        """
        chosen = ChosenRows(keys, numbers)
        for number, (ids, record) in enumerate(self._rows()):
            key, view = record.get("key"), record.get("view")
            name = f"{number:05}"
            if isinstance(key, str) and key:
                name = name_of_row(key, view)
                name = name.encode("utf-8", "backslashreplace").decode()  # no lone surrogates
            else:
                key = None
            if not chosen.takes(key, number):
                continue
            try:
                yield name, self._token_file(ids, record)
            except (TypeError, ValueError, OverflowError) as error:
                yield name, DatasetError(f"row {number}: {error}", name=self.name)
        chosen.check(self.name)

    def _rows(self) -> Iterator[Row]:
        records = self.source.records()
        try:
            first = next(records, None)
            pairs: Iterator[tuple[Row | None, Record | None]] = (
                zip(self.rows, repeat({}), strict=False)
                if first is None
                else zip_longest(self.rows, chain([first], records))
            )
            for row, record in pairs:
                if row is None or record is None:
                    raise ValueError("its .index.jsonl is of another number of rows")
                yield row[0], {**record, **row[1]}
        except Exception as error:
            raise _unreadable(self.name, error) from error

    def _token_file(self, ids: NDArray[Any], record: Record) -> TokenFile:
        """Make the token file of a row; raises TypeError or ValueError if it is damaged."""
        config, meta = self.header.config, self.source.meta
        tokens = self.vocabulary.tokens(ids)
        size = config.quantizer.codebook_size
        for token in (tokens.min(initial=0), tokens.max(initial=0)):
            if not 0 <= token < size:
                raise ValueError(f"token {token:,} of a codebook of {size:,}")
        grid = tokens.shape
        if len(grid) == 1:
            grid = tuple(record[name] for name in GRID if name in record) or self._grid(len(tokens))
        if math.prod(grid) != tokens.size:
            raise ValueError(f"{counted(tokens.size, 'token')} as {list(grid)}")
        width, height = record.get("width"), record.get("height")
        if record.get("box"):
            _, _, width, height = record["box"]
        fit: Fit | None = meta.get("fit")
        if not (width and height and fit):  # sampled tokens: the size of the model's output
            side, multiple = config.preprocessing.image_size, config.multiple
            fit = "native" if multiple else "crop"
            height, width = (edge * multiple for edge in grid) if multiple else (side, side)
        model_id = meta.get("model_id") or self.header.model_id
        return TokenFile.packed(
            tokens.reshape(1, *grid),
            config.quantizer.bits,
            bytes.fromhex(model_id)[:ID_BYTES],
            width,
            height,
            fit,
        )

    def _grid(self, count: int) -> tuple[int, ...]:
        """The grid of this many tokens; raises ValueError if the model has no square of them."""
        config = self.header.config
        if given := self.source.meta.get("grid"):
            return tuple(given)
        side = config.preprocessing.image_size
        own, edge = config.token_shape(side, side), math.isqrt(count)
        if config.multiple and edge * edge == count:
            return edge, edge
        if count == math.prod(own) or (len(own) == 1 and count in config.token_counts):
            return own if len(own) == 2 else (count,)
        wanted = "a square, or [n, rows, columns]" if config.multiple else f"{math.prod(own):,}"
        raise ValueError(f"{counted(count, 'token')}; {self.header.name} takes {wanted}")


def open_tokens(name: str, given: Header | None = None) -> ExportedTokens:
    """Open a file of tokens, a path or a URL.

    Args:
        name: a file in a format of ``export`` that can be read: ``.npy``, ``.npz``,
            ``.safetensors``, ``.jsonl``, ``.bin`` or ``.tar``; also of another program, with tokens
            [n, N] or [n, rows, columns].
        given: the checkpoint; the one that the metadata names if None.

    Raises:
        DatasetError: the file or its metadata cannot be read; or no checkpoint is given and the
            metadata does not name one that is bundled or cached.
    """
    kind = format_of(name)
    try:
        path, copy = _local(name)
        meta = (kind.meta(path) if kind.meta else {}) or _meta_beside(name)
        model_id = bytes.fromhex(meta.get("model_id", ""))
        if meta.get("fit") not in (None, *FITS):
            raise ValueError(f"its fit is {quoted(meta['fit'])}")
        header = given or (find_by_model_id(model_id) if model_id else None)
        if header is None:
            why = f"its tokens are of model {model_id.hex()}, which is neither bundled nor cached"
            if not model_id:
                why = "it does not say which model its tokens are of"
            raise DatasetError(why, name=name, hint=Hint.NAME_WEIGHTS)
        size = header.config.quantizer.codebook_size
        vocabulary = Vocabulary(**{**meta.get("vocabulary", {}), "codebook_size": size})
        source = Exported(path, meta, partial(_records, name))
        assert kind.read
        count, rows = kind.read(source)
    except DatasetError:
        raise
    except Exception as error:  # of NumPy, zipfile, safetensors, JSON or a store
        raise _unreadable(name, error) from error
    return ExportedTokens(name, source, count, rows, header, vocabulary, copy)


def _local(name: str) -> tuple[Path, object]:
    """The path of a local file; or of a temporary copy of a URL, and the object that keeps it."""
    if not is_remote(name):
        with open(name, "rb"):
            return Path(name), None
    copy = tempfile.NamedTemporaryFile()  # noqa: SIM115 (it lives as long as what reads it)
    with open_input(name) as file:
        shutil.copyfileobj(file, copy, 1 << 20)
    copy.flush()
    return Path(copy.name), copy


def _meta_beside(name: str) -> dict[str, Any]:
    """The metadata of a file, or of the shards that it is one of; empty if there is none."""
    for stem in dict.fromkeys((name, _SHARD.sub("", name))):
        with contextlib.suppress(FileNotFoundError):
            return parse_meta(read_bytes(f"{stem}.meta.json").decode())
    return {}


def _records(name: str) -> Iterator[Record]:
    """Yield the lines of the index of a file, if it has one."""
    try:
        file = open_input(f"{name}.index.jsonl")
    except FileNotFoundError:
        return
    with io.TextIOWrapper(io.BufferedReader(cast(io.RawIOBase, file)), "utf-8") as lines:
        for line in lines:
            yield parse_meta(line)


def _unreadable(name: str, error: Exception) -> DatasetError:
    return DatasetError(f"cannot read its tokens: {reason_of(error)}", name=name)
