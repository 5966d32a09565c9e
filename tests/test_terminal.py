"""What long work shows on a terminal and elsewhere, and what an interrupt leaves."""

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time

import numpy as np
import pytest
from conftest import COMMAND, GOLDEN, PHOTOS, TERMINAL, TESTS
from PIL import Image

from tokcodec import TokenFile
from tokcodec.cli import progress
from tokcodec.cli.progress import Bar

TINY = GOLDEN / "patch.safetensors"
MODEL = {
    "encoder": {"kind": "patch", "width": 32, "layers": 1, "heads": 2, "patch_size": 4},
    "decoder": {"kind": "patch", "width": 32, "layers": 1, "heads": 2, "patch_size": 8},
    "quantizer": {"kind": "codebook", "codebook_size": 64, "embedding_dim": 8},
    "preprocessing": {"image_size": 32, "pixel_scale": 2},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """300 small images."""
    folder = tmp_path_factory.mktemp("images")
    photo = Image.open(PHOTOS[0]).convert("RGB")
    for number in range(300):
        photo.crop((number, 0, number + 100, 80)).save(folder / f"{number:03}.png")
    return folder


class OnTerminal:
    """A process on a pseudo-terminal of its own, which also is where its Ctrl-C comes from."""

    def __init__(self, *arguments, **environment):
        self.leader, follower = pty.openpty()

        def own():
            os.setsid()
            fcntl.ioctl(follower, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            list(map(str, arguments)),
            stdin=follower,
            stdout=subprocess.DEVNULL,
            stderr=follower,
            preexec_fn=own,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "150", "NO_COLOR": "", **environment},
        )
        os.close(follower)
        self.shown = b""

    def read(self, until=None):
        """All that is shown to the end, or until it has a pattern."""
        while until is None or not re.search(until, self.shown):
            try:
                self.shown += os.read(self.leader, 65536)
            except OSError:
                assert until is None, self.shown
                break
        return self.shown

    def interrupt(self):
        os.write(self.leader, b"\x03")

    def wait(self):
        self.read()
        os.close(self.leader)
        return self.process.wait()


def last_line(shown):
    """What is left to be read: behind the last bar, which is wiped out."""
    assert shown.endswith(b"\r\n")
    return shown.splitlines()[-1].split(b"\x1b[2K")[-1].decode()


def test_a_bar_moves_with_images_and_leaves_a_line():
    # Three times as long as rich takes between two frames.
    program = """
import time
from tokcodec.cli.progress import Bar
with Bar("encoded", 6) as bar:
    bar.skip(2)
    for _ in range(3):
        time.sleep(0.3)
        bar.bytes_in, bar.bytes_out = bar.bytes_in + 1000, bar.bytes_out + 40
        bar.move()
    time.sleep(0.3)
    bar.fail("x.png: is [bold]none[/bold]")
"""
    shown = OnTerminal(sys.executable, "-c", program)
    assert shown.wait() == 0
    seen = [int(number) for number in re.findall(rb"(\d) of 6 images", shown.shown)]
    assert seen == sorted(seen)
    assert {2, 3, 4, 5, 6} <= set(seen)
    assert re.search(rb"[\d.]+ images/s, 0:00:0\d left", shown.shown)
    assert b"tokcodec: x.png: is [bold]none[/bold]\r\n" in shown.shown
    assert re.fullmatch(
        r"tokcodec: 3 encoded \(3,000 bytes to 120\) in [\d.]+ s, [\d.]+ images/s, 2 skipped.*, "
        "1 failed",
        last_line(shown.shown),
    )
    plain = OnTerminal(sys.executable, "-c", program, NO_COLOR="1")
    assert plain.wait() == 0
    assert not re.search(rb"\x1b\[[\d;]*m", plain.shown)
    assert re.search(rb"\x1b\[[\d;]*m", shown.shown)


@pytest.mark.parametrize("command", ["encode", "tokenize", "train"])
def test_bars_of_commands_end_full(images, tmp_path, command):
    arguments = [COMMAND, command, images, "-o", tmp_path / "out"]
    if command == "train":
        (tmp_path / "model.json").write_text(json.dumps(MODEL))
        arguments += ["--model", tmp_path / "model.json", "--steps", "9", "--batch-tokens", "64"]
        arguments += ["--report-every", "4"]
        full, line = (
            [b"300 of 300 images", b"9 of 9 steps"],
            r"tokcodec: 9 steps trained in .* steps/s, loss .*",
        )
    else:
        arguments += ["--weights", TINY]
        full = [b"300 of 300 images"]
        line = rf"tokcodec: 300 {command[:6]}\w+ \([\d,]+ bytes to [\d,]+\) in .* images/s.*"
    shown = OnTerminal(*arguments)
    assert shown.wait() == 0
    for text in full:
        assert text in shown.shown
    assert re.fullmatch(line, last_line(shown.shown))
    if command == "train":
        log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").open()]
        assert [entry["step"] for entry in log] == [4, 8, 9]
        assert {"loss", "terms", "psnr", "tokens_per_second"} <= log[0].keys()
        # The images above are the held-out ones, but for what JPEG makes of them.
        held_out = np.load(tmp_path / "out" / "held-out.npy").astype(float)
        sheet = np.asarray(Image.open(tmp_path / "out" / "sheet.jpg"))
        count = min(8, len(held_out))
        side = held_out.shape[-1]
        assert sheet.shape == (2 * side, side * count, 3)
        first = held_out[0].transpose(1, 2, 0)
        assert abs(sheet[:side, :side] - first).mean() < 4
        assert abs(sheet[side:, :side] - first).mean() > 4


def test_elsewhere_a_line_comes_every_so_often(monkeypatch, capsys):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Bar("encoded", 1000, where_failed="--json names all") as bar:
        for number in range(12):
            bar.fail(f"{number}.png: is none") if number else bar.move()
            bar.move(9)
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if ".png" in line] == [
        f"tokcodec: {number}.png: is none" for number in range(1, 11)
    ]
    ways = [line for line in said[:-1] if ".png" not in line]
    pattern = r"tokcodec: [\d,]+ of 1,000 images, [\d.]+ (images/s|s/image), 0:\d\d:\d\d left"
    assert all(re.fullmatch(pattern, line) for line in ways)
    assert 2 <= len(ways) <= 5  # of 24 moves in some 120 s
    assert said[-1].endswith("11 failed (--json names all)")


def test_progress_of_tars_is_that_of_their_bytes(monkeypatch, capsys):
    """The number of images is not known before they are read; some were read by an earlier run."""
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Bar("tokenized", None) as bar:
        bar.total_bytes = 8_000_000
        bar.bytes_read = bar.bytes_skipped = 2_000_000
        bar.skip(20)
        bar.bytes_read += 3_000_000
        bar.move(12)
    (line, _) = capsys.readouterr().err.splitlines()
    assert line == ("tokcodec: 32 images, 5.0 of 8.0 MB, 1.0 images/s, 0:00:12 left")


def test_slow_work_has_seconds_for_each(monkeypatch, capsys):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Bar("read", 1, "page") as bar:
        bar.move()
    assert capsys.readouterr().err == "tokcodec: 1 read in 8.0 s, 8.0 s/page\n"


def test_quiet_leaves_errors_alone(run, images, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(images / "000.png", folder)
    shutil.copy(images / "001.png", folder)
    tiny = ("--weights", TINY)
    for command in (
        ("--quiet", "encode", folder, "-o", tmp_path / "tokens", *tiny),
        ("encode", folder, "--quiet", "-o", tmp_path / "tokens", *tiny),
        ("encode", folder / "000.png", "-o", tmp_path / "a.tok", *tiny, "--quiet"),
        ("decode", tmp_path / "tokens", "-o", tmp_path / "back", *tiny, "--quiet"),
        ("tokenize", folder, "-o", tmp_path / "dataset", *tiny, "--quiet"),
    ):
        assert run(*command).stderr == b""
    (folder / "x.png").write_bytes(b"")
    done = run("encode", folder, "-o", tmp_path / "tokens", *tiny, "--quiet", "--json", status=3)
    assert len(done.stderr.splitlines()) == 1
    assert b"x.png: cannot read the image" in done.stderr
    assert len(done.stdout.splitlines()) == 3


def test_failed_rows_are_named(run, images, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(images / "000.png", folder)
    for number in range(12):
        (folder / f"bad{number:02}.png").write_bytes(b"junk")
    out = tmp_path / "a dataset"
    said = run("tokenize", folder, "-o", out, "--weights", TINY, status=3).stderr.decode()
    assert re.findall(r"tokcodec: (bad\d\d.png): ", said) == [
        f"bad{number:02}.png" for number in range(10)
    ]
    assert said.endswith(f"12 failed (tokcodec inspect '{out}' --failed names all)\n")
    listed = run("inspect", out, "--failed").stdout.decode().splitlines()
    assert [line.split(": ")[0] for line in listed] == [f"bad{n:02}.png" for n in range(12)]
    facts = json.loads(run("inspect", out, "--json").stdout)
    assert [f"{row['key']}: {row['error']}" for row in facts["failures"]] == listed
    assert b"failed            12 (--failed" in run("inspect", out).stdout


def test_inspect_is_for_people(run, tmp_path, images):
    by_name = run("inspect", "tokcodec").stdout.decode()
    assert re.search(r"^codebook size +8,192$", by_name, re.MULTILINE)
    assert re.search(r"^  encoder +heads: \d+, ", by_name, re.MULTILINE)
    assert re.search(r"^held out psnr +16: .*64: .*256: .*576: ", by_name, re.MULTILINE)
    assert "{" not in by_name
    (tmp_path / "alone").mkdir()
    shutil.copy(TINY, tmp_path / "alone")
    assert b"checkpoint" in run("inspect", tmp_path / "alone").stdout
    folder = tmp_path / "tokens"
    folder.mkdir()
    shutil.copy(TESTS / "fuzz" / "corpus" / "token_file" / "aspect.tok", folder)
    (folder / "x.tok").write_bytes(b"TK")
    facts = json.loads(run("inspect", folder, "--json", status=3).stdout)
    assert (facts["token_files"], facts["failed"], facts["fits"]) == (1, 1, {"aspect": 1})
    listed = run("inspect", folder, "--failed", status=3).stdout.decode()
    assert listed.startswith(f"{folder / 'x.tok'}: ")
    assert os.fsencode(images) in run("inspect", images, status=1).stderr
    run("inspect", TINY, "--failed", status=2)
    # What is not known is said with its reason.
    for command in ("inspect", "stats"):
        said = run(command, folder / "aspect.tok").stdout.decode()
        assert "--weights" in said


@pytest.mark.parametrize(
    "module",
    ["typer", "tokcodec.cli.encode", "numpy", "PIL.Image", "torch", "torch._C", "torch.nn.modules"],
)
def test_an_interrupt_while_modules_load(images, tmp_path, module):
    program = f"""
import os, signal, sys
once = [{module!r}]
def strike(event, arguments):
    if event == "import" and arguments[0] in once:
        once.clear()
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(strike)
from tokcodec.cli import main
sys.exit(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "encode", images, "-o", tmp_path / "out"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 130
    (said,) = done.stderr.decode().splitlines()
    assert said.startswith("tokcodec: interrupted: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_says_what_stands(run, images, tmp_path, number):
    out = tmp_path / "out"
    command = ("encode", images, "-o", out, "--weights", TINY, "--batch-size", "1")
    process = subprocess.Popen(
        [COMMAND, *command], stderr=subprocess.PIPE, env={**os.environ, **TERMINAL}
    )
    while not list(out.glob("*.tok")):
        time.sleep(0.001)
    process.send_signal(number)
    said = process.communicate()[1].decode()
    assert process.returncode == 128 + number
    found = re.fullmatch(
        r"tokcodec: interrupted: (\d+) of 300 encoded; the same command .*\n", said
    )
    assert found, said
    written = list(out.glob("*.tok"))
    assert {path.name for path in out.iterdir()} == {path.name for path in written}
    assert int(found[1]) <= len(written) < 300
    for path in written:
        TokenFile.load(path)
    assert f", {len(written)} skipped" in run(*command).stderr.decode()


def test_ctrl_c_on_a_terminal(images, tmp_path):
    (tmp_path / "model.json").write_text(json.dumps(MODEL))
    common = ("train", images, "-o", tmp_path / "out", "--model", tmp_path / "model.json")
    command = (*common, "--steps", "100000", "--batch-tokens", "64", "--report-every", "5")
    shown = OnTerminal(COMMAND, *command)
    shown.read(rb"held-out PSNR")
    shown.interrupt()
    assert shown.wait() == 130
    said = last_line(shown.shown)
    pattern = (
        r"tokcodec: interrupted: ([\d,]+) of 100,000 steps trained; "
        r"the same command resumes it"
    )
    found = re.fullmatch(pattern, said)
    assert found, said
    done = int(found[1].replace(",", ""))
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").open()]
    assert 0 <= done - log[-1]["step"] < 5
    assert shown.shown.rfind(b"\x1b[?25h") > shown.shown.rfind(b"\x1b[?25l")  # the cursor
    # It resumes at the step that was done last; and a second Ctrl-C need not wait for the first.
    again = OnTerminal(COMMAND, *command)
    again.read(rb"held-out PSNR")
    with contextlib.suppress(OSError):
        again.interrupt()
        again.interrupt()
    assert again.wait() in (130, -signal.SIGINT)
    first = re.search(rb"step (\d+)/100000", again.shown)
    assert int(first[1]) == log[-1]["step"] + 5
    assert f"resuming at step {done}," in again.shown.decode()
