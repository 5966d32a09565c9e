"""The borders between the parts, and what the quick commands may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import COMMAND, DATA, TESTS

import tokcodec

PACKAGE = Path(tokcodec.__file__).parent

# The parts of the package, lowest first: each imports only itself and parts of the lines before.
LAYERS = (
    {"calls", "errors", "interrupts", "parallel"},
    {"io"},
    {"config", "coding", "packets"},
    {"families"},
    {"checkpoint"},
    {"image", "tokenfile"},
    {"inputs", "model"},
    {"budget"},
    {"codec", "web"},
    {"dataset"},
    {"batch"},
    {"tokenize", "evaluate", "train"},
    {"__init__"},
    {"cli"},
    {"__main__"},
)
WITH_TORCH = {"model", "codec", "dataset", "tokenize", "evaluate", "train"}


def layer(part):
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


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
    part = inside.parts[0]
    for name in imports(path):
        own = name.removeprefix("tokcodec.")
        if name.startswith("tokcodec.") or (PACKAGE / own).is_dir():
            other = room(own)
            # The package itself names its public functions, which load on first use.
            allowed = part in (other, "__init__") or layer(other) < layer(part)
            assert allowed or (part, other) == ("cli", "__init__"), f"{inside} imports {name}"
        if room(name) in ("typer", "rich"):
            assert part == "cli", f"{inside} imports {name}"
        if room(name) == "torch":
            assert part in WITH_TORCH, f"{inside} imports torch"


def test_only_train_knows_train_and_its_command():
    for path in PACKAGE.rglob("*.py"):
        if any(name.startswith("tokcodec.train") for name in imports(path)):
            inside = str(path.relative_to(PACKAGE))
            assert "train" in inside or inside == "__init__.py", path


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["encode", "--help"],
        ["train", "--help"],
        ["stats", TESTS / "fuzz" / "corpus" / "token_file" / "aspect.tok"],
        ["inspect", TESTS / "fuzz" / "corpus" / "token_file" / "aspect.tok"],
        ["models"],
        ["encode", "coffee.png", "-o", "-"],
    ],
    ids=lambda a: " ".join(map(str, a[:1])),
)
def test_quick_commands_do_not_load_torch(arguments):
    program = (
        "import sys; from tokcodec.cli import main\n"
        f"status = main({list(map(str, arguments))})\n"
        "print('torch' in sys.modules, status, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, cwd=DATA
    )
    assert done.stderr.split()[-2:] == [b"False", b"0"], done.stderr


def test_importing_the_package_loads_nothing():
    program = "import sys, tokcodec; print(sorted({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"


def test_windows_is_told():
    """What its locks and renames ask for is not there."""
    program = "import sys; from tokcodec.cli import main\nsys.platform = 'win32'; sys.exit(main())"
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
