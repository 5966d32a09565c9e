"""What holds the tokens of many images in one source: a token dataset, or a file of tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokcodec.checkpoint import Header
from tokcodec.dataset import require_pyarrow
from tokcodec.dataset.exported import open_tokens
from tokcodec.dataset.formats import is_export
from tokcodec.errors import DatasetError
from tokcodec.io.remote import is_remote
from tokcodec.tokenfile import TokenFile


@dataclass(frozen=True)
class Table:
    """Rows of tokens in one source.

    Attributes:
        name: of the source.
        count: the number of rows; None if it is not known.
        mtime: when it was written, as of ``Stamp``.
        rows: a name and a token file, or an error, for each row.
    """

    name: str
    count: int | None
    mtime: str
    rows: Iterator[tuple[str, TokenFile | DatasetError]]

    @classmethod
    def open(
        cls, name: str, given: Header | None, keys: Sequence[str], numbers: Sequence[int]
    ) -> "Table":
        """A token dataset, or a file of tokens.

        Raises:
            DatasetError: it cannot be read.
        """
        chosen = len(keys) + len(numbers)
        if is_export(name):
            tokens = open_tokens(name, given)
            mtime = "" if is_remote(name) else str(Path(name).stat().st_mtime_ns)
            return cls(name, chosen or tokens.count, mtime, tokens.token_files(keys, numbers))
        require_pyarrow()
        from tokcodec.dataset.reader import open_dataset, token_files

        dataset = open_dataset(name)
        mtime = "" if dataset.written_at is None else str(dataset.written_at)
        return cls(name, chosen or len(dataset), mtime, token_files(dataset, keys, numbers))
