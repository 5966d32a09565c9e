"""What several test files need: the photos, the tiny checkpoints, the installed command."""

import os

# Two tests run at a time; more threads than cores would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).parent
DATA = TESTS / "data"
GOLDEN = TESTS / "golden"
PHOTOS = tuple(DATA / name for name in ("astronaut.png", "chelsea.png", "coffee.png"))

settings.register_profile("tokcodec", deadline=None, derandomize=True)
settings.load_profile("tokcodec")

COMMAND = Path(sys.executable).parent / "tokcodec"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """No test reads or fills the user's caches, or the network."""
    os.environ["TOKCODEC_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["HF_HUB_CACHE"] = str(tmp_path_factory.mktemp("hub"))
    os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def run():
    """Runs the installed command, and gives the finished process; output is bytes."""

    def run(*arguments, status=0, stdin=b"", cwd=None):
        environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
        done = subprocess.run(
            [COMMAND, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            cwd=cwd,
            env=environment,
            check=False,
        )
        assert done.returncode == status, done.stderr.decode()
        assert b"Traceback" not in done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def tiny():
    """The tiny checkpoint of the patch layout: 16 codes of 60, squares of 32 pixels."""
    return GOLDEN / "patch.safetensors"
