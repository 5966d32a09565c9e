"""Locks: one run at a time writes to a folder."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tokcodec.errors import Hint, OutputError
from tokcodec.io.files import open_lock
from tokcodec.io.remote import reason_of

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path, name: str = LOCK, shared: bool = False) -> Iterator[None]:
    """Keep other runs out of a folder, which is made if it is missing.

    The lock ends with its process. On NFS it holds for all machines unless the file system is
    mounted with ``nolock`` or ``local_lock``; on a file system without locks there is none. At the
    end the lock file is removed unless it is shared, and also the folder if it was made here and is
    still empty.

    Args:
        folder: the folder.
        name: the name of the lock file.
        shared: allow others that share the lock.

    Raises:
        OutputError: another run holds the lock, or the folder cannot be written.
    """
    found = folder.exists()
    path = folder / name
    try:
        file = _open_locked(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    except BlockingIOError:
        raise OutputError(
            "another run is writing to it; wait for its end, or stop it", name=folder
        ) from None
    except OSError as error:
        raise OutputError(
            f"cannot write: {reason_of(error)}", name=folder, hint=Hint.OTHER_OUTPUT
        ) from error
    with file:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # another program changed the folder
                if not shared:
                    path.unlink()
                if not found:
                    folder.rmdir()


def _open_locked(path: Path, kind: int) -> IO[bytes]:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A run that ends at this moment may remove the file or the folder: then try again.
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as stack:
            file = stack.enter_context(open_lock(path))
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:
                pass  # a file system without locks
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                stack.pop_all()
                return file
