"""``DatasetFolder``: the folder of the files of a token dataset, on disk or in a store.

Only this module names, lists, writes and locks shards. A file appears only when it is complete.
"""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tokcodec.dataset import require_pyarrow
from tokcodec.dataset.table import Metadata, parse_metadata
from tokcodec.errors import DatasetError, Hint, OutputError
from tokcodec.io import files, remote
from tokcodec.io.lock import LOCK, locked
from tokcodec.io.remote import is_remote, location, open_input, reason_of, retried

if TYPE_CHECKING:
    import pyarrow.parquet as pq

ONE_FILE = ".parquet"  # a dataset with this suffix is a single file
_SHARDS = "shard-*.parquet"


def shard_name(number: int) -> str:
    """The name of a shard's file."""
    return f"shard-{number:05}.parquet"


def is_dataset(path: str | Path) -> bool:
    """Whether a path looks like a token dataset: a Parquet file, or a folder of shards."""
    folder = DatasetFolder(path)
    return folder.path.suffix == ONE_FILE or bool(folder.shards())


def files_of(path: str | Path) -> "tuple[DatasetFolder, tuple[str, ...]]":
    """The folder of a dataset, and the names of its files in it: shards, or the one file.

    Raises:
        DatasetError: there are none, or the store does not answer.
    """
    folder = DatasetFolder(path)
    if shards := folder.shards():
        return folder, tuple(shards)
    parent = DatasetFolder(folder.path.parent)
    if not folder.is_remote and folder.path.is_dir():
        raise DatasetError("this folder holds no shards of a token dataset", name=path)
    if not parent.exists(folder.path.name):
        raise DatasetError("no such token dataset", name=path)
    return parent, (folder.path.name,)


def holds_tokens(path: str | Path) -> bool:
    """Whether a path for which ``is_dataset`` is true holds tokens, and not images."""
    folder, names = files_of(path)
    try:
        folder.metadata(names[0])
    except DatasetError:
        return False
    return True


class DatasetFolder:
    """A folder of Parquet files, local or a URL. What fails for a while in a store is retried.

    Methods that read raise ``DatasetError``, those that write ``OutputError``; both name the file.

    Attributes:
        path: the folder.
        is_remote: it is in a store, where every look takes a request.
        temporary: remove the folder when a run ends and no shards are left in it.
    """

    def __init__(self, path: str | Path, temporary: bool = False) -> None:
        """
        Raises:
            OutputError: the path is a URL that cannot be opened here.
        """
        self.path = location(path) if isinstance(path, str) else path
        self.temporary = temporary
        self.is_remote = is_remote(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def shards(self) -> list[str]:
        """The names of the shards in the folder, in order; empty if there is no folder."""

        def names() -> list[str]:
            return [path.name for path in self.path.glob(_SHARDS)]

        with _naming(self.path):
            found = retried(names) if self.is_remote else names()
        return sorted(found, key=lambda name: (len(name), name))

    def exists(self, name: str) -> bool:
        """Whether the folder has a file of this name."""
        path = self / name
        with _naming(path):
            return remote.is_file(str(path)) if self.is_remote else path.is_file()

    def size(self, name: str) -> int:
        """The bytes of a file."""
        stat = (self / name).stat
        with _naming(self / name):
            return (retried(stat) if self.is_remote else stat()).st_size

    def written_at(self, name: str) -> int | None:
        """When a file was written, in nanoseconds; None in a store, which has another clock."""
        with _naming(self / name):
            return None if self.is_remote else (self / name).stat().st_mtime_ns

    def open(self, name: str) -> "pq.ParquetFile":
        """Open a file for reading; see ``reading`` for its errors."""
        require_pyarrow()
        import pyarrow.parquet as pq

        path = self / name
        # pyarrow takes a path with a colon for a URL, unless it is absolute.
        source = open_input(path) if self.is_remote else path.absolute()
        return pq.ParquetFile(source, buffer_size=1 << 20, page_checksum_verification=True)

    @contextlib.contextmanager
    def reading(
        self, name: str, remedy: str = "fetch or make it again"
    ) -> "Iterator[pq.ParquetFile]":
        """Open a file to read its rows; the message of an error ends with ``remedy``."""
        with damaged(self / name, remedy):
            yield self.open(name)

    def metadata(self, name: str) -> Metadata:
        """The metadata of a file."""
        import pyarrow as pa

        try:
            schema = self.open(name).schema_arrow
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise DatasetError(
                f"cannot read as Parquet: {reason_of(error)}", name=self / name
            ) from error
        return parse_metadata(schema, str(self / name))

    def writing(self, name: str, sync: bool = True) -> AbstractContextManager[IO[bytes]]:
        """Open a file for writing, which appears whole when the block ends well, or not at all.

        Without ``sync``, a power cut may leave an empty file.
        """
        if self.is_remote:
            return remote.uploading(self / name)
        return files.writing(self / name, durable=sync, sync=sync)

    def remove(self, name: str) -> None:
        """Remove a file."""
        path = self / name
        try:
            if self.is_remote:
                retried(lambda: path.unlink(missing_ok=True))
            else:
                path.unlink()
        except OSError as error:
            raise OutputError(f"cannot remove: {reason_of(error)}", name=path) from error

    @contextlib.contextmanager
    def lock(self, index: int = 0, count: int = 1) -> Iterator[None]:
        """Keep other runs out while shards are written, see ``io.lock``.

        Parts ``index`` of ``count`` may run at the same time, each of them once; a whole run
        (``count`` 1) runs alone. Temporary files of killed processes are removed before and after:
        all of them if this run is alone, else old ones. Stores have no locks: there a second run
        replaces nothing that the first has written (see ``remote.uploading``).

        Raises:
            OutputError: another run holds the lock, or the file system or the store refused
                something inside the ``with`` block.
        """
        with contextlib.ExitStack() as stack:
            if not self.is_remote:
                if self.temporary:
                    stack.callback(self._remove_if_empty)
                stack.enter_context(locked(self.path, shared=count > 1))
                if count > 1:
                    stack.enter_context(locked(self.path, f"{LOCK}-{index}-of-{count}"))
                files.sweep(self.path, alone=count == 1)
            try:
                yield
                if not self.is_remote:
                    files.sweep(self.path, alone=count == 1)
            except OSError as error:
                name = error.filename or self.path
                raise OutputError(reason_of(error), name=name, hint=Hint.OTHER_OUTPUT) from error

    def _remove_if_empty(self) -> None:
        with contextlib.suppress(OSError):
            self.path.rmdir()


@contextlib.contextmanager
def damaged(path: Path, remedy: str = "fetch or make it again") -> Iterator[None]:
    """Raise errors of reading rows as a ``DatasetError`` that names the file."""
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DatasetError(f"damaged: {reason_of(error)}; {remedy}", name=path) from error


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatasetError(f"cannot read: {reason_of(error)}", name=path) from error
