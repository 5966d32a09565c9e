"""``tokcodec inspect``."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokcodec.cli.options import Json, WeightsOf
from tokcodec.cli.terminal import note, print_json, require_pyarrow, show, why_unknown
from tokcodec.dataset.folder import is_dataset
from tokcodec.errors import CheckpointError, TokcodecError, TokenFileError
from tokcodec.io.files import find_files
from tokcodec.io.remote import is_remote, location

if TYPE_CHECKING:
    from tokcodec.checkpoint import Header
    from tokcodec.tokenfile import TokenFile


def inspect(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|FOLDER|NAME",
            help="A token file, a folder of them, a token dataset or a checkpoint, also by its "
            "bundled name; datasets also by URL.",
        ),
    ],
    tokens: Annotated[bool, typer.Option("--tokens", help="The tokens, too.")] = False,
    failed: Annotated[
        bool,
        typer.Option("--failed", help="Of a dataset or a folder, only what failed, and why."),
    ] = False,
    weights: WeightsOf = None,
    as_json: Json = False,
) -> None:
    """Show what a file, folder or dataset holds.

    Or a checkpoint; after checking all of it.
    """
    facts = _facts(source, tokens, weights)
    if failed and "failures" not in facts:
        raise typer.BadParameter(f"{source} is no dataset and no folder", param_hint="--failed")
    if as_json:
        print_json(facts)
    elif failed:
        if not facts["failures"]:
            note("none failed")
        for failure in facts["failures"]:
            show(f"{failure['key']}: {failure['error']}")
    else:
        _print(facts)
    if facts["kind"] == "folder" and facts["failed"]:
        raise typer.Exit(3)


def _facts(source: str, tokens: bool, weights: str | None) -> dict[str, Any]:
    from tokcodec.checkpoint import bundled

    path = location(source)
    if is_dataset(path):
        if tokens:
            raise typer.BadParameter("of a dataset, export them", param_hint="--tokens")
        return _dataset(path, weights)
    if not is_remote(path) and not path.exists():
        path = {header.name: header.path for header in bundled()}.get(source, path)
    if not is_remote(path) and path.is_dir():
        if tokens:
            raise typer.BadParameter("of one file", param_hint="--tokens")
        return _folder(path, weights)
    return _file(path, tokens, weights)


def _print(facts: dict[str, Any]) -> None:
    """Plain lines: ids and tokens stay whole however narrow the terminal."""
    shown = {name: value for name, value in facts.items() if name != "failures"}
    if facts.get("failures"):
        shown["failed"] = f"{facts['failed']:,} (--failed names them)"
    if "model" in facts and facts["model"] is None:
        shown["model"] = f"unknown: {why_unknown(facts['model_id'][:6])}"
    lines = list(_lines(shown))
    width = max(len(label) for label, _ in lines)
    for label, text in lines:
        show(f"{label:{width}}  {text}".rstrip())


def _lines(facts: dict[str, Any], indent: str = "") -> Iterator[tuple[str, str]]:
    """Label and text of each fact; of what holds further facts with parts, a line a fact."""
    for name, value in facts.items():
        label = indent + name.replace("_", " ")
        if (
            not indent
            and isinstance(value, dict)
            and any(isinstance(v, dict) for v in value.values())
        ):
            yield label, ""
            yield from _lines(value, "  ")
        else:
            yield label, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        parts = ((name, "..." if isinstance(v, dict) else _text(v)) for name, v in value.items())
        return ", ".join(f"{name.replace('_', ' ')} {text}" for name, text in parts) or "none"
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return "none" if value is None else str(value)


def _file(file: Path, tokens: bool, weights: str | None) -> dict[str, Any]:
    from tokcodec.checkpoint import SUFFIX
    from tokcodec.tokenfile import is_token_file

    try:
        with file.open("rb") as opened:
            start = opened.read(2)
    except OSError as error:
        raise TokcodecError(f"{file}: cannot read: {error.strerror}") from error
    if is_token_file(start) or file.suffix != SUFFIX:
        return _token_file(file, tokens, weights)
    if tokens:
        raise typer.BadParameter(f"{file} is a checkpoint and has none", param_hint="--tokens")
    return _checkpoint(file)


def _folder(folder: Path, weights: str | None) -> dict[str, Any]:
    """Of a folder of token files, or of the checkpoint that is alone in it."""
    from tokcodec.checkpoint import find, find_by_model_id, find_own
    from tokcodec.tokenfile import SUFFIX, TokenFile

    given = find(weights) if weights else None
    models, fits = Counter[str](), Counter[str]()
    failures = []
    size = 0
    for path in find_files(folder, {SUFFIX}):
        try:
            token_file = TokenFile.load(path)
        except TokenFileError as error:
            failures.append({"key": str(path), "error": str(error).removeprefix(f"{path}: ")})
            continue
        header = find_by_model_id(token_file.model_id, given)
        models[header.name if header else f"unknown ({token_file.model_id.hex()})"] += 1
        fits[token_file.fit] += 1
        size += token_file.file_bytes
    if not models and not failures:
        if own := find_own(str(folder)):
            return _checkpoint(own.path)
        raise TokcodecError(f"{folder}: holds no token files, no token dataset and no checkpoint")
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
    require_pyarrow()
    from tokcodec.checkpoint import find, find_by_model_id
    from tokcodec.dataset.reader import open_dataset

    dataset = open_dataset(path)
    whole = sum(map(len, dataset.tokens()))  # which checks them
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


def _token_file(path: Path, with_tokens: bool, weights: str | None) -> dict[str, Any]:
    from tokcodec.checkpoint import find, find_by_model_id
    from tokcodec.tokenfile import TokenFile, check_tokens

    given = find(weights) if weights else None
    token_file = TokenFile.load(path)
    header = find_by_model_id(token_file.model_id, given)
    # Only the tokens of an entropy-coded file need its prior.
    checked = "bytes"
    tokens = None
    try:
        if header and (with_tokens or _has_prior(token_file, given)):
            tokens = token_file.tokens_with(given)
            check_tokens(tokens, header.config.quantizer.codebook_size)
            checked = "tokens"
        elif with_tokens:
            tokens = token_file.tokens_with(given)
    except TokenFileError as error:
        raise TokenFileError(f"{path}: {error}") from error
    facts: dict[str, Any] = {
        "kind": "token file",
        "fit": token_file.fit,
        "model_id": token_file.model_id.hex(),
        "width": token_file.width,
        "height": token_file.height,
        "bits_per_token": token_file.bits,
        "rows": token_file.rows,
        "columns": token_file.columns,
        "tiles": list(token_file.tiles),
        "num_tokens": token_file.num_tokens,
        "entropy_coded": token_file.entropy_coded,
        "payload_bytes": len(token_file.payload),
        "file_bytes": token_file.file_bytes,
        "model": header.name if header else None,
        "checked": checked,
    }
    if with_tokens and tokens is not None:
        facts["tokens"] = tokens.tolist()
    return facts


def _has_prior(token_file: "TokenFile", given: "Header | None") -> bool:
    """Whether what its tokens ask for is at hand."""
    from tokcodec.checkpoint import find_with_prior

    try:
        return not token_file.entropy_coded or bool(find_with_prior(token_file.model_id, given))
    except CheckpointError:
        return False


def _checkpoint(path: Path) -> dict[str, Any]:
    from tokcodec.checkpoint import read
    from tokcodec.cli.models import describe
    from tokcodec.coding.prior import PREFIX

    header, tensors = read(path)
    return {
        "kind": "checkpoint",
        **describe(header),
        "parameters": sum(t.size for name, t in tensors.items() if not name.startswith(PREFIX)),
        "config": json.loads(header.config.to_json()),
        "provenance": header.provenance,
    }
