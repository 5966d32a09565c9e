"""``tokcodec inspect``."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tokcodec.cli.options import Json
from tokcodec.cli.terminal import print_json
from tokcodec.errors import TokcodecError, TokenFileError


def inspect(
    file: Annotated[Path, typer.Argument(help="A token file or a checkpoint.")],
    codes: Annotated[bool, typer.Option("--codes", help="The codes, too.")] = False,
    as_json: Json = False,
) -> None:
    """Show what one file holds, after checking all of it."""
    from tokcodec.checkpoint import SUFFIX
    from tokcodec.tokenfile import MAGIC

    try:
        with file.open("rb") as opened:
            magic = opened.read(len(MAGIC))
    except OSError as error:
        raise TokcodecError(f"{file}: cannot read: {error.strerror}") from error
    if magic == MAGIC or file.suffix != SUFFIX:
        facts = _token_file(file, codes)
    elif codes:
        raise typer.BadParameter(f"{file} is a checkpoint and has none", param_hint="--codes")
    else:
        facts = _checkpoint(file)
    if as_json:
        print_json(facts)
        return
    # Plain lines: ids and codes stay whole however narrow the terminal.
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:{width}}  {value if isinstance(value, str) else json.dumps(value)}")


def _token_file(path: Path, with_codes: bool) -> dict[str, Any]:
    from tokcodec.checkpoint import find_by_code_id
    from tokcodec.tokenfile import TokenFile, check_codes

    token_file = TokenFile.load(path)
    header = find_by_code_id(token_file.code_id)
    if header:
        try:
            check_codes(token_file.codes, header.config.quantizer.codebook_size)
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
        "num_codes": len(token_file.codes),
        "payload_bytes": token_file.payload_bytes,
        "file_bytes": token_file.file_bytes,
        "model": header.name if header else None,
    }
    if with_codes:
        facts["codes"] = token_file.codes.tolist()
    return facts


def _checkpoint(path: Path) -> dict[str, Any]:
    from tokcodec.checkpoint import read
    from tokcodec.cli.models import describe

    header, tensors = read(path)
    return {
        "kind": "checkpoint",
        **describe(header),
        "parameters": sum(tensor.size for tensor in tensors.values()),
        "config": json.loads(header.config.to_json()),
        "provenance": header.provenance,
    }
