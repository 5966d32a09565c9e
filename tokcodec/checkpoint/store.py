"""The checkpoints on this machine: those that are bundled, and those that were converted before."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tokcodec.checkpoint.format import SUFFIX, Header, read_header
from tokcodec.errors import CheckpointError, Hint


@cache
def bundled() -> tuple[Header, ...]:
    """Headers of the checkpoints that come with tokcodec, fewest tokens first.

    They lie in the package when it is installed, and beside it in a source checkout.
    """
    package = Path(__file__).parents[1]
    folder = next(
        (f for f in (package / "weights", package.parent / "weights") if f.is_dir()), None
    )
    headers = [read_header(path) for path in folder.glob("*" + SUFFIX)] if folder else []
    return tuple(sorted(headers, key=lambda header: (header.config.num_tokens, header.name)))


def find_by_model_id(prefix: bytes, given: Header | None = None) -> Header | None:
    """The checkpoint that decodes tokens whose ``model_id`` begins with these bytes: the
    ``given`` one, or else a bundled or cached one, if any."""
    return next(_with_model_id(prefix, given), None)


def find_with_prior(prefix: bytes, given: Header | None = None) -> Header:
    """The checkpoint with a prior for tokens whose ``model_id`` begins with these bytes: the
    ``given`` one, or else a bundled or cached one.

    Raises:
        CheckpointError: there is none.
    """
    lack = "which is neither bundled nor cached"
    for header in _with_model_id(prefix, given):
        if header.prior_id:
            return header
        lack = f"and {header.path} has none"
    raise CheckpointError(
        f"entropy-coded with a prior of model {prefix.hex()}, {lack}",
        hint=Hint.NAME_WEIGHTS,
    )


def _with_model_id(prefix: bytes, given: Header | None) -> Iterator[Header]:
    known = itertools.chain([given] if given else [], bundled(), cached())
    return (header for header in known if header.decodes(prefix))


def cache_folder() -> Path:
    """Where converted checkpoints are kept: ``TOKCODEC_CACHE``, or ``tokcodec`` in the user's
    cache (``XDG_CACHE_HOME``, ``~/.cache``)."""
    own = os.environ.get("TOKCODEC_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(shared) / "tokcodec"


def cached() -> Iterator[Header]:
    """Headers of the checkpoints in the cache; what cannot be read is passed over."""
    for path in sorted(cache_folder().glob("*/*" + SUFFIX)):
        with contextlib.suppress(CheckpointError):
            yield read_header(path)


def is_cached(header: Header) -> bool:
    """Whether it lies in the cache, where its name alone does not find it."""
    return cache_folder() in header.path.parents
