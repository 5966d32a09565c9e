"""What ``torch.save`` wrote, read as data: torch is not needed, and nothing in the file runs.

Such a file is a pickle, a program for a stack machine that may call any function there is, and
the bytes of the tensors. The machine here knows the few functions that tensors are made with, as
its own; whatever else the pickle names, calls or fills is a ``Placeholder``.
"""

import contextlib
import io
import itertools
import math
import os
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tokcodec.errors import CheckpointError, quoted

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # how a file from before torch 1.6 begins
_BFLOAT16 = "BFloat16Storage"
# Kinds of storages of real numbers, and the numpy types that have their bits.
_KINDS = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    _BFLOAT16: "u2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "u1",
}
# Bytes that a pickle may take, in the file and, as a rough guess, in memory: an object of 128 for
# each read, an entry of 64 for each value copied. There is room for some 40,000 tensors.
_BUDGET, _OBJECT, _ENTRY = 1 << 28, 128, 64


@dataclass(frozen=True, eq=False, slots=True)
class Placeholder:
    """Stands for a class or function that the pickle names, or for what calling it would give."""

    name: str


@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """Numbers of one kind (``FloatStorage``) in the file; several tensors may share them."""

    key: str
    kind: str
    count: int


@dataclass(frozen=True, eq=False, slots=True)
class Tensor:
    """A tensor whose numbers are still in the file. Offset and strides count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TorchFile:
    """A checkpoint of PyTorch (``.ckpt``, ``.pt``, ``.pth``, ``.bin``), of any version from 0.4.

    Attributes:
        path: the file.
        content: what was saved, out of dict, list, tuple, set, str, bytes, numbers, None,
            ``Tensor``, ``Storage`` and ``Placeholder``. It comes from outside: it may be nested to
            any depth, and hold itself.

    Raises:
        CheckpointError: the file cannot be read, is damaged, or is none of ``torch.save``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._order = "<"
        self._places: dict[str, tuple[int, int, int]] = {}  # start, bytes, CRC-32 or 0
        with _opened(path) as file:
            self._size = os.fstat(file.fileno()).st_size
            is_zip = file.read(4) == b"PK\3\4"
            file.seek(0)
            self.content = self._open_zip(file) if is_zip else self._open_legacy(file)

    def tensors(self, *keys: str) -> dict[str, Tensor]:
        """The tensors by name in the dict under these keys, each within the one before; without
        keys, in the whole. What else is there is passed over.

        Raises:
            CheckpointError: there are none.
        """
        level = self.content
        for key in keys:
            level = level.get(key) if isinstance(level, dict) else None
        items = level.items() if isinstance(level, dict) else ()
        found = {k: v for k, v in items if isinstance(k, str) and isinstance(v, Tensor)}
        if not found:
            where = f"under {'.'.join(keys)}" if keys else "by name"
            raise CheckpointError(f"{self.path}: expected tensors {where}, found none")
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
        """These tensors of the file as arrays, each of its own. Takes the memory of the arrays,
        and while it reads that of the largest storage.

        Raises:
            CheckpointError: one is damaged, or no plain array of real numbers.
        """

        def key(item: tuple[str, Tensor]) -> str:
            return item[1].storage.key

        arrays: dict[str, NDArray[np.float32]] = {}
        with _opened(self.path) as file:
            # A few tensors share their numbers; a small file whose tensors fill the memory is bad.
            if sum(math.prod(tensor.shape) for tensor in tensors.values()) > 2 * self._size:
                raise ValueError("its tensors have more numbers than it holds")
            for place, group in itertools.groupby(sorted(tensors.items(), key=key), key):
                arrays |= self._arrays(self._read(file, f"data/{place}"), group)
        return {name: arrays[name] for name in tensors}

    def _arrays(
        self, data: bytes, tensors: Iterable[tuple[str, Tensor]]
    ) -> dict[str, NDArray[np.float32]]:
        return {name: self._array(name, tensor, data) for name, tensor in tensors}

    def _array(self, name: str, tensor: Tensor, data: bytes) -> NDArray[np.float32]:
        storage = tensor.storage
        if storage.kind not in _KINDS:
            raise CheckpointError(
                f"{self.path}: tensor {quoted(name)} is no plain array of real numbers"
            )
        dtype = np.dtype(self._order + _KINDS[storage.kind])
        if 0 in tensor.shape:  # an empty slice may begin anywhere
            return np.zeros(tensor.shape, np.float32)
        steps = zip(tensor.shape, tensor.strides, strict=True)
        last = tensor.offset + sum((length - 1) * stride for length, stride in steps)
        if storage.count * dtype.itemsize != len(data) or last >= storage.count:
            raise CheckpointError(
                f"{self.path}: damaged: tensor {quoted(name)} is larger than its bytes; "
                "fetch it again"
            )
        strides = [stride * dtype.itemsize for stride in tensor.strides]
        view: NDArray[Any] = np.ndarray(
            tensor.shape, dtype, data, tensor.offset * dtype.itemsize, strides
        )
        if storage.kind == _BFLOAT16:  # the upper half of a float32
            bits = view.astype(np.uint32, order="C")
            bits <<= 16
            return bits.view(np.float32)
        with np.errstate(all="ignore"):  # a float64 too large is infinite, as in torch
            return view.astype(np.float32, order="C")

    def _open_zip(self, file: BinaryIO) -> Any:
        for info in zipfile.ZipFile(file).infolist():
            name = info.filename.partition("/")[2]  # below a folder named after the first file
            if name in self._places:
                raise ValueError(f"two members {name}")
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"member {name} is compressed")
            file.seek(info.header_offset + 26)
            start = info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
            self._places[name] = (start, info.compress_size, info.CRC)
        if "byteorder" in self._places and self._read(file, "byteorder") == b"big":
            self._order = ">"
        return _Pickle(io.BytesIO(self._read(file, "data.pkl"))).load()

    def _open_legacy(self, file: BinaryIO) -> Any:
        begin = [_Pickle(file).load() for _ in range(3)]
        if begin[:2] != [_MAGIC, _PROTOCOL]:  # the third tells of the machine
            raise ValueError("unknown first bytes")
        pickle = _Pickle(file)
        content = pickle.load()
        for key in _Pickle(file).load():
            storage = pickle.storages[_key(key)]
            if int.from_bytes(file.read(8), "little") != storage.count:
                raise ValueError("a storage of another size than its tensors say")
            size = storage.count * np.dtype(_KINDS[storage.kind]).itemsize
            self._places[f"data/{storage.key}"] = (file.tell(), size, 0)
            file.seek(size, os.SEEK_CUR)
        return content

    def _read(self, file: BinaryIO, name: str) -> bytes:
        if name not in self._places:
            raise ValueError(f"no member {name}")
        start, size, crc = self._places[name]
        if start + size > self._size:
            raise ValueError(f"{name} ends beyond the file")
        file.seek(start)
        data = file.read(size)
        if crc and zlib.crc32(data) != crc:  # torch can be told to write none: 0
            raise ValueError(f"{name} is not as it was written")
        return data


class _Metered:
    """A file from which only so much may be read, and made of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = _BUDGET

    def read(self, count: int) -> bytes:
        self.spend(_OBJECT + count)
        return self._file.read(count)

    def readline(self) -> bytes:
        self.spend(_OBJECT)
        return self._file.readline(4096)

    def spend(self, cost: int) -> None:
        self._left -= cost
        if self._left < 0:
            raise ValueError("its pickle is too large")


class _Pickle:
    """The pickle that begins where the file stands."""

    def __init__(self, file: BinaryIO) -> None:
        self.storages: dict[str, Storage] = {}
        self._source: Any = _Metered(file)

    def load(self) -> Any:
        """What was pickled, as in ``TorchFile.content``. Leaves the file at the pickle's end.

        Raises any exception if the pickle is damaged.
        """
        stack: list[Any] = []
        marks: list[int] = []  # places in the stack
        memo: dict[int, Any] = {}
        argument: Any

        def take(count: int | None = None) -> list[Any]:
            """The last items of the stack; without a count, those since the last mark."""
            start = marks.pop() if count is None else len(stack) - count
            if start < 0:
                raise ValueError("its pickle takes what is not there")
            items = stack[start:]
            del stack[start:]
            return items

        for opcode, argument, _ in pickletools.genops(self._source):
            match opcode.name:
                case "PROTO" | "FRAME" | "STOP":
                    pass
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "MARK":
                    marks.append(len(stack))
                case "BINUNICODE" | "SHORT_BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING":
                    stack.append(argument)
                case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                    stack.append(argument)
                case "BINBYTES" | "SHORT_BINBYTES":
                    stack.append(argument)
                case "NONE":
                    stack.append(None)
                case "NEWTRUE" | "NEWFALSE":
                    stack.append(opcode.name == "NEWTRUE")
                case "EMPTY_DICT":
                    stack.append({})
                case "EMPTY_LIST":
                    stack.append([])
                case "EMPTY_SET":
                    stack.append(set())
                case "EMPTY_TUPLE":
                    stack.append(())
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    stack.append(tuple(take(int(opcode.name[-1]))))
                case "TUPLE":
                    stack.append(tuple(take()))
                case "FROZENSET":
                    stack.append(_set(take()))
                case "APPEND":
                    _fill(take(1), stack[-1])
                case "SETITEM":
                    _fill(take(2), stack[-1])
                case "APPENDS" | "SETITEMS" | "ADDITEMS":
                    _fill(take(), stack[-1])
                case "GLOBAL":
                    stack.append(Placeholder(argument.replace(" ", ".")))
                case "STACK_GLOBAL":
                    parts = take(2)
                    self._source.spend(sum(map(len, parts)))
                    stack.append(Placeholder(".".join(parts)))
                case "BINPERSID":
                    stack.append(self._refer(*take(1)))
                case "REDUCE" | "NEWOBJ":
                    stack.append(self._call(*take(2)))
                case "NEWOBJ_EX":
                    stack.append(self._call(*take(3)[:2]))
                case "OBJ":
                    function, *arguments = take()
                    stack.append(self._call(function, tuple(arguments)))
                case "BUILD" | "POP":  # what is built keeps no state
                    take(1)
                case "POP_MARK":
                    take()
                case unknown:
                    raise ValueError(f"opcode {unknown}")
        return take(1)[0]

    def _refer(self, reference: Any) -> Any:
        self._source.spend(_ENTRY * len(reference))
        match reference:
            case ("storage", Placeholder(name), str(key), _, int(count), *view) if not any(view):
                self.storages[key] = Storage(key, name.rpartition(".")[2], count)
                return self.storages[key]
            case ("module", Placeholder() as module, _, _):  # a class, with its source
                return module
        raise ValueError("an unknown reference")

    def _call(self, function: Any, arguments: Any) -> Any:
        if not (isinstance(function, Placeholder) and isinstance(arguments, tuple)):
            raise ValueError("a call of no function")
        own = _FUNCTIONS.get(function.name)
        if own is None:
            return Placeholder(function.name)
        for value in (arguments, *arguments):
            if isinstance(value, Sized):  # it may be copied
                self._source.spend(len(value) * (1 if isinstance(value, str) else _ENTRY))
        return own(*arguments)


_PLAIN = (str, bytes, int, float, NoneType, Placeholder)  # what may be a key


def _key(value: Any) -> Any:
    """The value, if it can be told from others at little cost: tuples nest without end."""
    return value if isinstance(value, _PLAIN) else Placeholder(type(value).__name__)


def _fill(items: list[Any], target: Any) -> None:
    match target:
        case list():
            target.extend(items)
        case set():
            target.update(map(_key, items))
        case dict():
            target.update(zip(map(_key, items[::2]), items[1::2], strict=True))
        case Placeholder():
            pass
        case _:
            raise ValueError("no container to fill")


def _tensor(
    storage: Storage,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    _grad: object = None,
    _hooks: object = None,
    metadata: object = None,
) -> Tensor | Placeholder:
    if not (
        isinstance(storage, Storage)
        and isinstance(shape, tuple)
        and len(shape) == len(strides) <= 64  # that many numpy can have
        and all(type(number) is int and number >= 0 for number in (offset, *shape, *strides))
    ):
        raise ValueError("a tensor without a shape")
    # Metadata say that the numbers are to be negated.
    return Placeholder("torch.Tensor") if metadata else Tensor(storage, offset, shape, strides)


def _ordered(pairs: Iterable[tuple[Any, Any]] = ()) -> dict[Any, Any]:
    return {_key(key): value for key, value in pairs}


def _set(items: Iterable[Any] = ()) -> set[Any]:
    return set(map(_key, items))


# What a pickle may call: ours, by the name of theirs. Python 2 says __builtin__.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch.Size": lambda sizes: sizes,
    "collections.OrderedDict": _ordered,
    "builtins.set": _set,
    "__builtin__.set": _set,
    "builtins.frozenset": _set,
    "__builtin__.frozenset": _set,
    "_codecs.encode": lambda text, _: text.encode("latin-1"),  # bytes before protocol 3
    "__builtin__.bytes": lambda: b"",
}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file; whatever its bytes raise while it is read becomes an error that names it."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read: {error.strerror}") from error
    with file:
        try:
            yield file
        except CheckpointError:
            raise
        except Exception as error:
            # zipfile, pickletools and numpy meet damage with nearly any exception.
            reason = quoted(str(error) or type(error).__name__)[1:-1]
            raise CheckpointError(
                f"{path}: damaged, or not written by torch.save ({reason}); fetch it again"
            ) from error
