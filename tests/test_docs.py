"""The commands and Python of README.md and of the READMEs in the package run as they stand."""

import json
import os
import re
import shlex
import shutil
import subprocess

import figures
import published
import pytest
from conftest import COMMAND, DATA, TESTS

from tokcodec import checkpoint
from tokcodec.cli.app import app
from tokcodec.families import known

README = (TESTS.parent / "README.md").read_text()
CARD = (TESTS.parent / "weights" / "MODEL_CARD.md").read_text()
FAMILIES = figures.PAGES[2].read_text()
ROOMS = (TESTS.parent / "tokcodec").rglob("*.md")
PAGES = list(dict.fromkeys([*figures.PAGES[:2], *sorted(ROOMS, key=lambda path: path.parent)]))


def blocks(language):
    text = "".join(page.read_text() for page in PAGES)
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(DATA, folder / "photos", ignore=shutil.ignore_patterns("*.md"))
    (folder / "tests").mkdir()
    (folder / "tests" / "data").symlink_to(DATA)
    published.write(folder / "one-d-piece", *published.tiny(prefix=True, num_latents=256))
    (folder / "held-out.txt").write_text("coffee.jpg\n")
    (folder / "tiny.json").write_text(blocks("json")[0])
    return folder


def test_commands(run, workplace):
    environment = {**os.environ, "PATH": f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}"}
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) > 10
    for command in commands:
        if not set(command) & set("|&;<>()$`*?[]{}~#\\"):  # nothing for a shell to do but quotes
            name, *arguments = shlex.split(command)
            assert name == "tokcodec"
            run(*arguments, cwd=workplace)
            continue
        done = subprocess.run(
            command, shell=True, cwd=workplace, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0, (command, done.stderr.decode())
    for name in ("photos/coffee.png.tok", "tokens/coffee.jpg.tok", "cat.jpg", "mine.tok"):
        assert (workplace / name).is_file()
    named = {command.split()[1] for command in commands}
    known = {command.callback.__name__.replace("_", "-") for command in app.registered_commands}
    assert named == known


def test_python(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    for program in blocks("python"):
        exec(program, {})
    assert (workplace / "coffee.tok").stat().st_size <= 232


def test_every_known_model_is_in_the_table():
    rows = [line for line in FAMILIES.splitlines() if line.startswith("| `")]
    for name, (_, model) in known().items():
        row = next(line for line in rows if line.startswith(f"| `{name}` "))
        assert f"| {model.tokens}, {model.codebook_size} |" in row


def test_every_command_at_the_top_is_the_scripts():
    first, second = (block.strip() for block in blocks("bash"))
    script = (TESTS.parent / ".ci" / "run").read_text()
    install = ".venv/bin/pip install -q -c tests/constraints.txt -e '.[test,parquet,metrics]'"
    assert install in first
    assert install in script
    assert second == ".venv/bin/pytest"
    assert second in script.splitlines()


@pytest.mark.parametrize("page", figures.PAGES, ids=lambda page: str(page))
def test_tables_are_those_of_the_evaluation(page):
    text = page.read_text()
    assert figures.rewritten(text) == text
    assert len(re.findall(r"<!-- figures: \w+ -->", text)) == text.count("<!-- end -->") > 0


def test_the_evaluation_is_of_the_bundled_checkpoints():
    report = json.loads(figures.REPORT.read_text())
    for page in (README, CARD):
        assert f"{report['images']} photos" in page
    measured = {row["checkpoint_id"] for row in report["rows"]}
    assert {header.checkpoint_id for header in checkpoint.bundled()} <= measured


def test_the_repository_names_no_registry():
    for page in (*PAGES, TESTS / "constraints.txt"):
        assert set(re.findall(r"\w+://\w*", page.read_text())) <= {"s3://bucket"}, page


def test_links_lead_somewhere():
    links = [(page, to) for page in PAGES for to in re.findall(r"\]\((.*?)\)", page.read_text())]
    assert len(links) > 10
    for page, to in links:
        name, _, anchor = to.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), (page, to)
        assert not anchor or anchor in anchors(target.read_text()), (page, to)


def anchors(text):
    heads = re.findall(r"^#+ (.*)", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def test_nothing_is_left_to_fill_in():
    text = "".join(page.read_text() for page in PAGES)
    words = re.findall(r"\b[A-Z]{6,}\b", text)
    assert set(words) <= {"CONTRIBUTING", "FAMILY", "FOLDER", "NVIDIA", "README"}, words
