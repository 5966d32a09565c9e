"""One run at a time on one output."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from tokcodec.errors import DatasetError, Hint, OutputError
from tokcodec.io.remote import is_remote, reason_of


@contextlib.contextmanager
def locked(folder: Path, output: Path, share: tuple[int, int]) -> Iterator[None]:
    """Keeps others from the same output; the lock goes with the process that holds it.

    Parts of one plan may run beside each other, each once; a whole run beside none. On NFS the lock
    holds for all machines unless it is mounted with ``nolock`` or ``local_lock``. Stores know no
    locks: there a second run replaces nothing that the first has written (see ``remote.put``).

    Raises:
        DatasetError: another run holds it.
        OutputError: the file system, or store, refused something that was done meanwhile.
    """
    with contextlib.ExitStack() as stack:
        if not is_remote(folder):
            _lock(stack, folder, output, share)
        try:
            yield
        except OSError as error:
            name = error.filename or folder
            raise OutputError(reason_of(error), name=name, hint=Hint.OTHER_OUTPUT) from error
        finally:
            # Of a run on one file nothing stays but that.
            if not is_remote(folder) and folder != output and not any(folder.glob("shard-*")):
                (folder / ".lock").unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # someone put something else there
                    folder.rmdir()


def _lock(stack: contextlib.ExitStack, folder: Path, output: Path, share: tuple[int, int]) -> None:
    index, count = share

    def lock(path: Path, kind: int) -> None:
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            # Opened for writing, as locks on network file systems ask for.
            file = stack.enter_context(path.open("ab"))
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            # A run that has ended meanwhile may have taken the file away: then it keeps none out.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return

    try:
        lock(folder / ".lock", fcntl.LOCK_EX if count == 1 else fcntl.LOCK_SH)
        if count > 1:
            lock(folder / f".lock-{index}-of-{count}", fcntl.LOCK_EX)
    except BlockingIOError:
        raise DatasetError(
            f"{output}: another run is writing to it; wait for its end, or stop it"
        ) from None
    except OSError as error:
        raise OutputError(
            f"cannot write: {reason_of(error)}", name=folder, hint=Hint.OTHER_OUTPUT
        ) from error
