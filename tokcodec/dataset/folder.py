"""``DatasetFolder``: the folder that holds the files of a token dataset, on disk or in a store.

No other module decides how shards are named, listed, written and locked. A file appears under its
name only when it is complete.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from tokcodec.dataset import require_pyarrow
from tokcodec.dataset.table import Metadata, parse_metadata
from tokcodec.errors import DatasetError, Hint, OutputError
from tokcodec.io import files, remote
from tokcodec.io.lock import LOCK, locked
from tokcodec.io.remote import is_remote, location, reason_of

if TYPE_CHECKING:
    import pyarrow.parquet as pq

ONE_FILE = ".parquet"  # a dataset with this suffix is a single file
_SHARDS = "shard-*.parquet"


def shard_name(number: int) -> str:
    """The name of a shard's file."""
    return f"shard-{number:05}.parquet"


def is_dataset(path: str | Path) -> bool:
    """Whether a path looks like a token dataset: a Parquet file, or a folder of shards.

    Raises:
        DatasetError: the folder cannot be listed.
    """
    folder = DatasetFolder(path)
    return folder.path.suffix == ONE_FILE or bool(folder.shards())


def files_of(path: str | Path) -> "tuple[DatasetFolder, tuple[str, ...]]":
    """The folder of a dataset, and the names of its files in it: shards, or the one file.

    Raises:
        DatasetError: neither is there, or the store cannot be asked.
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
    """Whether a path that ``is_dataset`` holds tokens, and not images.

    Raises:
        DatasetError: see ``files_of``.
    """
    folder, names = files_of(path)
    try:
        folder.metadata(names[0])
    except DatasetError:
        return False
    return True


class DatasetFolder:
    """A folder of Parquet files, local or a URL.

    Attributes:
        path: the folder.
        is_remote: it is in a store, where every look takes a request.
        temporary: the folder exists only while a run needs it: without shards, it is removed when
            the run ends.
    """

    def __init__(self, path: str | Path, temporary: bool = False) -> None:
        """
        Raises:
            OutputError: the path is a URL that cannot be opened here.
        """
        self.path = location(path) if isinstance(path, str) else path
        self.temporary = temporary
        self.is_remote = is_remote(self.path)
        self._storage: _Storage = _Store() if self.is_remote else _Disk()

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def absolute(self) -> str:
        """The path as another process can use it."""
        return str(self.path.absolute())

    def shards(self) -> list[str]:
        """The names of the shards that are there, in order; none where there is no folder.

        Raises:
            DatasetError: the folder cannot be listed.
        """
        with _naming(self.path):
            names = self._storage.names(self.path, _SHARDS)
        return sorted(names, key=lambda name: (len(name), name))

    def exists(self, name: str) -> bool:
        """Whether a file of this name is there.

        Raises:
            DatasetError: the store cannot be asked.
        """
        with _naming(self / name):
            return self._storage.exists(self / name)

    def size(self, name: str) -> int:
        """The bytes of a file."""
        with _naming(self / name):
            return (self / name).stat().st_size

    def written_at(self, name: str) -> int | None:
        """When a file was written, in nanoseconds; None in a store, whose clock is another."""
        with _naming(self / name):
            return self._storage.written_at(self / name)

    def open(self, name: str) -> "pq.ParquetFile":
        """Opens a file for reading; see ``reading`` for its errors."""
        require_pyarrow()
        import pyarrow.parquet as pq

        return pq.ParquetFile(self._storage.source(self / name), page_checksum_verification=True)

    @contextlib.contextmanager
    def reading(
        self, name: str, remedy: str = "fetch or make it again"
    ) -> "Iterator[pq.ParquetFile]":
        """A file whose rows are read.

        Raises:
            DatasetError: it cannot be read, or is damaged; the message ends with ``remedy``.
        """
        with damaged(self / name, remedy):
            yield self.open(name)

    def metadata(self, name: str) -> Metadata:
        """The metadata of a file.

        Raises:
            DatasetError: it is not Parquet, not a token dataset, or damaged.
        """
        import pyarrow as pa

        try:
            schema = self.open(name).schema_arrow
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise DatasetError(
                f"cannot read as Parquet: {reason_of(error)}", name=self / name
            ) from error
        return parse_metadata(schema, str(self / name))

    def write(self, name: str, fill: Callable[[IO[bytes]], object]) -> None:
        """Lets ``fill`` write a file, which appears whole or not at all.

        Raises:
            OutputError: the file system or the store refused.
        """
        with self.writing(name) as file:
            fill(file)

    def writing(self, name: str, sync: bool = True) -> AbstractContextManager[IO[bytes]]:
        """A file to fill, which appears whole when the block ends well, or not at all.

        Without ``sync``, a power cut may leave an empty one.

        Raises:
            OutputError: the file system or the store refused.
        """
        return self._storage.writing(self / name, sync)

    def remove(self, name: str) -> None:
        """Removes a file.

        Raises:
            OutputError: the file system or the store refused.
        """
        try:
            self._storage.remove(self / name)
        except OSError as error:
            raise OutputError(f"cannot remove: {reason_of(error)}", name=self / name) from error

    def sweep(self, alone: bool) -> None:
        """Removes temporary files that killed processes have left: all where this run is ``alone``,
        else old ones."""
        self._storage.sweep(self.path, alone)

    @contextlib.contextmanager
    def lock(self, index: int = 0, count: int = 1) -> Iterator[None]:
        """Keeps other runs out while shards are written, see ``io.lock``.

        Parts ``index`` of ``count`` may run at the same time, each of them once; a whole run
        (``count`` 1) runs alone. Stores have no locks: there a second run replaces nothing that
        the first has written (see ``remote.uploading``).

        Raises:
            OutputError: another run holds the lock, or the file system or the store refused
                something inside the ``with`` block.
        """
        with contextlib.ExitStack() as stack:
            if self.temporary:
                stack.callback(self._storage.remove_folder, self.path)
            self._storage.lock(stack, self.path, index, count)
            try:
                yield
            except OSError as error:
                name = error.filename or self.path
                raise OutputError(reason_of(error), name=name, hint=Hint.OTHER_OUTPUT) from error


@contextlib.contextmanager
def damaged(path: Path, remedy: str = "fetch or make it again") -> Iterator[None]:
    """Names the file whose rows are read where that fails.

    Raises:
        DatasetError: the file cannot be read, or is damaged.
    """
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


class _Storage(Protocol):
    """What a folder needs of a file system or a store; all but ``writing`` and ``lock`` raise
    OSError."""

    def names(self, folder: Path, pattern: str) -> list[str]: ...
    def exists(self, path: Path) -> bool: ...
    def written_at(self, path: Path) -> int | None: ...
    def source(self, path: Path) -> Any: ...
    def writing(self, path: Path, sync: bool) -> AbstractContextManager[IO[bytes]]: ...
    def remove(self, path: Path) -> None: ...
    def sweep(self, folder: Path, alone: bool) -> None: ...
    def lock(self, stack: contextlib.ExitStack, folder: Path, index: int, count: int) -> None: ...
    def remove_folder(self, folder: Path) -> None: ...


class _Disk:
    """Local files."""

    def names(self, folder: Path, pattern: str) -> list[str]:
        return [path.name for path in folder.glob(pattern)]

    def exists(self, path: Path) -> bool:
        return path.is_file()

    def written_at(self, path: Path) -> int | None:
        return path.stat().st_mtime_ns

    def source(self, path: Path) -> Any:
        return path.absolute()  # with a colon in it, pyarrow takes another for a URL

    def writing(self, path: Path, sync: bool) -> AbstractContextManager[IO[bytes]]:
        return files.writing(path, durable=sync, sync=sync)

    def remove(self, path: Path) -> None:
        path.unlink()

    def sweep(self, folder: Path, alone: bool) -> None:
        if alone:
            files.sweep(folder, older_than=0)
        else:
            files.sweep(folder)

    def lock(self, stack: contextlib.ExitStack, folder: Path, index: int, count: int) -> None:
        stack.enter_context(locked(folder, shared=count > 1))
        if count > 1:
            stack.enter_context(locked(folder, f"{LOCK}-{index}-of-{count}"))

    def remove_folder(self, folder: Path) -> None:
        with contextlib.suppress(OSError):  # it is not empty
            folder.rmdir()


class _Store:
    """Objects in a store, through fsspec; what fails for a while is tried again."""

    def names(self, folder: Path, pattern: str) -> list[str]:
        return remote.retried(lambda: [path.name for path in folder.glob(pattern)])

    def exists(self, path: Path) -> bool:
        return remote.is_file(str(path))

    def written_at(self, path: Path) -> int | None:  # noqa: ARG002
        return None

    def source(self, path: Path) -> Any:
        return remote.open_input(path)

    def writing(self, path: Path, sync: bool) -> AbstractContextManager[IO[bytes]]:  # noqa: ARG002
        return remote.uploading(path)

    def remove(self, path: Path) -> None:
        remote.retried(lambda: path.unlink(missing_ok=True))

    def sweep(self, folder: Path, alone: bool) -> None:
        pass  # an upload that was cut leaves nothing

    def lock(self, stack: contextlib.ExitStack, folder: Path, index: int, count: int) -> None:
        pass  # stores have no locks

    def remove_folder(self, folder: Path) -> None:
        pass  # stores have no folders
