"""Files of torch.save: their tensors come out, and nothing in them runs or fills the memory."""

import argparse
import collections
import contextlib
import copyreg
import fractions
import functools
import io
import operator
import os
import pathlib
import pickle
import random
import struct
import subprocess
import sys
import tracemalloc
import types
import zipfile

import numpy as np
import pytest
import torch

from tokcodec.errors import CheckpointError
from tokcodec.families.torch_file import Placeholder, TorchFile

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(content, path, zipped=True, **options):
    torch.save(content, path, _use_new_zipfile_serialization=zipped, **options)
    return path


def archive(path, pickled, compress=zipfile.ZIP_STORED, **members):
    """A file of the zip format around a pickle."""
    with zipfile.ZipFile(path, "w", compress) as file:
        file.writestr("archive/data.pkl", pickled)
        for name, data in members.items():
            file.writestr(f"archive/{name.replace('_', '/')}", data)
    return path


class Call:
    """Pickled as a call of a function (or of what a call gives) with these arguments."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments, state)

    def __call__(self):
        """The pickler asks for functions that can be called."""

    def __reduce__(self):
        return self.parts


class Reference(tuple):
    """Pickled as a persistent id."""


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return tuple(value) if isinstance(value, Reference) else None


def pickled(content, protocol=2):
    file = io.BytesIO()
    Pickler(file, protocol).dump(content)
    return file.getvalue()


def tensor(offset, shape, strides, count=4, kind=torch.FloatStorage):
    storage = Reference(("storage", kind, "0", "cpu", count))
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, shape, strides, False, {})


def many_kinds():
    torch.manual_seed(0)
    base = torch.randn(6, 5)
    tensors = {
        "plain": torch.randn(3, 4),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "empty slice": base[6:, 2:],
        "none in storage": torch.zeros(0),
        "shared": base,
        "transposed": base.T,
        "sliced": base[1:4, ::2],
        "one column": base[:, 3:4],
        "last": base[5, 4],
        "expanded": base[:1].expand(3, 5),
        "permuted": torch.randn(2, 3, 4, 5).permute(3, 0, 2, 1),
        "channels last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(torch.randn(4)),
        "float64": torch.tensor([1 / 3, 1e300, -1e-300], dtype=torch.float64),
        "bool": torch.tensor([True, False]),
        "negative": torch.arange(-3, 3)[::2],
        "uint8": torch.arange(250, 256, dtype=torch.uint8),
    }
    for kind in (torch.float16, torch.bfloat16):
        tensors[str(kind)] = torch.tensor([1 / 3, -0.0, 1e-40, 65504, torch.inf, torch.nan]).to(
            kind
        )
        tensors[f"{kind} scalar"] = torch.tensor(-1.5, dtype=kind)
        tensors[f"{kind} sliced"] = torch.randn(5, 4).to(kind)[1:, 1]
    for kind in (torch.int8, torch.int16, torch.int32, torch.int64):
        tensors[str(kind)] = torch.tensor([-128, 0, 127], dtype=kind)
    return tensors


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_of_all_kinds(tmp_path, zipped, protocol):
    tensors = many_kinds()
    path = save({"state_dict": tensors}, tmp_path / "a.ckpt", zipped, pickle_protocol=protocol)
    file = TorchFile(path)
    found = file.tensors("state_dict")
    assert {name: lazy.shape for name, lazy in found.items()} == {
        name: tuple(t.shape) for name, t in tensors.items()
    }
    loaded = file.load(found)
    assert list(loaded) == list(tensors)
    for name, array in loaded.items():
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        expected = tensors[name].detach().float().contiguous().numpy()
        assert array.shape == expected.shape, name
        assert np.array_equal(array, expected, equal_nan=True), name
    loaded["shared"][:] = 9  # each array is its own
    assert not (loaded["sliced"] == 9).any()


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values(tmp_path, zipped, protocol):
    cycle = [1]
    cycle.append((cycle, 2))
    content = {
        "numbers": [0, -1, 255, 70_000, -(2**40), 2**90, 1.5, True, False],
        "texts": ("", "ä\n🙂", b"", b"\x00\xff", None, (), ("a", ("b", {"c": []}))),
        "sets": [set(), {1, "b"}, frozenset({2})],
        "size": torch.Size([2, 3]),
        "ordered": collections.OrderedDict([("z", 1), ("a", 2)]),
        7: {None: 1.5, True: 2, b"x": 3},
        "many": {str(i): [i] for i in range(3000)},
        "again": [cycle, cycle],
    }
    path = save(content, tmp_path / "a.pt", zipped, pickle_protocol=protocol)
    read = TorchFile(path).content
    assert read["again"][0] is read["again"][1] is read["again"][0][1][0]
    del content["again"], read["again"]
    assert read == content
    assert list(read["ordered"]) == ["z", "a"]


def test_what_python_2_wrote(tmp_path):
    pairs = b"ccollections\nOrderedDict\n](](U\x01bK\x01e](U\x01aK\x02ee\x85R"
    path = archive(
        tmp_path / "a.pt", b"\x80\x02" + pairs + b"c__builtin__\nset\n](K\x03e\x85R\x86."
    )
    ordered, members = TorchFile(path).content
    assert list(ordered.items()) == [("b", 1), ("a", 2)]
    assert members == {3}


class Odd(dict):
    """A dict with a state, such as configs are."""


@FORMATS
def test_objects_of_other_programs(tmp_path, zipped, monkeypatch):
    module = types.ModuleType("a_library.callbacks")
    callback = type("Callback", (), {"__module__": module.__name__})
    slotted = type("Slotted", (), {"__module__": module.__name__, "__slots__": ("value",)})
    module.Callback, module.Slotted = callback, slotted
    monkeypatch.setitem(sys.modules, "a_library", types.ModuleType("a_library"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    odd, unusual = Odd(a=1), slotted()
    odd.more = unusual.value = torch.ones(3)
    content = {
        "callbacks": {callback: {"best": callback(), "score": np.float64(0.5)}},
        "numpy": [np.float32(1), np.arange(3), np.dtype("f4")],
        "args": argparse.Namespace(lr=1e-4, path=pathlib.PurePosixPath("a")),
        "config": [odd, unusual, collections.defaultdict(list, {1: [2]}), collections.Counter("a")],
        "functions": [len, functools.partial(max, key=len), torch.float32, torch.device("cpu")],
        "keys": {(1, 2): 3, frozenset({4}): 5, fractions.Fraction(1, 2): 6},
        "others": [1j, bytearray(b"a"), torch.strided, range(3), slice(1)],
        "optimizer_states": [optimizer.state_dict()],
        "whole": model,
        "state_dict": model.state_dict(),  # an OrderedDict with a state
    }
    path = save(content, tmp_path / "a.ckpt", zipped)
    monkeypatch.delitem(sys.modules, module.__name__)
    file = TorchFile(path)
    assert module.__name__ not in sys.modules
    ((key, value),) = file.content["callbacks"].items()
    assert isinstance(key, Placeholder)
    assert key.name == "a_library.callbacks.Callback"
    assert isinstance(value["best"], Placeholder)
    assert isinstance(value["score"], Placeholder)
    for name in ("numpy", "config", "functions"):
        assert all(isinstance(item, Placeholder) for item in file.content[name])
    assert isinstance(file.content["args"], Placeholder)
    assert isinstance(file.content["whole"], Placeholder)
    assert list(file.content["keys"].values()) == [3, 5, 6]
    moments = file.content["optimizer_states"][0]["state"][0]
    assert moments["exp_avg"].shape == (2, 2)
    loaded = file.load(file.tensors("state_dict"))
    assert np.array_equal(loaded["weight"], model.weight.detach().numpy())
    assert np.array_equal(loaded["bias"], model.bias.detach().numpy())


def test_tensors_that_are_no_plain_arrays(tmp_path):
    eye = torch.eye(3)
    content = {
        "complex": torch.zeros(2, dtype=torch.complex64),
        "sparse": eye.to_sparse(),
        "negated": torch.zeros(2, dtype=torch.complex64).conj().imag,
        "meta": torch.zeros(2, device="meta"),
        "plain": eye,
        "\x1b[2J" + 100 * "x": torch.zeros(2, dtype=torch.complex64),
    }
    file = TorchFile(save(content, tmp_path / "a.pt"))
    found = file.tensors()
    kept = {"plain": found.pop("plain")}
    assert np.array_equal(file.load(kept)["plain"], eye.numpy())
    for name in ("sparse", "negated", "meta"):
        assert isinstance(file.content[name], Placeholder), name
    assert len(found) == 2
    for name, lazy in found.items():
        with pytest.raises(CheckpointError, match="no plain array of real numbers") as error:
            file.load({name: lazy})
        assert str(error.value).isprintable()
        assert len(str(error.value)) < len(str(tmp_path)) + 200


def test_tensors_that_are_not_there(tmp_path):
    file = TorchFile(save({"model": {"a": 1}, "epoch": 3}, tmp_path / "a.pt"))
    for keys in [(), ("model",), ("ema",), ("epoch", "a"), ("model", "a", "b")]:
        with pytest.raises(CheckpointError, match=r"a\.pt: expected tensors") as error:
            file.tensors(*keys)
        assert ".".join(keys) in str(error.value)


def test_big_endian(tmp_path):
    numbers = np.array([1.5, -2, 3e5, 0.1], ">f4")
    pickle = pickled({"a": tensor(0, (4,), (1,)), "b": tensor(1, (2,), (2,))})
    path = archive(tmp_path / "a.pt", pickle, data_0=numbers.tobytes(), byteorder=b"big")
    file = TorchFile(path)
    loaded = file.load(file.tensors())
    assert np.array_equal(loaded["a"], numbers)
    assert np.array_equal(loaded["b"], numbers[1::2])


def test_without_checksums(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        path = save({"a": torch.arange(5.0)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    file = TorchFile(path)
    assert np.array_equal(file.load(file.tensors())["a"], np.arange(5))


# Memory


@contextlib.contextmanager
def memory_below(megabytes):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < megabytes * 2**20
    finally:
        tracemalloc.stop()


@FORMATS
def test_takes_the_memory_of_what_is_kept(tmp_path, zipped):
    large = {f"loss.{i}": torch.full((50, 2**18), float(i)) for i in range(4)}  # 50 MiB each
    path = save({**large, "kept": torch.arange(2.0**20)}, tmp_path / "a.ckpt", zipped)
    with memory_below(9):  # 4 MiB, and the bytes that they are made of
        file = TorchFile(path)
        kept = file.load({"kept": file.tensors()["kept"]})
    assert np.array_equal(kept["kept"], np.arange(2**20))
    with memory_below(251):
        loaded = file.load({name: file.tensors()[name] for name in large})
    assert [array[49, -1] for array in loaded.values()] == [0, 1, 2, 3]
    path.unlink()


DEEP = 20_000
TEXT = b"X" + struct.pack("<I", 2**20) + 2**20 * b"a"  # 1 MiB
LIST = b"](" + b"".join(b"M" + struct.pack("<H", i) for i in range(2**16)) + b"e"


SET = b"c__builtin__\nset\nq\0"
TWICE = b"q\0h\0h\0\x86"  # what was last, twice in a tuple


@pytest.mark.parametrize(
    "program",
    {
        "memo": b"Nr\xff\xff\xff\xff.",
        "bytes": b"B\xff\xff\xff\x7f.",
        "text": b"X\xff\xff\xff\x7f.",
        "long text": b"\x8d" + struct.pack("<Q", 2**62) + b".",
        "long bytes": b"\x8e" + struct.pack("<Q", 2**62) + b".",
        "byte array": b"\x96" + struct.pack("<Q", 2**62) + b".",
        "frame": b"\x95" + struct.pack("<Q", 2**62) + b"N.",
        "integer": b"\x8b" + struct.pack("<i", 2**31 - 1) + b".",
        "digits": b"I" + 10**6 * b"9" + b"\n.",
        "copies": SET + LIST + b"\x85q\1" + 10**4 * b"h\0h\1R" + b".",
        "copies of a set": SET + LIST + b"\x85Rq\1" + 10**4 * b"h\0h\1\x85R" + b".",
        "copies of bytes": b"c_codecs\nencode\nq\0" + TEXT + b"N\x86q\1" + 10**4 * b"h\0h\1R.",
        "names": TEXT + b"q\0" + 10**4 * b"h\0h\0\x93" + b".",
        "key": b"}K\1" + 200 * TWICE + b"Ns.",  # takes forever to hash
        "keys": b"\x8f(K\1" + 200 * TWICE + b"\x90.",
        "deep lists": DEEP * b"]" + b"N" + DEEP * b"a" + b".",
        "deep tuples": b"N" + DEEP * b"\x85" + b".",
        "deep marks": DEEP * b"(" + b"N" + DEEP * b"t" + b".",
        "deep dicts": DEEP * b"}K\1" + b"N" + DEEP * b"s" + b".",
    }.items(),
    ids=lambda program: program[0],
)
def test_pickles_that_would_fill_the_memory(tmp_path, program):
    path = archive(tmp_path / "a.pt", b"\x80\x02" + program[1])
    with memory_below(500), contextlib.suppress(CheckpointError):
        TorchFile(path)


@pytest.mark.parametrize(
    "lazy",
    [
        tensor(0, (10**12,), (0,)),
        tensor(0, (2**62, 2**62), (0, 0)),
        tensor(0, (5,), (1,)),
        tensor(1, (4,), (1,)),
        tensor(0, (2,), (4,)),
        # From the first to the last of these are 2 ** 64 bytes, none where that has wrapped.
        tensor(0, (5,), (2**62,), count=16, kind=torch.ByteStorage),
        tensor(2**62, (1,), (1,)),
        tensor(0, (5,), (1,), count=5),
        tensor(0, (2,), (1,), count=2),
        tensor(0, (4,), (1,), kind=torch.HalfStorage),
        tensor(0, (4,), (1,), kind=torch.DoubleStorage),
        tensor(0, (4,), (1,), count=-4),
        tensor(0, (0, 2**62, 2**62), (1, 1, 1)),
    ],
    ids=lambda lazy: str(lazy.parts[1][1:4]),
)
def test_tensors_beyond_their_bytes(tmp_path, lazy):
    file = TorchFile(archive(tmp_path / "a.pt", pickled({"x": lazy}), data_0=bytes(16)))
    with memory_below(2), pytest.raises(CheckpointError, match=r"a\.pt: damaged"):
        file.load(file.tensors())


@pytest.mark.parametrize(
    "lazy",
    [
        tensor(-1, (1,), (1,)),
        tensor(0, (-1,), (1,)),
        tensor(4, (2,), (-1,)),
        tensor(0, (2,), (1, 1)),
        tensor(0, (1.0,), (1,)),
        tensor(0, 100 * (1,), 100 * (1,)),
        tensor(0, "a", "b"),
        tensor(0, None, None),
        Call(torch._utils._rebuild_tensor_v2, 1, 0, (1,), (1,)),
        Call(torch._utils._rebuild_tensor_v2),
        Reference(("storage", "FloatStorage", "0", "cpu", 4)),
        Reference(("storage", torch.FloatStorage, "0", "cpu", 4, ("1", 0, 4))),
        Reference(("storage", torch.FloatStorage, 0, "cpu", 4)),
        Reference(("module",)),
        Reference(()),
    ],
    ids=range(15),
)
def test_tensors_without_sense(tmp_path, lazy):
    path = archive(tmp_path / "a.pt", pickled({"x": lazy}), data_0=bytes(16))
    with pytest.raises(CheckpointError, match=r"a\.pt: damaged"):
        TorchFile(path)


@pytest.mark.parametrize(
    "program", [b".", b"N\x87.", b"K\1K\2a.", b"K\1)R.", b"cos\nopen\nNR.", b"(h\0."]
)
def test_pickles_without_sense(tmp_path, program):
    path = archive(tmp_path / "a.pt", b"\x80\x02" + program)
    with pytest.raises(CheckpointError, match=r"a\.pt: damaged"):
        TorchFile(path)


def legacy(path, content, count):
    """A file of the old format, of one storage that has this many numbers by its own words."""
    pickles = [0x1950A86A20F9469CFC6C, 1001, {}, content, ["0"]]
    path.write_bytes(b"".join(map(pickled, pickles)) + struct.pack("<q", count) + bytes(16))
    return path


def test_old_files_that_claim_more_than_they_hold(tmp_path):
    path = tmp_path / "a.pt"
    file = TorchFile(legacy(path, {"x": tensor(0, (4,), (1,))}, 4))
    assert file.load(file.tensors())["x"].tolist() == [0, 0, 0, 0]
    with pytest.raises(CheckpointError, match="of another size"):
        TorchFile(legacy(path, {"x": tensor(0, (4,), (1,))}, 3))
    file = TorchFile(legacy(path, {"x": tensor(0, (4,), (1,), count=2**28)}, 2**28))
    with memory_below(2), pytest.raises(CheckpointError, match="ends beyond the file"):
        file.load(file.tensors())
    path.write_bytes(b"\x80\x02c")  # a line without end
    os.truncate(path, 2**28)
    with memory_below(2), pytest.raises(CheckpointError, match="damaged"):
        TorchFile(path)


def test_one_storage_under_thousands_of_names(tmp_path):
    names = dict.fromkeys(map(str, range(3000)), tensor(0, (2**16,), (1,), count=2**16))
    file = TorchFile(archive(tmp_path / "a.pt", pickled(names), data_0=bytes(2**18)))
    with memory_below(2), pytest.raises(CheckpointError, match="more numbers than it holds"):
        file.load(file.tensors())


# Nothing runs


def programs(folder):
    """Pickles that make this folder when they are loaded."""
    calls = [
        Call(os.mkdir, folder),
        Call(eval, f"__import__('os').mkdir({folder!r})"),
        Call(exec, f"import os; os.mkdir({folder!r})"),
        Call(subprocess.check_call, ["mkdir", folder]),
        Call(Call(getattr, Call(__import__, "os"), "mkdir"), folder),
        Call(Call(functools.partial, len, state=(os.mkdir, (folder,), {}, {}))),
        Call(list, Call(map, os.mkdir, [folder])),
        Call(Call(operator.methodcaller, "mkdir", folder), Call(__import__, "os")),
    ]
    mkdir = calls[0]
    calls += [
        {mkdir: 1},
        [1, mkdir],
        Call(collections.OrderedDict, mkdir),
        Call(set, [mkdir]),
        Call(torch._utils._rebuild_parameter, mkdir, False, {}),
        Call(torch._utils._rebuild_tensor_v2, mkdir, 0, (1,), (1,), False, {}),
        Call(argparse.Namespace, state=mkdir),
        Reference(("storage", mkdir, "0", "cpu", 1)),
    ]
    for call in calls:
        yield pickled(call)
        yield pickled(call, 4)
    text = b"X" + struct.pack("<I", len(folder)) + folder.encode()
    module = os.mkdir.__module__.encode()
    yield b"\x80\x02(c" + module + b"\nmkdir\n" + text + b"o."
    yield b"\x80\x02(" + text + b"i" + module + b"\nmkdir\n."
    yield b"\x80\x04\x8c\x13torch.serialization\x8c\x08os.mkdir\x93" + text + b"\x85R."
    yield b"\x80\x04\x8c\x02os\x8c\x0dpath.os.mkdir\x93" + text + b"\x85R."
    yield b"\x80\x02\x82\x01" + text + b"\x85R."  # by a number, see below


def test_nothing_in_a_pickle_runs(tmp_path):
    copyreg.add_extension(os.mkdir.__module__, "mkdir", 1)
    try:
        target = tmp_path / "ran"
        for number, program in enumerate(programs(str(target))):
            with contextlib.suppress(Exception):
                pickle.loads(program)
            target.rmdir()  # it does run where it is let
            save(0, tmp_path / "legacy", zipped=False)
            before, _, after = (tmp_path / "legacy").read_bytes().rpartition(pickled(0))
            (tmp_path / "legacy").write_bytes(before + program + after)
            (tmp_path / "alone").write_bytes(program)
            archive(tmp_path / "zip", program)
            for name in ("legacy", "alone", "zip"):
                with contextlib.suppress(CheckpointError):
                    TorchFile(tmp_path / name)
                assert not target.exists(), (number, program)
    finally:
        copyreg.remove_extension(os.mkdir.__module__, "mkdir", 1)


# Damage


def rewritten(path, **changes):
    """A zip file with the data of some members replaced, or without them (None)."""
    with zipfile.ZipFile(path) as file:
        members = {info.filename.partition("/")[2]: file.read(info) for info in file.infolist()}
    members |= {name.replace("_", "/"): data for name, data in changes.items()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            if data is not None:
                file.writestr(f"archive/{name}", data)


def outcome(path):
    """The tensors of a file, as bytes, or the error that it ends in."""
    try:
        file = TorchFile(path)
        return {name: array.tobytes() for name, array in file.load(file.tensors()).items()}
    except CheckpointError as error:
        text = str(error)
        assert text.startswith(f"{path}: ")
        assert text.isprintable()
        assert len(text) < len(str(path)) + 200
        return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "cannot read: No such file"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot read: Is a directory"),
        (lambda path: path.write_bytes(b""), "damaged, or not written by torch.save (pickle exh"),
        (lambda path: path.write_bytes(b"<!DOCTYPE html>\n"), "damaged, or not written by"),
        (lambda path: path.write_bytes(pickled({"a": 1})), "damaged, or not written by"),
        (
            lambda path: path.write_bytes(3 * pickled(1)),
            "damaged, or not written by torch.save (unk",
        ),
        (
            lambda path: os.truncate(path, 700),
            "damaged, or not written by torch.save (File is not a",
        ),
        (lambda path: rewritten(path, **{"data.pkl": None}), "damaged, or not written by"),
        (
            lambda path: rewritten(path, data_0=None),
            "damaged, or not written by torch.save (no mem",
        ),
        (lambda path: rewritten(path, data_0=bytes(11)), "damaged: tensor 'a' is larger than its"),
        (lambda path: rewritten(path, data_0=bytes(13)), "damaged: tensor 'a' is larger than its"),
        (
            lambda path: path.write_bytes(path.read_bytes().replace(b"\x00\x80?", b"\x00\x81?")),
            "by torch.save (data/0 is not as it was written); fetch it again",
        ),
        (
            lambda path: archive(path, b"N.", zipfile.ZIP_DEFLATED),
            "(member data.pkl is compressed)",
        ),
        (lambda path: rewritten(path, **{"data.pkl\0": b"N."}), "(two members data.pkl)"),
        (lambda path: rewritten(path, **{"data.pkl": b"\x80\x02c\x1b[2J\n\x07\n1."}), "damaged"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_damage_is_named(tmp_path, damage, said):
    path = save({"a": torch.ones(3)}, tmp_path / "a.ckpt")
    damage(path)
    assert said in outcome(path)


def mutants(data, count, seed):
    """The bytes with some of them changed, or some part cut out, doubled or moved."""
    source = random.Random(seed)
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(source.choice([1, 1, 2, 5])):
            changed[source.randrange(len(changed))] = source.choice(
                [source.randrange(256), *b"(.0acdeghijloqrstu}])\x85\x86\x93\xff"]
            )
        start, end, to = sorted(source.choices(range(len(changed)), k=3))
        part = changed[start:end]
        match source.randrange(8):
            case 0:
                del changed[start:end]
            case 1:
                del changed[end:]
            case 2:
                changed[to:to] = part
        yield bytes(changed)


def small(path, zipped=True, **options):
    """A file with a little of everything."""
    base = torch.arange(12.0).view(3, 4)
    content = collections.OrderedDict(a=base, b=base[1:, 2].half(), c=base.T, d=base[:0])
    content["state"] = {"epoch": 1, "names": ["x", (1.5, None)], "set": {1, 2}, "b": b"raw"}
    content["object"] = argparse.Namespace(lr=1, path=pathlib.PurePosixPath("a"))
    return save(content, path, zipped, **options)


ROUNDS = 150


def test_a_damaged_zip_is_refused_or_read_as_it_was(tmp_path):
    path = small(tmp_path / "a.ckpt")
    right = outcome(path)
    assert len(right) == 4
    refused = 0
    for data in mutants(path.read_bytes(), ROUNDS, 1):
        path.write_bytes(data)
        read = outcome(path)
        refused += isinstance(read, str)
        assert read == right or isinstance(read, str)
    assert refused > ROUNDS / 3


@pytest.mark.parametrize("protocol", [2, 4])
@FORMATS
def test_any_pickle_is_read_or_refused(tmp_path, zipped, protocol):
    path = small(tmp_path / "a.ckpt", zipped, pickle_protocol=protocol)
    whole, refused = path.read_bytes(), 0
    if zipped:
        with zipfile.ZipFile(path) as file:
            data = file.read("a/data.pkl")
            members = {f"data_{i}": file.read(f"a/data/{i}") for i in range(2)}
    for mutant in mutants(data if zipped else whole, ROUNDS, protocol):
        if zipped:
            archive(path, mutant, **members)
        else:
            path.write_bytes(mutant)
        refused += isinstance(outcome(path), str)
    assert ROUNDS / 10 < refused < ROUNDS
