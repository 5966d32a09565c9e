"""Web servers that send too much, too slowly, or without a type; and credentials in URLs."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import DATA, GOLDEN

from tokcodec.cli import main
from tokcodec.errors import DatasetError, TokcodecError, without_credentials
from tokcodec.inputs.listing import list_inputs
from tokcodec.io import remote
from tokcodec.io.read import TooLargeError

for package in ("aiohttp", "fsspec"):
    pytest.importorskip(package)

TINY = str(GOLDEN / "patch.safetensors")
PHOTO = (DATA / "coffee.png").read_bytes()


class Handler(BaseHTTPRequestHandler):
    """``/NAME``, sent in the way that the first folder of the path names."""

    def do_GET(self):
        way = self.path.split("/")[1]
        self.server.asked.append((self.command, self.path))
        if "missing" in self.path:
            self.send_response(404)
            self.end_headers()
            return
        self.send_response(200)
        if way == "claims":
            self.send_header("Content-Length", str(1 << 40))
        elif way in ("plain", "typed"):
            self.send_header("Content-Length", str(len(PHOTO)))
        if way == "typed":
            self.send_header("Content-Type", "image/png")
        self.end_headers()
        if self.command == "HEAD":
            return
        with contextlib.suppress(OSError):  # the client has closed the connection
            if way in ("plain", "typed"):
                self.send(PHOTO)
            while way in ("endless", "claims", "drips"):
                self.send(b"x" if way == "drips" else bytes(1 << 16))
                time.sleep(0.05 if way == "drips" else 0)

    do_HEAD = do_GET  # noqa: N815

    def send(self, data):
        self.wfile.write(data)
        self.wfile.flush()
        self.server.sent += len(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        server.asked, server.sent = [], 0
        server.url = f"http://me:pass@127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_file_is_read_with_one_request(server):
    assert remote.read_bytes(f"{server.url}/plain/a.png") == PHOTO
    assert remote.read_bytes(f"{server.url}/plain/b.png", len(PHOTO)) == PHOTO
    assert [command for command, _ in server.asked] == ["GET", "GET"]


@pytest.mark.parametrize("way", ["endless", "claims"])
def test_no_more_than_the_limit_is_read(server, way):
    with pytest.raises(TooLargeError, match="1,000,000 bytes"):
        remote.read_bytes(f"{server.url}/{way}/a.png", 1_000_000)
    assert server.sent < 20_000_000  # the limit, and what the sockets hold
    assert len(server.asked) == 1


def test_a_server_that_drips_holds_no_worker(server, monkeypatch):
    monkeypatch.setattr(remote, "_SECONDS", 0.3)
    monkeypatch.setattr(remote, "_PAUSES", ())
    begun = time.monotonic()
    with pytest.raises(OSError, match="in time"):
        remote.read_bytes(f"{server.url}/drips/a.png")
    with (
        remote.open_input(f"{server.url}/drips/a.tar") as file,
        pytest.raises(OSError, match="slow"),
    ):
        file.read()
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("way", ["plain", "endless"])
def test_files_without_a_type_are_not_read_to_list_them(server, way):
    (batch,) = list_inputs([f"{server.url}/{way}/a.png?signature=s3cret/x.y"])
    assert batch.keys == ("a.png",)
    assert server.sent < 5_000_000
    with pytest.raises(DatasetError):  # no image by its name: it may be a folder
        list_inputs([f"{server.url}/{way}/a"])
    assert server.sent < 40_000_000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pw@host/a.png: no", "https://host/a.png: no"),
        ("http:/me:p@w@host/a.png", "http:/host/a.png"),
        ("see https://h/a.png?X-Amz-Signature=1f&x=2, or", "see https://h/a.png, or"),
        ("(https://h/a.png?at=1:2,3&sig=4): no", "(https://h/a.png): no"),
        ("['https://h/a?TOKEN', 'https://h/b#token=1']", "['https://h/a', 'https://h/b']"),
        ("az://box/a.tok?sv=1&sig=2; gone", "az://box/a.tok; gone"),
        ("s3://key:secret@bucket/a.tar: gone", "s3://bucket/a.tar: gone"),
        ("s3://bucket/a?.png s3://bucket/a#1.png", "s3://bucket/a?.png s3://bucket/a#1.png"),
        ("user@host: /a?b=c", "user@host: /a?b=c"),
    ],
)
def test_credentials_are_not_shown(text, shown):
    assert without_credentials(text) == str(TokcodecError(text)) == shown
    error = TokcodecError(text, name=text)
    assert (error.reason, error.name) == (shown, shown)


def test_no_command_shows_credentials(server, run, tmp_path):
    """Whatever fails, and in whatever form it is said."""
    (tmp_path / "in.png").write_bytes(PHOTO)
    found, missing = (f"{server.url}/typed/{name}.png?sig=s3cret&x=1" for name in ("a", "missing"))
    (tmp_path / "list").write_text(f"{found}\n{missing}\n")
    out = tmp_path / "out"
    tokens = tmp_path / "in.tok"
    run("encode", tmp_path / "in.png", "-o", tokens)
    done = [
        run("encode", found, "-o", out, "--json"),
        run("encode", missing, "-o", out, status=1),
        run("encode", tmp_path / "in.png", "-o", found, status=2),
        run("encode", tmp_path / "in.png", "--weights", found, status=1),
        run("encode", tmp_path / "in.png", "--tokens", found, status=2),
        run("encode", tmp_path / "in.png", f"--{found}", status=2),
        run("decode", missing, "-o", out, status=1),
        run("decode", tokens, "-o", found, status=2),
        run("inspect", missing, status=1),
        run("inspect", found, "--failed", status=1),
        run("stats", missing, status=1),
        run("export", missing, "-o", found, "--format", "npy", status=1),
        run("tokenize", "--from-file", tmp_path / "list", "-o", out, "--weights", TINY, "--json",
            status=3),
        run("inspect", out, "--json"),
        run("train", missing, "-o", tmp_path / "run", "--steps", "1", status=1),
        run("page", missing, "-o", tmp_path / "page", status=1),
    ]  # fmt: skip
    everything = b"".join(end.stdout + end.stderr for end in done)
    everything += b"".join(path.read_bytes() for path in out.iterdir() if path.is_file())
    assert everything.count(b"missing.png") > 5
    for secret in (b"s3cret", b"pass@", b"me:"):
        assert secret not in everything, everything[everything.index(secret) - 300 :][:400]
    assert json.loads(done[-3].stdout)["failures"]


def test_tracebacks_do_not_show_them_either(server, capsys):
    assert main(["inspect", f"{server.url}/missing/a.tok?sig=s3cret", "--debug"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "missing/a.tok" in said
    assert "s3cret" not in said
    assert "pass@" not in said
