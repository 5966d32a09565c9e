"""What several test files need: the photos, the tiny checkpoints, the installed command."""

import os

# Two tests run at a time; more threads than cores would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import contextlib
import io
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from tokcodec.cli import main
from tokcodec.config.geometry import place
from tokcodec.image import WHITE, read_tiles

# A shell starts background jobs with Ctrl-C ignored, which the commands under test would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = Path(__file__).parent
DATA = TESTS / "data"
GOLDEN = TESTS / "golden"
PHOTOS = tuple(DATA / name for name in ("astronaut.png", "chelsea.png", "coffee.png"))

settings.register_profile("tokcodec", deadline=None, derandomize=True)
settings.load_profile("tokcodec")

COMMAND = Path(sys.executable).parent / "tokcodec"
TERMINAL = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


def pytest_configure(config):
    """What is expected of commands is what they do on a processor. ``pytest -m cuda`` has the GPU;
    all other tests, and the processes they start, see none."""
    if not config.option.markexpr.startswith("cuda"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.update(TERMINAL)


# Formats, coding, geometry and configs: what the inner loop of a contributor runs.
QUICK = ("bitpack", "tokenfile", "vectors", "geometry", "config", "structure", "tokenizer")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.path.stem.removeprefix("test_") in QUICK:
            item.add_marker(pytest.mark.quick)
    if not config.option.markexpr.startswith("cluster"):
        for item in items:
            if item.get_closest_marker("cluster"):
                item.add_marker(pytest.mark.skip(reason="takes three minutes: pytest -m cluster"))


def placed(fit, size, side, resize="bicubic"):
    """The placement on tiles of ``side`` pixels; in the fit native on multiples of these."""
    tile = tuple(-(-edge // side) * side for edge in size) if fit == "native" else (side, side)
    return place(fit, size, tile, resize)


def read_fitted(source, config, fit, background=WHITE):
    """An image cut into tiles of the size that the preprocessing of a model has."""
    return read_tiles(
        source,
        config,
        lambda size: placed(fit, size, config.image_size, config.resize),
        background,
    )


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """No test reads or fills the user's caches, or the network."""
    os.environ["TOKCODEC_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["HF_HUB_CACHE"] = str(tmp_path_factory.mktemp("hub"))
    os.environ["HF_HUB_OFFLINE"] = "1"


def checked(done, status):
    assert done.returncode == status, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return done


def results(stream):
    """What a stream of (tag, result) gives, where the tags are 0, 1, 2 and so on."""
    tags, found = zip(*stream, strict=True)
    assert tags == tuple(range(len(tags)))
    return list(found)


@pytest.fixture(scope="session")
def start():
    """Runs the installed command, and gives the finished process; output is bytes."""

    def start(*arguments, status=0, stdin=b"", cwd=None):
        done = subprocess.run(
            [COMMAND, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            cwd=cwd,
            env={**os.environ, **TERMINAL},
            check=False,
        )
        return checked(done, status)

    return start


@pytest.fixture(scope="session")
def run():
    """Like ``start``, but in this process, which has loaded torch already."""

    def run(*arguments, status=0, stdin=b"", cwd="."):
        streams = {"stdin": io.BytesIO(stdin), "stdout": io.BytesIO(), "stderr": io.BytesIO()}
        with pytest.MonkeyPatch.context() as patch, contextlib.chdir(cwd or "."):
            for name, stream in streams.items():
                patch.setattr(sys, name, io.TextIOWrapper(stream, "utf-8", write_through=True))
            returned = main(list(map(str, arguments)))
            output = [streams[name].getvalue() for name in ("stdout", "stderr")]
        return checked(subprocess.CompletedProcess(arguments, returned, *output), status)

    return run


@pytest.fixture(scope="session")
def tiny():
    """The tiny checkpoint of the kind patch: 16 tokens of 60, tiles of 32 pixels."""
    return GOLDEN / "patch.safetensors"


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    """2,000 images in two class folders."""
    from tokenized import image

    folder = tmp_path_factory.mktemp("many")
    for number in range(2000):
        path = folder / ("cat", "dog")[number % 2] / f"{number:04}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image(number))
    return folder


@pytest.fixture(scope="session")
def dataset(many, tmp_path_factory):
    """A token dataset: 150 rows in 2 shards, three of them failed. The images are in ``in`` next to
    it."""
    from tokenized import go

    folder = tmp_path_factory.mktemp("dataset")
    for path in sorted(many.rglob("*.png"), key=lambda path: path.name)[:150]:
        copy = folder / "in" / path.relative_to(many)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    for number in (0, 2, 60):
        (folder / "in" / "cat" / f"{number:04}.png").write_bytes(b"junk")
    assert go([folder / "in"], folder / "out") == (150, 3)
    return folder / "out"


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, with its log of what it asked for."""
    pytest.importorskip("selenium")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs Debian's chromium and chromium-driver")
    from screenshot import chromium

    driver = chromium()
    yield driver
    driver.quit()
