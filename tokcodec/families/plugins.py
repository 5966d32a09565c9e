"""Families of other packages, found by their entry points in the group ``tokcodec.families``.

Their code is imported when a published checkpoint is looked at, and not before. What it raises that
is no error of tokcodec's ends in one line that names the package.
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
    """The families of the packages that are installed beside this one.

    Raises:
        CheckpointError: one cannot be imported, or is no ``Family``.
    """
    return [_load(point) for point in entry_points(group=GROUP)]


@functools.cache  # so that a family is the same object every time
def _load(point: EntryPoint) -> Family:
    family = _named(point, point.load)()
    if not isinstance(family, Family):
        raise _broken(point, f"{point.value} is no tokcodec.families.Family")
    return replace(
        family,
        recognises=_named(point, family.recognises),
        convert=_named(point, family.convert),
    )


def _named(point: EntryPoint, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose unexpected errors name the package that it is of."""

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
