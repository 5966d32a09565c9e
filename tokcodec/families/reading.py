"""Reading a published checkpoint piece by piece: nothing missing, nothing over, nothing odd."""

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
    """A tensor that is not read yet."""

    shape: tuple[int, ...]
    read: Callable[[], Array]


class Tensors:
    """The tensors of a checkpoint, each taken once, under its name and with its shape, and read
    when it is taken."""

    def __init__(self, tensors: Mapping[str, Stored | Array]) -> None:
        self._left = dict(tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def names(self) -> list[str]:
        """Of those that are left."""
        return list(self._left)

    def below(self, prefix: str) -> "Tensors":
        """Only those whose names begin so, without that beginning."""
        return Tensors(
            {n.removeprefix(prefix): t for n, t in self._left.items() if n.startswith(prefix)}
        )

    def without(self, prefixes: Iterable[str]) -> "Tensors":
        """All but those whose names begin so, which are never read."""
        beginnings = tuple(prefixes)
        return Tensors({n: t for n, t in self._left.items() if not n.startswith(beginnings)})

    def with_arrays(self, arrays: Arrays) -> "Tensors":
        """Those that are left, and these."""
        return Tensors({**self._left, **arrays})

    def averaged(self, prefix: str) -> "Tensors":
        """The moving averages of all, where there are any: they lie under ``prefix`` and the name
        without its dots.

        Raises:
            CheckpointError: one has no average.
        """
        averages = {n: t for n, t in self._left.items() if n.startswith(prefix)}
        if not averages:
            return self
        live = [n for n in self._left if not n.startswith(prefix)]
        if missing := [n for n in live if prefix + n.replace(".", "") not in averages]:
            raise CheckpointError(f"tensor {missing[0]} has no moving average under {prefix}")
        return Tensors({n: averages[prefix + n.replace(".", "")] for n in live})

    def renamed(self, names: Mapping[str, str]) -> "Tensors":
        """Only those that ``names`` has, new name to old."""
        return Tensors({new: self._left[old] for new, old in names.items()})

    def equal(self, one: str, other: str) -> bool:
        """Whether two hold the same numbers."""
        return np.array_equal(_read(self._left[one]), _read(self._left[other]), equal_nan=True)

    def shape(self, name: str, axes: int) -> tuple[int, ...]:
        """The shape of a tensor that must be there.

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
        """Removes and gives a tensor.

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
        """The weight, of this shape, and the bias of a layer, under our name."""
        layer = {f"{ours}.weight": self.take(f"{theirs}.weight", *shape)}
        return layer | ({f"{ours}.bias": self.take(f"{theirs}.bias", shape[0])} if bias else {})

    def take_1x1(self, name: str, width: int, before: int) -> Array:
        """As ``take``, a 1x1 convolution [width, before, 1, 1]; a linear layer is one, too."""
        linear = name in self and len(self._left[name].shape) == 2
        taken = self.take(name, width, before, *(() if linear else (1, 1)))
        return taken.reshape(width, before, 1, 1)

    def has_below(self, prefix: str) -> bool:
        """Whether the name of one that is left begins so."""
        return any(name.startswith(prefix) for name in self._left)

    def count(self, prefix: str) -> int:
        """How many are numbered behind ``prefix``: one more than the largest number there."""
        rests = [name[len(prefix) :] for name in self._left if name.startswith(prefix)]
        parts = [rest.split(".")[0] for rest in rests]
        # A number with more digits than there could be tensors numbers nothing.
        return 1 + max((int(p) for p in parts if p.isdecimal() and len(p) < 7), default=-1)

    def finish(self) -> None:
        """Nothing may be left.

        Raises:
            CheckpointError: a tensor is.
        """
        if self._left:
            names = sorted(self._left)
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"tensor {names[0]}{more}: not part of this family's model")


def _read(tensor: Stored | Array) -> Array:
    return tensor.read() if isinstance(tensor, Stored) else tensor


class Section:
    """A part of a foreign config, ``model.vq_model`` say."""

    def __init__(self, config: Mapping[str, Any], *path: str) -> None:
        self._path = ".".join(path)
        fields: Any = config
        for name in path:
            fields = fields.get(name) if isinstance(fields, Mapping) else None
        if not isinstance(fields, Mapping):
            raise CheckpointError(f"its config has no {self._path}")
        self.fields = fields

    def integer(self, name: str) -> int:
        """A positive integer that must be there.

        Raises:
            CheckpointError: it is not.
        """
        value = self.fields.get(name)
        if type(value) is not int or value <= 0:
            raise CheckpointError(
                f"its config: {self._path}.{name}: {quoted(value)} is not a positive integer"
            )
        return value

    def boolean(self, name: str, default: bool | None = None) -> bool:
        """A truth value; without a default it must be there.

        Raises:
            CheckpointError: it is something else.
        """
        value = self.fields.get(name, default)
        if type(value) is not bool:
            raise CheckpointError(
                f"its config: {self._path}.{name}: {quoted(value)} is neither true nor false"
            )
        return value

    def choice(self, name: str, known: Collection[str], default: str | None = None) -> str:
        """One of some words; without a default it must be there.

        Raises:
            CheckpointError: it is another.
        """
        value = self.fields.get(name, default)
        if not isinstance(value, str) or value not in known:
            raise CheckpointError(
                f"its config: {self._path}.{name}: {quoted(value)} is none of {', '.join(known)}"
            )
        return value

    def require(self, **facts: int) -> None:
        """What the tensors' shapes say and the config must not deny.

        Raises:
            CheckpointError: the config says otherwise.
        """
        for name, fact in facts.items():
            stated = self.fields.get(name, fact)
            if type(stated) is not int or stated != fact:
                raise CheckpointError(
                    f"its config: {self._path}.{name}: {quoted(stated)}, but its tensors say {fact}"
                )

    def only(self, known: Set[str]) -> None:
        """Every field here is known.

        Raises:
            CheckpointError: one is not; it might change what the model computes.
        """
        for name in sorted(self.fields.keys() - known):
            raise CheckpointError(f"its config: {self._path}.{name}: unknown to this tokcodec")
