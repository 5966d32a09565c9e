"""The borders between the parts, and what the quick commands may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import COMMAND, DATA, GOLDEN

import tokcodec

PACKAGE = Path(tokcodec.__file__).parent

# What a module may import of the package; a folder stands for all in it.
BORDERS = {
    "errors": set(),
    "config": {"config", "errors", "geometry"},
    "files": {"errors", "remote"},
    "remote": {"errors"},
    "parallel": set(),
    "geometry": {"errors"},
    "bitpack": {"errors"},
    "prior": {"bitpack", "errors"},
    "tensorfile": {"errors"},
    "families": {"config", "errors", "families", "tensorfile"},
    "checkpoint": {
        "checkpoint",
        "config",
        "errors",
        "families",
        "files",
        "geometry",
        "prior",
        "tensorfile",
    },
    # It shows itself in notebooks, for which alone it asks the codec.
    "tokenfile": {"bitpack", "checkpoint", "codec", "errors", "files", "geometry", "prior"},
    "picture": {"config", "errors", "files", "geometry"},
    "tar": set(),
    "sources": {"errors", "files", "picture", "remote", "tar"},
    "model": {"checkpoint", "config", "errors", "model", "prior"},
    "stats": {"checkpoint", "errors", "tokenfile"},
}
BELOW_CODEC = set(BORDERS)
BORDERS["codec"] = BELOW_CODEC - {"stats"}
BORDERS["dataset"] = (BELOW_CODEC - {"stats"}) | {"codec", "dataset"}
BORDERS["agreement"] = {"checkpoint", "codec", "config", "model"}
BORDERS["train"] = (BELOW_CODEC - {"stats"}) | {"train"}
BORDERS["evaluate"] = {
    "codec",
    "config",
    "errors",
    "evaluate",
    "files",
    "geometry",
    "parallel",
    "picture",
    "sources",
    "stats",
    "tokenfile",
}
BORDERS["cli"] = BELOW_CODEC | {
    "agreement",
    "cli",
    "codec",
    "dataset",
    "evaluate",
    "train",
    "__init__",
}
BORDERS["__init__"] = {"codec", "dataset", "errors", "tokenfile"}
BORDERS["__main__"] = {"cli"}


def room(name):
    return name.split(".")[0]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "tokcodec":
                yield from (alias.name for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_borders(path):
    inside = path.relative_to(PACKAGE).with_suffix("")
    allowed = BORDERS[inside.parts[0]]
    for name in imports(path):
        own = name.removeprefix("tokcodec.")
        if name.startswith("tokcodec."):
            assert room(own) in allowed, f"{inside} imports {name}"
        elif (PACKAGE / f"{own}.py").exists() or (PACKAGE / own).is_dir():
            assert own in allowed, f"{inside} imports {own}"
        if room(name) in ("typer", "rich"):
            assert inside.parts[0] == "cli", f"{inside} imports {name}"
        if room(name) == "torch":
            assert inside.parts[0] in (
                "agreement",
                "model",
                "codec",
                "dataset",
                "evaluate",
                "train",
            ), f"{inside} imports torch"


def test_only_train_knows_train_and_its_command():
    for path in PACKAGE.rglob("*.py"):
        if any(name.startswith("tokcodec.train") for name in imports(path)):
            assert "train" in str(path.relative_to(PACKAGE)), path


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["encode", "--help"],
        ["train", "--help"],
        ["stats", GOLDEN / "v1-16-stretch.tok"],
        ["inspect", GOLDEN / "v1-16-stretch.tok"],
        ["models"],
        ["encode", "coffee.png", "-o", "-"],
    ],
    ids=lambda a: " ".join(map(str, a[:1])),
)
def test_quick_commands_do_not_load_torch(arguments):
    program = (
        "import sys; from tokcodec.cli import main\n"
        f"sys.argv = {['tokcodec', *map(str, arguments)]}\n"
        "try: main()\n"
        "except SystemExit as end: status = end.code\n"
        "print('torch' in sys.modules, status, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, cwd=DATA
    )
    assert done.stderr.split()[-2:] in ([b"False", b"0"], [b"False", b"None"]), done.stderr


def test_importing_the_package_loads_nothing():
    program = "import sys, tokcodec; print(sorted({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"


def test_windows_is_told():
    """What its locks and renames ask for is not there."""
    program = "import sys; from tokcodec.cli import main\nsys.platform = 'win32'; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert "tokcodec runs on Linux and macOS; on Windows, use it in WSL" in line


def test_the_module_is_the_command():
    by_module = subprocess.run(
        [sys.executable, "-m", "tokcodec", "--version"], capture_output=True, check=True
    )
    by_name = subprocess.run([COMMAND, "--version"], capture_output=True, check=True)
    assert by_module.stdout == by_name.stdout == f"{tokcodec.__version__}\n".encode()
