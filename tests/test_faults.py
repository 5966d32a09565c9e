"""Commands that are killed, or whose disk is full, at the points where they touch files."""

import errno
import os
import shutil
import sys

import pytest
from conftest import GOLDEN, PHOTOS
from PIL import Image
from safetensors import safe_open

from tokcodec.cli import main
from tokcodec.io.files import TEMPORARY

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.parquet

TINY = str(GOLDEN / "patch.safetensors")
CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "fcntl.flock", "fsync")
KILLED, DONE_BEFORE = 77, 78
# TOKCODEC_STEP=1 pytest -s tests/test_faults.py tries every point, and says how many there are.
STEP = int(os.environ.get("TOKCODEC_STEP", "7"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, run):
    """Photos, token files, and a dataset of two shards."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "photos").mkdir()
    for number in range(6):
        photo = Image.open(PHOTOS[number % 3]).convert("RGB").resize((32 + number, 32))
        photo.save(folder / "photos" / f"{number}.png")
    run("tokenize", "photos", "-o", "set", "--weights", TINY, "--rows-per-shard", "3", cwd=folder)
    run("encode", "photos", "-o", "tokens", "--weights", TINY, cwd=folder)
    return folder


COMMANDS = {
    "tokenize": ["tokenize", "photos", "-o", "out/a", "--weights", TINY, "--rows-per-shard", "3"],
    "one file": [
        *["tokenize", "photos", "-o", "out/a.parquet", "--weights", TINY],
        *["--rows-per-shard", "3"],
    ],
    "export": ["export", "set", "-o", "out/a.npy"],
    "export shards": ["export", "set", "-o", "out/a.npz", "--rows-per-shard", "2"],
    "safetensors": ["export", "set", "-o", "out/a.safetensors"],
    "encode": ["encode", "photos", "-o", "out", "--weights", TINY],
    "decode": ["decode", "tokens", "-o", "out", "--weights", TINY],
    "train-prior": ["train-prior", "set", "--weights", TINY, "-o", "out/a.safetensors"],
}
# What has a file for everyone goes on where it is told to overwrite, and keeps what it has.
SEVERAL = ("decode",)


def faulty(arguments, folder, at, act):
    """Runs a command in a process of its own; ``act`` is called at change ``at`` to a file. Gives
    the exit status, or DONE_BEFORE it came to that."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seen = 0

    def changing(event, *details):
        nonlocal seen
        if event not in CHANGES:
            return
        path = details[0][0] if details else ""
        if event == "open" and not (
            isinstance(path, str) and path.startswith(str(folder)) and details[0][2] & os.O_CREAT
        ):
            return
        seen += 1
        if seen == at:
            act()

    fsync, status = os.fsync, 99
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1):
            os.dup2(nothing, stream)
        os.dup2(os.open(folder / "said", os.O_RDWR | os.O_CREAT | os.O_TRUNC), 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        os.chdir(folder)
        os.fsync = lambda file: (changing("fsync"), fsync(file))
        sys.addaudithook(lambda event, details: changing(event, details))
        status = main(arguments)
    finally:
        os._exit(status if seen >= at else DONE_BEFORE)


def tree(folder):
    return {
        str(path.relative_to(folder)): contents(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock" and not path.name.startswith(TEMPORARY)
    }


def contents(path):
    """Bytes; of safetensors, which keeps its metadata in no order, what it holds, but for the
    command in it."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with safe_open(path, "np") as file:
        facts = {k: v for k, v in file.metadata().items() if k != "tokcodec.provenance"}
        return facts, {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


def fresh(inputs, folder):
    folder.mkdir()
    for name in ("photos", "set", "tokens"):
        (folder / name).symlink_to(inputs / name)
    return folder


def no_space():
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("over", [False, True], ids=["new", "over a good one"])
@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_is_lost_at_any_point(run, inputs, tmp_path, name, over):
    """Killed anywhere, the same command ends in the same bytes; a full disk costs nothing."""
    command = [*COMMANDS[name], *(["-f"] if over else [])]
    whole = fresh(inputs, tmp_path / "whole")
    run(*COMMANDS[name], cwd=whole)
    expected = tree(whole / "out")
    points = 0
    for act in (lambda: os._exit(KILLED), no_space):
        at = 1 - STEP
        while True:
            at += STEP
            folder = fresh(inputs, tmp_path / f"{at}")
            if over:
                shutil.copytree(whole / "out", folder / "out")
            status = faulty(command, folder, at, act)
            said = (folder / "said").read_text()
            if status == DONE_BEFORE:
                assert tree(folder / "out") == expected
                shutil.rmtree(folder)
                break
            points += 1
            assert "Traceback" not in said
            left = tree(folder / "out") if (folder / "out").exists() else {}
            if act is no_space:
                assert status in (0, 1), said  # 0 where it was needed for nothing
                assert said.count("No space left") == status, said
                assert not any(TEMPORARY in path for path in left)
            # Nothing is half there: each file is as it was, or as it is to be.
            for path, data in left.items():
                if TEMPORARY not in path and ".shards/" not in path:
                    assert data == expected[path], path
            if left == expected and name not in SEVERAL:
                shutil.rmtree(folder)
                continue
            again = [*command, *(["-f"] if name in SEVERAL and not over else [])]
            run(*again, cwd=folder)
            assert tree(folder / "out") == expected, at
            shutil.rmtree(folder)
    assert points >= 10 / STEP
    print(f"{name}: {points} points")
