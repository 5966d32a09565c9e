"""Read a published checkpoint tensor by tensor, and its config field by field."""

from collections.abc import Callable, Collection, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokcodec.errors import CheckpointError, quoted

Array = NDArray[np.float32]
Arrays = dict[str, Array]


@dataclass(frozen=True)
class Stored:
    """A tensor that is read on request."""

    shape: tuple[int, ...]
    read: Callable[[], Array]


class Tensors:
    """The tensors of a checkpoint. Each is taken once, by its name and shape, and read then."""

    def __init__(self, tensors: Mapping[str, Stored | Array]) -> None:
        self._left = dict(tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def names(self) -> list[str]:
        """The names of the tensors that are left."""
        return list(self._left)

    def below(self, prefix: str) -> "Tensors":
        """The tensors whose names begin with the prefix, under the rest of their names."""
        return Tensors(
            {n.removeprefix(prefix): t for n, t in self._left.items() if n.startswith(prefix)}
        )

    def without(self, prefixes: Iterable[str]) -> "Tensors":
        """All tensors except those whose names begin with one of the prefixes."""
        dropped = tuple(prefixes)
        return Tensors({n: t for n, t in self._left.items() if not n.startswith(dropped)})

    def with_arrays(self, arrays: Arrays) -> "Tensors":
        """The tensors that are left, and these."""
        return Tensors({**self._left, **arrays})

    def averaged(self, prefix: str) -> "Tensors":
        """The moving averages of all tensors, if there are any, else the tensors themselves.

        The name of an average is ``prefix`` and the name of its tensor without dots.

        Raises:
            CheckpointError: some tensors have averages, but not all.
        """
        averages = {n: t for n, t in self._left.items() if n.startswith(prefix)}
        if not averages:
            return self
        live = [n for n in self._left if not n.startswith(prefix)]
        if missing := [n for n in live if prefix + n.replace(".", "") not in averages]:
            raise CheckpointError(f"tensor {missing[0]} has no moving average under {prefix}")
        return Tensors({n: averages[prefix + n.replace(".", "")] for n in live})

    def renamed(self, names: Mapping[str, str]) -> "Tensors":
        """The tensors that are values of ``names``, under their new names, its keys."""
        return Tensors({new: self._left[old] for new, old in names.items()})

    def equal(self, one: str, other: str) -> bool:
        """Whether two tensors are equal."""
        return np.array_equal(_read(self._left[one]), _read(self._left[other]), equal_nan=True)

    def shape(self, name: str, axes: int) -> tuple[int, ...]:
        """The shape of a tensor, which is not removed.

        Raises:
            CheckpointError: it is missing, or has another number of axes.
        """
        if name not in self._left:
            raise CheckpointError(f"tensor {name} is missing")
        shape = tuple(self._left[name].shape)
        if len(shape) != axes:
            raise CheckpointError(f"tensor {name}: expected {axes} axes, not shape {list(shape)}")
        return shape

    def take(self, name: str, *shape: int) -> Array:
        """Remove and return a tensor.

        Raises:
            CheckpointError: it is missing, of another shape, or holds NaN or infinity.
        """
        found = self.shape(name, len(shape))
        if found != shape:
            raise CheckpointError(f"tensor {name}: expected shape {list(shape)}, not {list(found)}")
        tensor = _read(self._left.pop(name))
        if not np.isfinite(tensor).all():
            raise CheckpointError(f"tensor {name} holds NaN or infinite values")
        return tensor

    def take_layer(self, theirs: str, ours: str, *shape: int, bias: bool = True) -> Arrays:
        """Remove and return the weight, of this shape, and the bias of a layer, under our name."""
        layer = {f"{ours}.weight": self.take(f"{theirs}.weight", *shape)}
        return layer | ({f"{ours}.bias": self.take(f"{theirs}.bias", shape[0])} if bias else {})

    def take_1x1(self, name: str, width: int, before: int) -> Array:
        """Take the weight of a 1x1 convolution, [width, before, 1, 1], or of a linear layer."""
        linear = name in self and len(self._left[name].shape) == 2
        taken = self.take(name, width, before, *(() if linear else (1, 1)))
        return taken.reshape(width, before, 1, 1)

    def has_below(self, prefix: str) -> bool:
        """Whether a name that is left begins with the prefix."""
        return any(name.startswith(prefix) for name in self._left)

    def count(self, prefix: str) -> int:
        """One more than the largest number that follows the prefix in a name."""
        rests = [name[len(prefix) :] for name in self._left if name.startswith(prefix)]
        parts = [rest.split(".")[0] for rest in rests]
        # A checkpoint never has so many tensors that a number needs seven digits.
        return 1 + max((int(p) for p in parts if p.isdecimal() and len(p) < 7), default=-1)

    def finish(self) -> None:
        """
        Raises:
            CheckpointError: a tensor is left.
        """
        if self._left:
            names = sorted(self._left)
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"tensor {names[0]}{more}: not part of this family's model")


def _read(tensor: Stored | Array) -> Array:
    return tensor.read() if isinstance(tensor, Stored) else tensor


class Section:
    """A part of a published config, such as ``model.vq_model``."""

    def __init__(self, config: Mapping[str, Any], *path: str) -> None:
        self._path = ".".join(path)
        fields: Any = config
        for name in path:
            fields = fields.get(name) if isinstance(fields, Mapping) else None
        if not isinstance(fields, Mapping):
            raise CheckpointError(f"its config has no {self._path}")
        self.fields = fields

    def integer(self, name: str) -> int:
        """
        Raises:
            CheckpointError: the field is not a positive integer.
        """
        value = self.fields.get(name)
        if type(value) is not int or value <= 0:
            raise CheckpointError(
                f"its config: {self._path}.{name}: {quoted(value)} is not a positive integer"
            )
        return value

    def boolean(self, name: str, default: bool | None = None) -> bool:
        """
        Raises:
            CheckpointError: the field is not a boolean, or missing and without a default.
        """
        value = self.fields.get(name, default)
        if type(value) is not bool:
            raise CheckpointError(
                f"its config: {self._path}.{name}: {quoted(value)} is neither true nor false"
            )
        return value

    def choice(self, name: str, known: Collection[str], default: str | None = None) -> str:
        """
        Raises:
            CheckpointError: the field is not one of ``known``, or missing and without a default.
        """
        value = self.fields.get(name, default)
        if not isinstance(value, str) or value not in known:
            raise CheckpointError(
                f"its config: {self._path}.{name}: {quoted(value)} is none of {', '.join(known)}"
            )
        return value

    def require(self, **facts: int) -> None:
        """Check fields that may be missing against what the shapes of the tensors say.

        Raises:
            CheckpointError: a field has another value.
        """
        for name, fact in facts.items():
            stated = self.fields.get(name, fact)
            if type(stated) is not int or stated != fact:
                raise CheckpointError(
                    f"its config: {self._path}.{name}: {quoted(stated)}, but its tensors say {fact}"
                )

    def only(self, known: Set[str]) -> None:
        """
        Raises:
            CheckpointError: there is an unknown field, which may change what the model computes.
        """
        for name in sorted(self.fields.keys() - known):
            raise CheckpointError(f"its config: {self._path}.{name}: unknown to this tokcodec")
