"""Families of other packages, found by their entry points in the group ``tokcodec.families``.

Their code is imported only when a published checkpoint is read. An unexpected error in it becomes a
``CheckpointError`` that names the package.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from tokcodec.errors import CheckpointError, TokcodecError, one_line
from tokcodec.families.family import Family

GROUP = "tokcodec.families"


def installed() -> list[Family]:
    """The families of other packages that are installed.

    Raises:
        CheckpointError: one cannot be imported, or is not a ``Family``.
    """
    return [_load(point) for point in entry_points(group=GROUP)]


@functools.cache  # so that a family is the same object every time
def _load(point: EntryPoint) -> Family:
    family = _named(point, point.load)()
    if not isinstance(family, Family):
        raise _broken(point, f"{point.value} is not a tokcodec.families.Family")
    return replace(
        family,
        recognises=_named(point, family.recognises),
        convert=_named(point, family.convert),
    )


def _named(point: EntryPoint, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that its unexpected errors name the package."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except TokcodecError:
            raise
        except Exception as error:
            raise _broken(point, f"{type(error).__name__}: {error}") from error

    return call


def _broken(point: EntryPoint, reason: str) -> CheckpointError:
    package = point.dist.name if point.dist else point.value
    return CheckpointError(
        one_line(f"its family {point.name} fails ({reason}); update or uninstall it"), name=package
    )
