"""Checkpoints: their file, their identities, and where they are found. No torch."""

from tokcodec.checkpoint.facts import describe
from tokcodec.checkpoint.find import convert, find, find_own, write_converted
from tokcodec.checkpoint.format import (
    SUFFIX,
    Header,
    check_fit,
    check_token_count,
    read,
    read_header,
    read_prior,
    write,
)
from tokcodec.checkpoint.identities import checkpoint_id, model_id, prior_id
from tokcodec.checkpoint.store import (
    bundled,
    cached,
    find_by_model_id,
    find_with_prior,
    is_cached,
)

__all__ = [
    "SUFFIX",
    "Header",
    "bundled",
    "cached",
    "check_fit",
    "check_token_count",
    "checkpoint_id",
    "convert",
    "describe",
    "find",
    "find_by_model_id",
    "find_own",
    "find_with_prior",
    "is_cached",
    "model_id",
    "prior_id",
    "read",
    "read_header",
    "read_prior",
    "write",
    "write_converted",
]
