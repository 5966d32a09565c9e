"""``tokcodec inspect``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokcodec.cli.options import Json, WeightsOf
from tokcodec.cli.terminal import print_json, require_pyarrow
from tokcodec.errors import CheckpointError, TokcodecError, TokenFileError
from tokcodec.files import is_dataset
from tokcodec.remote import location

if TYPE_CHECKING:
    from tokcodec.checkpoint import Header
    from tokcodec.tokenfile import TokenFile


def inspect(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A token file, a checkpoint or a token dataset; datasets also by URL.",
        ),
    ],
    codes: Annotated[bool, typer.Option("--codes", help="The codes, too.")] = False,
    weights: WeightsOf = None,
    as_json: Json = False,
) -> None:
    """Show what one file, or one token dataset, holds, after checking all of it."""
    file = location(source)
    if codes and is_dataset(file):
        raise typer.BadParameter("of a dataset, export them", param_hint="--codes")
    facts = _dataset(file) if is_dataset(file) else _file(file, codes, weights)
    if as_json:
        print_json(facts)
        return
    # Plain lines: ids and codes stay whole however narrow the terminal.
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:{width}}  {value if isinstance(value, str) else json.dumps(value)}")


def _file(file: Path, codes: bool, weights: str | None) -> dict[str, Any]:
    from tokcodec.checkpoint import SUFFIX
    from tokcodec.tokenfile import MAGIC

    try:
        with file.open("rb") as opened:
            magic = opened.read(len(MAGIC))
    except OSError as error:
        raise TokcodecError(f"{file}: cannot read: {error.strerror}") from error
    if magic == MAGIC or file.suffix != SUFFIX:
        return _token_file(file, codes, weights)
    if codes:
        raise typer.BadParameter(f"{file} is a checkpoint and has none", param_hint="--codes")
    return _checkpoint(file)


def _dataset(path: Path) -> dict[str, Any]:
    require_pyarrow()
    from tokcodec.checkpoint import find_by_code_id
    from tokcodec.dataset.reader import open_dataset

    dataset = open_dataset(path)
    whole = sum(map(len, dataset.codes()))  # which checks them
    header = find_by_code_id(bytes.fromhex(dataset.metadata.code_id[:8]))
    return {
        "kind": "token dataset",
        "shards": len(dataset.files),
        "rows": len(dataset),
        "failed": len(dataset) - whole,
        "file_bytes": sum(file.stat().st_size for file in dataset.files),
        "code_id": dataset.metadata.code_id,
        "model": header.name if header else None,
        "run": dataset.metadata.run,
        "plan": dataset.metadata.plan,
        "config": json.loads(dataset.metadata.model.to_json()),
    }


def _token_file(path: Path, with_codes: bool, weights: str | None) -> dict[str, Any]:
    from tokcodec.checkpoint import find, find_by_code_id
    from tokcodec.tokenfile import TokenFile, check_codes

    given = find(weights) if weights else None
    token_file = TokenFile.load(path)
    header = find_by_code_id(token_file.code_id, given)
    # Header and bytes ask for nothing; the codes of an entropy-coded file for its prior.
    checked = "bytes" if token_file.version > 1 or not token_file.entropy_coded else "header"
    codes = None
    try:
        if header and (with_codes or _has_prior(token_file, given)):
            codes = token_file.codes_with(given)
            check_codes(codes, header.config.quantizer.codebook_size)
            checked = "codes"
        elif with_codes:
            codes = token_file.codes_with(given)
    except TokenFileError as error:
        raise TokenFileError(f"{path}: {error}") from error
    facts: dict[str, Any] = {
        "kind": "token file",
        "version": token_file.version,
        "fit": token_file.fit,
        "code_id": token_file.code_id.hex(),
        "width": token_file.width,
        "height": token_file.height,
        "bits_per_code": token_file.bits,
        "num_codes": token_file.num_codes,
        "entropy_coded": token_file.entropy_coded,
        "payload_bytes": len(token_file.payload),
        "file_bytes": token_file.file_bytes,
        "model": header.name if header else None,
        "checked": checked,
    }
    if with_codes and codes is not None:
        facts["codes"] = codes.tolist()
    return facts


def _has_prior(token_file: "TokenFile", given: "Header | None") -> bool:
    """Whether what its codes ask for is at hand."""
    from tokcodec.checkpoint import find_with_prior

    try:
        return not token_file.entropy_coded or bool(find_with_prior(token_file.code_id, given))
    except CheckpointError:
        return False


def _checkpoint(path: Path) -> dict[str, Any]:
    from tokcodec.checkpoint import read
    from tokcodec.cli.models import describe
    from tokcodec.prior import PREFIX

    header, tensors = read(path)
    return {
        "kind": "checkpoint",
        **describe(header),
        "parameters": sum(t.size for name, t in tensors.items() if not name.startswith(PREFIX)),
        "config": json.loads(header.config.to_json()),
        "provenance": header.provenance,
    }
