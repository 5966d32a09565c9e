"""Prints messages, results, tables and JSON.

Text from files is escaped (``errors.escaped``) before it is printed, except in JSON.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from tokcodec.errors import escaped, one_line

quiet = False  # whether only errors are printed, see --quiet


def say(message: str) -> None:
    """Prints one line on standard error, after the program's name."""
    print(f"tokcodec: {one_line(message)}", file=sys.stderr, flush=True)


def note(message: str) -> None:
    """Prints one line as ``say`` does, but not with ``--quiet``."""
    if not quiet:
        say(message)


def show(line: str) -> None:
    """Prints one line of a result on standard output."""
    print(escaped(line))


def print_table(
    rows: Iterable[Sequence[str]], left: Iterable[int] = (0,), head: bool = True
) -> None:
    """Prints a table, whose figures are not cut in a pipe or a narrow terminal.

    Args:
        rows: the text of each cell.
        left: the columns that are aligned on the left; the others are aligned on the right.
        head: the first row is a head.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    first, *others = rows
    table = Table(box=None, show_header=head)
    for number, name in enumerate(first):
        justify: Literal["left", "right"] = "left" if number in left else "right"
        table.add_column(Text(escaped(name)), justify=justify, no_wrap=True)
    for row in others if head else (first, *others):
        table.add_row(*(Text(escaped(cell)) for cell in row))  # brackets are no markup
    Console(width=1000).print(table)


def print_json(value: Any) -> None:
    print(json.dumps(value), flush=True)
