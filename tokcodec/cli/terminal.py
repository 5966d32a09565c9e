"""Printing for people: messages and progress on standard error."""

import sys

from rich.console import Console


def say(message: str) -> None:
    """One line on standard error, under the program's name."""
    print(f"tokcodec: {message}", file=sys.stderr, flush=True)


def error_console() -> Console:
    return Console(stderr=True)
