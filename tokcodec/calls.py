"""Packages that are functions as well: ``tokcodec.train(...)``."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        function = self.__name__.rpartition(".")[2]
        return getattr(import_module(f"{self.__name__}.api"), function)(*arguments, **options)


def make_callable(package: str) -> None:
    """Makes a package callable as the function of its name in its module ``api``.

    Python makes an imported package an attribute of the package around it, so a function of the
    same name could not be there.
    """
    sys.modules[package].__class__ = _Callable
