"""Opens untrusted safetensors files."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from tokcodec.errors import CheckpointError

# The most bytes of a header, which takes several times as much memory; enough for 40,000 tensors.
_HEADER = 1 << 22


@contextlib.contextmanager
def open_tensors(path: Path, framework: Literal["np", "pt"] = "np") -> Iterator[Any]:
    """Open a file with ``safetensors.safe_open``.

    Raises:
        CheckpointError: it is damaged, cannot be read, or has an absurdly long header; also for
            such errors in the ``with`` block.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
        if size > _HEADER and path.stat().st_size > _HEADER:
            raise CheckpointError(
                f"not a checkpoint: its header claims {size:,} bytes, more than {_HEADER:,}; "
                "download it again",
                name=path,
            )
        with safe_open(path, framework=framework) as opened:
            yield opened
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(f"cannot read the checkpoint: {reason}", name=path) from error
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise CheckpointError(
            f"not a checkpoint, or damaged (safetensors: {reason}); name another file, or download "
            "it again",
            name=path,
        ) from error
