"""``tokcodec inspect``."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from tokcodec.cli.hints import why_unknown
from tokcodec.cli.options import Json, WeightsOf
from tokcodec.cli.terminal import note, print_json, show


def inspect(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|FOLDER|NAME",
            help="A token file or a text with messages (- for standard input), a folder of token "
            "files, a token dataset, or a checkpoint. Token files and datasets may be URLs.",
        ),
    ],
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Also show the tokens of a token file.")
    ] = False,
    failed: Annotated[
        bool,
        typer.Option("--failed", help="Show only what failed in a dataset or a folder, and why."),
    ] = False,
    weights: WeightsOf = None,
    as_json: Json = False,
) -> None:
    """Check a token file, folder, dataset or checkpoint, and show what it contains.

    "checked: bytes" means that only the header and the checksum of a token file were checked,
    because its checkpoint was not found.

    Example: tokcodec inspect photo.tok --tokens
    """
    from tokcodec.evaluate.inspect import inspect as run

    facts = run(source, tokens=tokens, weights=weights)
    if failed and "failures" not in facts:
        raise typer.BadParameter(
            f"{source} is neither a token dataset nor a folder of token files",
            param_hint="--failed",
        )
    if as_json:
        print_json(facts)
    elif failed:
        if not facts["failures"]:
            note("nothing failed")
        for failure in facts["failures"]:
            show(f"{failure['key']}: {failure['error']}")
    elif "messages" in facts:
        for number, message in enumerate(facts["messages"], 1):
            show(f"message {number}:")
            _print(message)
    else:
        _print(facts)
    if facts["kind"] in ("folder", "messages") and facts["failed"]:
        raise typer.Exit(3)


def _print(facts: dict[str, Any]) -> None:
    """Prints plain lines, so that ids and tokens are not wrapped in a narrow terminal."""
    shown = {name: value for name, value in facts.items() if name != "failures"}
    if facts.get("failures"):
        shown["failed"] = f"{facts['failed']:,} (--failed shows them)"
    if "model" in facts and facts["model"] is None:
        shown["model"] = f"unknown: {why_unknown(facts['model_id'][:6])}"
    lines = list(_lines(shown))
    width = max(len(label) for label, _ in lines)
    for label, text in lines:
        show(f"{label:{width}}  {text}".rstrip())


def _lines(facts: dict[str, Any], indent: str = "") -> Iterator[tuple[str, str]]:
    """The label and text of each fact. Nested facts with parts take several lines."""
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
        # Numbers of tokens are names too, which JSON has sorted as texts.
        items = sorted(value.items(), key=lambda item: int(item[0]) if item[0].isdigit() else 0)
        parts = ((name, "..." if isinstance(v, dict) else _text(v)) for name, v in items)
        return ", ".join(f"{name.replace('_', ' ')}: {text}" for name, text in parts) or "none"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return "none" if value is None else str(value)
