"""Parses JSON of untrusted files."""

import json
from typing import Any

DEPTH = 32  # levels; configs found in practice have 4


def parse_json(text: str, most: int = 1 << 20) -> Any:
    """Parse a JSON text of at most ``most`` characters.

    Raises:
        ValueError: it is not JSON, too long, nested deeper than 32 levels, or has the same name
            twice in an object, where parsers differ.
    """
    if len(text) > most:
        raise ValueError(f"{len(text):,} characters, where there are {most:,} at most")
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError(f"nested deeper than {DEPTH} levels") from error
    level, depth = [value], 0
    while level:  # level by level: recursion might be too deep
        depth += 1
        if depth > DEPTH:
            raise ValueError(f"nested deeper than {DEPTH} levels")
        objects = [list(v.values()) if isinstance(v, dict) else v for v in level]
        level = [item for v in objects if isinstance(v, list) for item in v]
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in fields if names.count(name) > 1)
        raise ValueError(f"{twice} twice in an object")
    return fields
