"""Read the tensors in files of ``torch.save`` and ``torch.jit.save``, without torch.

Such a file is a zip archive with a pickle and the bytes of the tensors. A pickle is a program that
may call any function. Here nothing that it names is imported: a name becomes a ``Stub``, a call
returns a tensor, a dict or another ``Stub``, and only the opcodes listed below are executed.
"""

import contextlib
import io
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from tokcodec.errors import CheckpointError, quoted
from tokcodec.families.reading import Array, Stored

_BEFORE_1_6 = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # the magic number of older files
_BFLOAT16 = "torch.BFloat16Storage"
# The storages of real numbers, and NumPy types of the same size.
_KINDS = {
    "torch.FloatStorage": "f4",
    "torch.DoubleStorage": "f8",
    "torch.HalfStorage": "f2",
    _BFLOAT16: "u2",
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "u1",
}
# Bytes of the largest pickle, that of about 16,000 tensors. It takes up to a hundred times as much
# memory.
_PICKLE = 1 << 22
_NAME = 255  # the most characters of the name of a class
_AXES = 64  # the most axes in NumPy
# Opcodes that only make and move plain values; Python's own unpickler executes them.
_PLAIN = """
    PROTO FRAME STOP MARK POP POP_MARK DUP BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET
    NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINSTRING SHORT_BINSTRING
    BINBYTES SHORT_BINBYTES BINBYTES8 BINUNICODE SHORT_BINUNICODE BINUNICODE8
    EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 GLOBAL STACK_GLOBAL BINPERSID
"""


@contextlib.contextmanager
def open_torch(path: Path) -> Iterator[Any]:
    """Open a file and yield its content, with a ``Stored`` for each tensor.

    The content may be nested to any depth, and contain itself. Dicts have only the items with a
    string as the key; lists and sets are empty. A TorchScript module becomes a dict of its tensors,
    with the names of its ``state_dict``.

    Raises:
        CheckpointError: the file cannot be read, is damaged, or was not written by torch.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
        except OSError as error:
            raise CheckpointError(f"{path}: cannot read: {error.strerror}") from error
        with _naming(path):
            content = _Unpickler(_Archive(path, file)).load()
            if isinstance(content, Stub) and content.name.startswith("__torch__."):
                content = _state_dict(content)
        yield content


@dataclass(slots=True, eq=False)
class Stub:
    """Stands for a class or function that a pickle names, or for an object made with it."""

    name: str
    state: dict[str, Any] = field(default_factory=dict)


class _Archive:
    """The zip archive. Members that are larger than the file are refused."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.size = os.fstat(file.fileno()).st_size
        head = file.read(32)
        if _BEFORE_1_6 in head:
            raise CheckpointError(
                f"{path}: written by PyTorch before version 1.6, which is not supported; "
                "load it with torch.load and save it again with torch.save"
            )
        if not head.startswith(b"PK\3\4"):
            raise ValueError("not a zip archive")
        self._zip = zipfile.ZipFile(file)
        # All members are in one folder, which is named after the original file.
        name = next(n for n in self._zip.namelist() if n.partition("/")[2] == "data.pkl")
        self._folder = name.removesuffix("data.pkl")
        big = "byteorder" in self and self.read("byteorder", 16) == b"big"
        self.order = ">" if big else "<"

    def __contains__(self, name: str) -> bool:
        return self._folder + name in self._zip.NameToInfo

    def find(self, name: str) -> zipfile.ZipInfo:
        """Find a member, which must not be compressed."""
        info = self._zip.getinfo(self._folder + name)
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise ValueError(f"{name} is compressed")
        if info.file_size > self.size:
            raise ValueError(f"{name} is larger than the file")
        return info

    def read(self, name: str, limit: int) -> bytes:
        """Read a member and verify its checksum."""
        info = self.find(name)
        if info.file_size > limit:
            raise ValueError(f"{name} has {info.file_size:,} bytes, more than {limit:,}")
        with self._zip.open(info) as member:
            if info.CRC == 0:  # torch can be told to write no checksums
                member._expected_crc = None  # type: ignore[attr-defined]
            return member.read()


class _Unpickler(pickle._Unpickler):  # the one in Python, whose opcodes can be replaced
    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, archive: _Archive) -> None:
        super().__init__(io.BytesIO(archive.read("data.pkl", _PICKLE)), encoding="latin-1")
        self._archive = archive

    def find_class(self, module: str, name: str) -> Stub:
        if len(module) + len(name) > _NAME:
            raise ValueError("a class with too long a name")
        return Stub(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        return pid  # a storage: ("storage", kind, key, device, count)

    def _load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self._call(function.name, arguments))

    def _load_newobj_ex(self) -> None:
        self.stack.pop()  # keyword arguments
        self._load_reduce()

    def _load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Stub) and isinstance(state, dict):
            target.state = state

    def _load_setitems(self) -> None:
        items, target = self.pop_mark(), self.stack[-1]
        self._fill(target, items)

    def _load_setitem(self) -> None:
        value, key, target = self.stack.pop(), self.stack.pop(), self.stack[-1]
        self._fill(target, [key, value])

    def _fill(self, target: Any, items: list[Any]) -> None:
        pairs = zip(items[::2], items[1::2], strict=True)
        if isinstance(target, dict):
            # Keys of other types may be nested so deeply that hashing them takes forever.
            target.update((key, value) for key, value in pairs if isinstance(key, str))

    def _load_append(self) -> None:
        self.stack.pop()

    def _load_appends(self) -> None:
        self.pop_mark()

    def _load_empty_set(self) -> None:
        self.stack.append([])

    def _load_frozenset(self) -> None:
        self.pop_mark()
        self._load_empty_set()

    def _call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        match name, arguments:
            case "collections.OrderedDict", ():
                return {}
            case (
                "torch._utils._rebuild_parameter"
                | "torch._utils._rebuild_parameter_with_state"
                | "torch.jit._pickle.restore_type_tag",
                (data, *_),
            ):
                return data
            # Flags negate or conjugate the numbers.
            case (
                "torch._utils._rebuild_tensor_v2",
                (storage, offset, tuple(shape), tuple(strides), _, _, *flags),
            ) if not any(flags):
                return self._tensor(storage, offset, shape, strides)
        return Stub(name)

    def _tensor(
        self, storage: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> Stored | Stub:
        match storage:
            case ("storage", Stub(kind), str(key), _, int(count)):
                pass
            case _:
                raise ValueError("a tensor without a storage")
        if kind not in _KINDS:  # complex numbers, say
            return Stub(kind)
        numbers = (count, offset, *shape[:_AXES], *strides[:_AXES])
        if len(shape) != len(strides) or len(shape) > _AXES or not all(map(_is_size, numbers)):
            raise ValueError("a tensor without a shape")
        if 0 in shape:  # an empty slice may have any offset
            return Stored(shape, partial(_empty, self._archive, shape))
        dtype = np.dtype(self._archive.order + _KINDS[kind])
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        stored = self._archive.find(f"data/{key}").file_size
        if last >= count or count * dtype.itemsize != stored:
            raise ValueError("a tensor that is larger than its bytes")
        if math.prod(shape) > self._archive.size:
            raise ValueError("a tensor with more numbers than the file has bytes")
        return Stored(shape, partial(_read, self._archive, key, kind, offset, shape, strides))

    # All other opcodes are refused. Those of copyreg's extensions would return real objects.
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **{
            code: pickle._Unpickler.dispatch[code]
            for code in (getattr(pickle, name)[0] for name in _PLAIN.split())
        },
        pickle.REDUCE[0]: _load_reduce,
        pickle.NEWOBJ[0]: _load_reduce,
        pickle.NEWOBJ_EX[0]: _load_newobj_ex,
        pickle.BUILD[0]: _load_build,
        pickle.SETITEM[0]: _load_setitem,
        pickle.SETITEMS[0]: _load_setitems,
        pickle.APPEND[0]: _load_append,
        pickle.APPENDS[0]: _load_appends,
        pickle.ADDITEMS[0]: _load_appends,
        pickle.EMPTY_SET[0]: _load_empty_set,
        pickle.FROZENSET[0]: _load_frozenset,
    }


def _is_size(number: Any) -> bool:
    return type(number) is int and 0 <= number < 1 << 63


def _empty(archive: _Archive, shape: tuple[int, ...]) -> Array:
    with _naming(archive.path):
        return np.zeros(shape, np.float32)


def _read(
    archive: _Archive,
    key: str,
    kind: str,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> Array:
    """Read a tensor as an array of its own."""
    dtype = np.dtype(archive.order + _KINDS[kind])
    steps = [stride * dtype.itemsize for stride in strides]
    with _naming(archive.path), np.errstate(all="ignore"):
        data = archive.read(f"data/{key}", archive.size)
        view = np.ndarray(shape, dtype, data, offset * dtype.itemsize, steps)
        if kind != _BFLOAT16:
            return view.astype(np.float32, order="C")  # large float64 become infinite
        bits = view.astype(np.uint32, order="C")
        bits <<= 16  # a bfloat16 is the upper half of a float32
        return bits.view(np.float32)


def _state_dict(module: Stub) -> dict[str, Stored]:
    """The tensors of a TorchScript module and its submodules."""
    tensors: dict[str, Stored] = {}
    pending, characters = [("", module)], 0
    while pending:
        prefix, owner = pending.pop()
        # A module may be part of several modules, and of itself.
        characters += sum(len(prefix) + len(name) + 1 for name in owner.state)
        if characters > _PICKLE:
            raise ValueError("modules nested too deep")
        for name, value in owner.state.items():
            if isinstance(value, Stored):
                tensors[prefix + name] = value
            elif isinstance(value, Stub):
                pending.append((f"{prefix}{name}.", value))
    return tensors


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Convert all errors of a damaged file to one that names it."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # pickle, zipfile and NumPy raise nearly any kind
        reason = quoted(str(error) or type(error).__name__)[1:-1]
        raise CheckpointError(
            f"{path}: damaged, or not written by torch.save ({reason}); fetch it again"
        ) from error
