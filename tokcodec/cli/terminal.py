"""What a command prints: messages, results and JSON.

Text that comes from files passes ``errors.escaped`` before it reaches a terminal. JSON keeps it.
"""

import json
import sys
from typing import Any

from tokcodec.dataset import require_pyarrow as require_pyarrow
from tokcodec.errors import escaped, one_line

quiet = False  # whether only errors are printed, as --quiet asks for


def say(message: str) -> None:
    """Prints one line on standard error, with the program's name before it."""
    print(f"tokcodec: {one_line(message)}", file=sys.stderr, flush=True)


def note(message: str) -> None:
    """Prints one line as ``say`` does, but not with ``--quiet``."""
    if not quiet:
        say(message)


def show(line: str) -> None:
    """Prints one line of a result on standard output, uncut."""
    print(escaped(line))


def cell(text: str) -> str:
    """Escapes text from a file for a table of rich, which reads square brackets as markup."""
    from rich.markup import escape

    return escape(escaped(text))


def print_json(value: Any) -> None:
    print(json.dumps(value), flush=True)
