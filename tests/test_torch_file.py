"""Files of torch.save and torch.jit.save: their tensors are read, and nothing in them runs."""

import argparse
import collections
import contextlib
import copyreg
import functools
import operator
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import tracemalloc
import types
import zipfile
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokcodec.errors import CheckpointError
from tokcodec.families.source import locate
from tokcodec.families.torch_file import open_torch

FLOAT = torch.FloatStorage


def read(path):
    """The tensors of a file, as its families get them."""
    with locate(str(path)).open() as tensors:
        return {name: tensor.read() for name, tensor in tensors.items()}


def archive(path, program, data=bytes(16), compression=zipfile.ZIP_STORED):
    """A file around a pickle, with one storage."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", program)
        file.writestr("archive/data/0", data)
    return path


class Call:
    """Pickled as a call of a function (or of what a call gives) with these arguments."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments, state)

    def __call__(self):
        """The pickler asks for functions that can be called."""

    def __reduce__(self):
        return self.parts


def tensor(offset=0, shape=(4,), strides=(1,), count=4, kind=FLOAT, key="0"):
    storage = ("storage", kind, key, "cpu", count)
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, shape, strides, False, {})


def views():
    base = torch.arange(30.0).view(6, 5)
    yield from (base, base.T, base[1:4, ::2], base[5, 4], base[:1].expand(3, 5), base[6:, 2:])
    yield torch.randn(2, 3, 4, 5).permute(3, 0, 2, 1)
    yield torch.nn.Parameter(torch.randn(4))
    yield torch.tensor([1 / 3, 1e300, -1e-300], dtype=torch.float64)
    for kind in (torch.float16, torch.bfloat16):
        yield torch.tensor([1 / 3, -0.0, 1e-40, 65504, torch.inf, torch.nan]).to(kind)
        yield torch.tensor(-1.5, dtype=kind)
        yield base.to(kind)[1:, 1]
    for kind in (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool):
        yield torch.tensor([-3, 0, 127]).to(kind)


@pytest.mark.parametrize(("protocol", "checksums"), [(2, True), (2, False), (4, True), (5, True)])
def test_tensors_of_all_kinds(tmp_path, protocol, checksums, request):
    request.addfinalizer(partial(torch.serialization.set_crc32_options, True))
    torch.serialization.set_crc32_options(checksums)
    tensors = dict(zip("abcdefghijklmnopqrstuvwxyz", views(), strict=False))
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": tensors}, path, pickle_protocol=protocol)
    arrays = read(path)
    assert arrays.keys() == tensors.keys()
    for name, array in arrays.items():
        expected = tensors[name].detach().float().numpy()
        assert (array.dtype, array.shape) == (np.float32, expected.shape)
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, expected)
    arrays["a"][:] = 99  # each array is separate
    assert not (arrays["c"] == 99).any()


@pytest.mark.parametrize("protocol", [2, 4])
def test_objects_of_other_programs(tmp_path, protocol, monkeypatch):
    module = types.ModuleType("a_library.callbacks")
    callback = type("Callback", (dict,), {"__module__": module.__name__})
    module.Callback = callback
    monkeypatch.setitem(sys.modules, "a_library", types.ModuleType("a_library"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    model = torch.nn.Linear(2, 2)
    config = callback(a=1)
    config.more = config
    content = {
        "callbacks": {callback: {"best": callback(), "score": np.float64(0.5)}},
        "arguments": argparse.Namespace(lr=1e-4, path=pathlib.PurePosixPath("a")),
        "config": [config, collections.defaultdict(list, {1: [2]}), np.arange(3), {1, 2}],
        "others": (len, functools.partial(max), torch.float32, b"a", bytearray(b"a"), range(3)),
        "keys": {(1, 2): 3, frozenset({4}): 5, 6: 7, None: model.bias},
        "whole": model,
        "state_dict": model.state_dict(),
    }
    path = tmp_path / "a.ckpt"
    torch.save(content, path, pickle_protocol=protocol)
    monkeypatch.delitem(sys.modules, module.__name__)
    arrays = read(path)
    assert module.__name__ not in sys.modules
    assert np.array_equal(arrays["weight"], model.weight.detach().numpy())
    assert np.array_equal(arrays["bias"], model.bias.detach().numpy())


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3)
        self.names = ["a"]
        self.register_buffer("scale", torch.tensor([2.0, 3.0]).bfloat16())

    def forward(self, x):
        return self.conv(x) * torch.tensor([1.5])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compiler", [torch.jit.script, torch.jit.trace])
def test_torchscript(tmp_path, compiler):
    blocks = torch.nn.Sequential(Block(), Block())
    blocks.register_parameter("table", torch.nn.Parameter(torch.arange(6.0).view(2, 3).T))
    blocks.shared = blocks[0].conv
    inputs = (torch.ones(1, 3, 8, 8),) if compiler is torch.jit.trace else ()
    module = compiler(blocks.eval(), *inputs)
    torch.jit.save(module, tmp_path / "encoder.jit")
    arrays, state = read(tmp_path / "encoder.jit"), module.state_dict()
    assert "1.conv.weight" in arrays
    assert arrays.keys() == state.keys()
    for name, array in arrays.items():
        assert np.array_equal(array, state[name].float().numpy())


def test_reads_without_torch(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    program = (
        "import sys; from tokcodec.families.source import locate\n"
        "with locate(sys.argv[1]).open() as t: assert t['a'].read().tolist() == [1, 1]\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "a.pt"], check=True)


def test_big_endian(tmp_path):
    numbers = np.array([1.5, -2, 3e5, 0.1], ">f4")
    path = archive(
        tmp_path / "a.pt", pickle.dumps({"a": tensor(1, (2,), (2,))}, 2), numbers.tobytes()
    )
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/byteorder", "big")
    assert np.array_equal(read(path)["a"], numbers[1::2])


# Memory


@contextlib.contextmanager
def memory_below(megabytes):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < megabytes * 2**20
    finally:
        tracemalloc.stop()


def test_reads_only_what_is_asked_for(tmp_path):
    large = torch.zeros(50 * 2**18)  # 50 MiB
    torch.save({"large": large, "kept": torch.arange(2.0**20)}, tmp_path / "a.pt")
    with memory_below(10), locate(str(tmp_path / "a.pt")).open() as tensors:
        assert tensors["kept"].read()[-1] == 2**20 - 1


TEXT = b"X" + struct.pack("<I", 2**19) + 2**19 * b"a"
TWICE = b"q\0h\0h\0\x86"  # what was last, twice in a tuple
LONG = struct.pack("<Q", 2**62)
MODULE = b"c__torch__.a\nB\n)\x81q\0}(X\1\0\0\0ah\0X\1\0\0\0bh\0ub."  # within itself, twice
TENSOR = pickle.dumps(tensor(), 2)[2:-1]
AGAIN = b"h\0h" + TENSOR[-4:-3] + b"R"  # another of it: the function, its arguments, a call
MANY = 2**20
PROGRAMS = {
    "memo": b"Nr\xff\xff\xff\xff.",
    "bytes": b"B\xff\xff\xff\x7f.",
    "long bytes": b"\x8e" + LONG + b".",
    "byte array": b"\x96" + LONG + b".",
    "frame": b"\x95" + LONG + b"N.",
    "integer": b"\x8b" + struct.pack("<i", 2**31 - 1) + b".",
    "names": TEXT + b"q\0" + 10**5 * b"h\0h\0\x93" + b".",
    "short names": b"X\x7f\0\0\0" + 127 * b"a" + b"q\0" + MANY // 5 * b"h\0h\0\x93" + b".",
    "key": b"}K\1" + 200 * TWICE + b"Ns.",  # takes forever to hash
    "modules": MODULE,
    "tensors": TENSOR + MANY // 50 * AGAIN + b".",
    "marks": MANY // 4 * b"(" + b"N.",
    "dicts": MANY * b"}" + b".",
    "deep dicts": 10**5 * b"}X\1\0\0\0a" + b"N" + 10**5 * b"s" + b".",
    "deep tuples": b"N" + 10**5 * b"\x85" + b".",
    "large": 5 * MANY * b"N" + b".",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_pickles_that_would_fill_the_memory(tmp_path, program):
    path = archive(tmp_path / "a.pt", b"\x80\x02" + program)
    with memory_below(150), contextlib.suppress(CheckpointError), open_torch(path):
        assert len(program) < 2 * MANY


@pytest.mark.parametrize(
    "lazy",
    [
        tensor(0, (10**12,), (0,)),
        tensor(0, (2**62, 2**62), (0, 0)),
        tensor(1, (4,), (1,)),
        tensor(0, (2,), (4,)),
        # From the first to the last of these are 2 ** 64 bytes: none where that has wrapped.
        tensor(0, (5,), (2**62,), count=16, kind=torch.ByteStorage),
        tensor(count=5),
        tensor(count=2**40),
        tensor(count=-4),
        tensor(kind=torch.HalfStorage),
        tensor(key="1"),
        tensor(key="../data.pkl"),
        tensor(key=0),
        tensor(0, (0, 2**62, 2**62), (1, 1, 1)),
        tensor(-1, (1,), (1,)),
        tensor(0, (-1,), (1,)),
        tensor(3, (2,), (-1,)),
        tensor(0, (2,), (1, 1)),
        tensor(0, (1.0,), (1,)),
        tensor(0, 100 * (1,), 100 * (1,)),
        Call(torch._utils._rebuild_tensor_v2, 1, 0, (1,), (1,), False, {}),
    ],
    ids=lambda lazy: str(lazy.parts[1][1:4]),
)
def test_tensors_that_are_not_within_their_bytes(tmp_path, lazy):
    path = archive(tmp_path / "a.pt", pickle.dumps({"x": lazy}, 2))
    with memory_below(2), pytest.raises(CheckpointError, match="damaged"):
        read(path)


# Nothing runs


def programs(folder):
    """Pickles that make this folder when Python's own unpickler loads them."""
    mkdir = Call(os.mkdir, folder)
    calls = [
        mkdir,
        {mkdir: 1},
        Call(os.system, f"mkdir {folder}"),
        Call(eval, f"__import__('os').mkdir({folder!r})"),
        Call(subprocess.check_call, ["mkdir", folder]),
        Call(Call(getattr, Call(__import__, "os"), "mkdir"), folder),
        Call(Call(functools.partial, len, state=(os.mkdir, (folder,), {}, {}))),
        Call(list, Call(map, os.mkdir, [folder])),
        Call(Call(operator.methodcaller, "mkdir", folder), Call(__import__, "os")),
        Call(collections.OrderedDict, mkdir),
        Call(torch._utils._rebuild_parameter, mkdir, False, {}),
        Call(torch._utils._rebuild_tensor_v2, mkdir, 0, (1,), (1,), False, {}),
        Call(argparse.Namespace, state=mkdir),
    ]
    yield from (pickle.dumps(call, protocol) for call in calls for protocol in (2, 4))
    text = b"X" + struct.pack("<I", len(folder)) + folder.encode()
    module = os.mkdir.__module__.encode()
    yield b"\x80\x02(c" + module + b"\nmkdir\n" + text + b"o."
    yield b"\x80\x02(" + text + b"i" + module + b"\nmkdir\n."
    yield b"\x80\x04\x8c\x13torch.serialization\x8c\x08os.mkdir\x93" + text + b"\x85R."
    yield b"\x80\x02\x82\x01" + text + b"\x85R."  # by a number, see below
    # Its method __setstate__ would be called with the path.
    calling = b"cbuiltins\ntype\n(X\1\0\0\0a)}X\x0c\0\0\0__setstate__c" + module + b"\nmkdir\nstR)R"
    yield b"\x80\x02" + calling + text + b"b."


def test_nothing_in_a_pickle_runs(tmp_path):
    copyreg.add_extension(os.mkdir.__module__, "mkdir", 1)
    try:
        target = tmp_path / "ran"
        for number, program in enumerate(programs(str(target))):
            with contextlib.suppress(Exception):
                pickle.loads(program)
            target.rmdir()  # it does run where it may
            for path in (archive(tmp_path / "zip.pt", program), tmp_path / "alone.pt"):
                (tmp_path / "alone.pt").write_bytes(program)
                with contextlib.suppress(CheckpointError):
                    read(path)
                assert not target.exists(), (number, program)
    finally:
        copyreg.remove_extension(os.mkdir.__module__, "mkdir", 1)


# Damage


def outcome(path):
    """The tensors of a file, as bytes, or the error that it ends in."""
    try:
        return {name: array.tobytes() for name, array in read(path).items()}
    except CheckpointError as error:
        text = str(error)
        assert text.startswith(f"{path}: ")
        assert text.isprintable()
        assert len(text) < len(str(path)) + 200
        return text


def test_damage_is_reported(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    assert "1.6" in outcome(path)
    torch.save({"a": torch.ones(3)}, path)
    whole = path.read_bytes()
    flipped = whole.replace(b"\0\x80?", b"\0\x81?", 1)
    for data in (
        b"",
        b"<!DOCTYPE html>\n",
        pickle.dumps({"a": 1}, 2),
        whole[:700],
        b"\x80" + whole,
        flipped,
    ):
        path.write_bytes(data)
        assert "damaged" in outcome(path)
    small = pickle.dumps({"x": tensor(count=2**24, shape=(2**24,))}, 2)
    archive(path, small, bytes(2**26), zipfile.ZIP_DEFLATED)  # 64 KiB that become 64 MiB
    with memory_below(2):
        assert "compressed" in outcome(path)


def some_file(path):
    base = torch.arange(12.0).view(3, 4)
    content = collections.OrderedDict(a=base, b=base[1:, 2].half(), c=base.T, d=base[:0])
    content["state"] = {"epoch": 1, "names": ["x", (1.5, None)], "set": {1, 2}, "b": b"raw"}
    content["object"] = argparse.Namespace(lr=1, path=pathlib.PurePosixPath("a"))
    torch.save(content, path)
    return path


# Where to replace how many bytes by what.
OPCODES = st.lists(st.sampled_from(b"(.0abcdeghjoqrstuQR}])\x81\x85\x86\x93\xff\0\1"), max_size=3)
EDIT = st.tuples(st.floats(0, 1), st.integers(0, 20), OPCODES | st.binary(max_size=3))
EDITS = st.lists(EDIT, min_size=1, max_size=5)
EXAMPLES = settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


def edited(data, edits):
    for place, length, new in edits:
        start = int(place * len(data))
        data = data[:start] + bytes(new) + data[start + length :]
    return data


@EXAMPLES
@given(edits=EDITS)
def test_a_damaged_file_is_refused_or_read_as_it_was(tmp_path, edits):
    path = some_file(tmp_path / "a.ckpt")
    right = outcome(path)
    assert len(right) == 4
    path.write_bytes(edited(path.read_bytes(), edits))
    read = outcome(path)
    assert read == right or isinstance(read, str)


@EXAMPLES
@given(edits=EDITS)
def test_any_pickle_is_read_or_refused(tmp_path, edits):
    with zipfile.ZipFile(some_file(tmp_path / "a.ckpt")) as file:
        program, data = file.read("a/data.pkl"), file.read("a/data/0")
    outcome(archive(tmp_path / "b.ckpt", edited(program, edits), data))
