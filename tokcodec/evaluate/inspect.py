"""The facts of a token file, a folder of them, a token dataset or a checkpoint, without torch."""

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokcodec import checkpoint
from tokcodec.batch.jobs import STANDARD
from tokcodec.checkpoint import Header, describe, find, find_by_model_id, find_own, find_with_prior
from tokcodec.coding.prior import PREFIX
from tokcodec.dataset.folder import is_dataset
from tokcodec.errors import CheckpointError, TokcodecError, TokenFileError
from tokcodec.io.files import SUFFIX
from tokcodec.io.read import read_at_most
from tokcodec.io.remote import is_remote, location, read_bytes, reason_of
from tokcodec.io.walk import find_files
from tokcodec.tokenfile import TokenFile, check_tokens, is_token_file


def inspect(source: str, *, tokens: bool = False, weights: str | None = None) -> dict[str, Any]:
    """Checks a source, and returns its facts as plain data.

    Args:
        source: a token file, a folder of them, a token dataset, or a checkpoint or its bundled
            name. Token files and datasets may be URLs. ``-`` is a token file or a text on standard
            input.
        tokens: include the tokens of a token file.
        weights: the checkpoint of the token files, if it is neither bundled nor cached.

    Raises:
        TokcodecError: the source cannot be read, is damaged, or is not a single token file although
            ``tokens`` is given.
    """
    if source == STANDARD:
        with _naming("standard input"):
            data = read_at_most(sys.stdin.buffer)
        return _token_files("standard input", data, tokens, weights)
    path = location(source)
    if is_dataset(path):
        _refuse(tokens, source, "a dataset; export its tokens")
        return _dataset(path, weights)
    if not is_remote(path) and not path.exists():
        path = {header.name: header.path for header in checkpoint.bundled()}.get(source, path)
    if not is_remote(path) and path.is_dir():
        _refuse(tokens, source, "a folder; give a single token file")
        return _folder(path, weights)
    return _file(path, tokens, weights)


def _refuse(tokens: bool, source: str, what: str) -> None:
    if tokens:
        raise TokcodecError(f"cannot show tokens: it is {what}", name=source)


def _file(file: Path, tokens: bool, weights: str | None) -> dict[str, Any]:
    with _naming(str(file)):
        if not is_remote(file) and file.suffix == checkpoint.SUFFIX:
            with file.open("rb") as opened:
                start = opened.read(2)
            if not is_token_file(start):
                _refuse(tokens, str(file), "a checkpoint; give a token file")
                return _checkpoint(file)
        data = read_bytes(str(file))
    return _token_files(str(file), data, tokens, weights)


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TokcodecError(f"cannot read: {reason_of(error)}", name=name) from error


def _folder(folder: Path, weights: str | None) -> dict[str, Any]:
    """The facts of the token files in a folder, or of the checkpoint in it."""
    given = find(weights) if weights else None
    models, fits = Counter[str](), Counter[str]()
    failures = []
    size = 0
    for path in find_files(folder, {SUFFIX}):
        try:
            token_file = TokenFile.load(path)
        except TokenFileError as error:
            failures.append({"key": str(path), "error": error.reason})
            continue
        header = find_by_model_id(token_file.model_id, given)
        models[header.name if header else f"unknown ({token_file.model_id.hex()})"] += 1
        fits[token_file.fit] += 1
        size += token_file.file_bytes
    if not models and not failures:
        if own := find_own(str(folder)):
            return _checkpoint(own.path)
        raise TokcodecError("contains no token files, token dataset or checkpoint", name=folder)
    return {
        "kind": "folder",
        "token_files": models.total(),
        "failed": len(failures),
        "file_bytes": size,
        "models": dict(models),
        "fits": dict(fits),
        "failures": failures,
    }


def _dataset(path: Path, weights: str | None) -> dict[str, Any]:
    from tokcodec.dataset.reader import open_dataset

    dataset = open_dataset(path)
    whole = sum(map(len, dataset.tokens()))  # this checks them
    given = find(weights) if weights else None
    header = find_by_model_id(bytes.fromhex(dataset.metadata.model_id), given)
    return {
        "kind": "token dataset",
        "shards": len(dataset.names),
        "rows": len(dataset),
        "failed": len(dataset) - whole,
        "file_bytes": dataset.file_bytes,
        "model_id": dataset.metadata.model_id,
        "model": header.name if header else None,
        "run": dataset.metadata.run,
        "plan": dataset.metadata.plan,
        "config": json.loads(dataset.metadata.model.to_json()),
        "failures": [{"key": key, "error": error} for key, error in dataset.failures()],
    }


def _token_files(name: str, data: bytes, tokens: bool, weights: str | None) -> dict[str, Any]:
    """The facts of a token file, or of the messages in a text."""
    given = find(weights) if weights else None
    try:
        found = TokenFile.find(data)
        if len(found) == 1:
            return _token_file(found[0], tokens, given)
    except TokenFileError as error:
        raise error.named(name) from error
    messages: list[dict[str, Any]] = []
    failed = 0
    for own in found:
        try:
            messages.append(_token_file(own, tokens, given))
        except TokenFileError as error:
            messages.append({"kind": "message", "error": error.reason})
            failed += 1
    return {"kind": "messages", "failed": failed, "messages": messages}


def _token_file(
    token_file: TokenFile | TokenFileError, with_tokens: bool, given: Header | None
) -> dict[str, Any]:
    if isinstance(token_file, TokenFileError):
        raise token_file
    header = find_by_model_id(token_file.model_id, given)
    # Only the tokens of an entropy-coded file need its prior.
    checked = "bytes"
    tokens = None
    if with_tokens or (header and _has_prior(token_file, given)):
        tokens = token_file.tokens_with(given, incomplete=True)
        if header:
            check_tokens(tokens, header.config.quantizer.codebook_size)
            checked = "tokens"
    facts: dict[str, Any] = {
        "kind": "token file",
        "fit": token_file.fit,
        "model_id": token_file.model_id.hex(),
        "width": token_file.width,
        "height": token_file.height,
        "bits_per_token": token_file.bits,
        "num_tokens": token_file.num_tokens,
        "rows": token_file.rows,
        "columns": token_file.columns,
        "tiles": list(token_file.tiles),
        "entropy_coded": token_file.entropy_coded,
        "payload_bytes": token_file.payload_bytes,
        "file_bytes": token_file.file_bytes,
        "model": header.name if header else None,
        "checked": checked,
    }
    if packets := token_file.packets:
        facts["packets"] = packets.count
        facts["packets_there"] = [number + 1 for number in packets.numbers]
        facts["parity_there"] = packets.has_parity
    if tokens is not None:
        facts["missing_tokens"] = int((tokens < 0).sum())
    if with_tokens and tokens is not None:
        facts["tokens"] = tokens.tolist()
    return facts


def _has_prior(token_file: TokenFile, given: Header | None) -> bool:
    """Whether its tokens can be read: they need no prior, or the prior was found."""
    try:
        return not token_file.entropy_coded or bool(find_with_prior(token_file.model_id, given))
    except CheckpointError:
        return False


def _checkpoint(path: Path) -> dict[str, Any]:
    header, tensors = checkpoint.read(path)
    return {
        "kind": "checkpoint",
        **describe(header),
        "parameters": sum(t.size for name, t in tensors.items() if not name.startswith(PREFIX)),
        "config": json.loads(header.config.to_json()),
        "provenance": header.provenance,
    }
