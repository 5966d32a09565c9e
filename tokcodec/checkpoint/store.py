"""The checkpoints on this machine: the bundled ones, and the cache of converted ones."""

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
    """The headers of the checkpoints that come with tokcodec, by number of tokens.

    They are in the package if it is installed, and next to it in a source checkout.
    """
    package = Path(__file__).parents[1]
    folder = next(
        (f for f in (package / "weights", package.parent / "weights") if f.is_dir()), None
    )
    headers = [read_header(path) for path in folder.glob("*" + SUFFIX)] if folder else []
    return tuple(sorted(headers, key=lambda header: (header.config.num_tokens, header.name)))


def find_by_model_id(prefix: bytes, given: Header | None = None) -> Header | None:
    """Find a checkpoint whose ``model_id`` begins with these bytes: the ``given`` one, or a bundled
    or cached one."""
    return next(_with_model_id(prefix, given), None)


def find_with_prior(prefix: bytes, given: Header | None = None) -> Header:
    """The same for a checkpoint that has a prior.

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
    """The folder of converted checkpoints: ``TOKCODEC_CACHE``, or ``tokcodec`` in the user's cache
    (``XDG_CACHE_HOME`` or ``~/.cache``)."""
    own = os.environ.get("TOKCODEC_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(shared) / "tokcodec"


def cached() -> Iterator[Header]:
    """The headers of the checkpoints in the cache, without those that cannot be read."""
    for path in sorted(cache_folder().glob("*/*" + SUFFIX)):
        with contextlib.suppress(CheckpointError):
            yield read_header(path)


def is_cached(header: Header) -> bool:
    """Whether a checkpoint is in the cache, so that its name does not find it."""
    return cache_folder() in header.path.parents
