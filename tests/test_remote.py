"""Object stores: a real S3 interface, which fails now and then, between tokcodec and its data."""

import io
import json
import os
import random
import socket
import subprocess
import sys
import tarfile
import threading
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from conftest import GOLDEN
from PIL import Image

from tokcodec import TokenDataset, load_tokens
from tokcodec.errors import OutputError
from tokcodec.inputs import listing
from tokcodec.io import remote

pytestmark = pytest.mark.s3
for package in ("pyarrow", "s3fs", "moto", "flask", "upath"):
    pytest.importorskip(package)

TINY = str(GOLDEN / "patch.safetensors")
KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMIexample"


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """A connection that a client has cut is none."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Faulty(Quiet):
    """A proxy before the store. Of all requests a ``share`` ends in 503, after no answer, or in
    the middle of it."""

    daemon_threads = True

    def __init__(self, store):
        super().__init__(("127.0.0.1", 0), Relay)
        self.store, self.share, self.faults, self.requests = store, 0.0, 0, []
        self.dice = random.Random(0)
        self.told = threading.Lock()


class Relay(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def relay(self):
        server = self.server
        body = self.body()
        with server.told:
            server.requests.append((self.command, self.path))
            fault = server.dice.random() < server.share and server.dice.choice(
                ("503", "no answer", "done, but no answer", "half an answer")
            )
            server.faults += bool(fault)
        if fault == "no answer":
            return self.cut()
        if fault == "503":
            return self.answer(503, [], b"", len(b""))
        own = ("host", "transfer-encoding", "content-length")
        headers = {k: v for k, v in self.headers.items() if k.lower() not in own}
        store = HTTPConnection("127.0.0.1", server.store)
        store.request(self.command, self.path, body or None, headers)
        found = store.getresponse()
        status, told, data = found.status, found.getheaders(), found.read()
        store.close()
        if fault == "done, but no answer":
            return self.cut()
        length = next((int(v) for k, v in told if k.lower() == "content-length"), len(data))
        if fault and data:
            data = data[: len(data) // 2]
            self.close_connection = True
        return self.answer(status, told, data, length)

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, status, told, data, length):
        self.send_response(status)
        for name, value in told:
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def cut(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_):
        pass


for method in ("GET", "PUT", "HEAD", "DELETE", "POST"):
    setattr(Relay, f"do_{method}", Relay.relay)


@pytest.fixture(scope="module")
def proxy():
    port = free_port()
    program = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as store:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        server = Faulty(port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        own = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, value in own.items():
                patch.setenv(name, value)
            yield server
        server.shutdown()
        store.kill()


@pytest.fixture
def bucket(proxy, request):
    """An empty bucket: its URL, and its file system."""
    proxy.share, proxy.requests = 0.0, []
    url = "s3://" + request.node.name.replace("_", "-").lower()[:60].strip("-")
    system, path = remote.file_system(url)
    system.mkdir(path)
    yield url, system
    proxy.share = 0.0
    system.rm(path, recursive=True)


def image(seed):
    noise = np.random.RandomState(seed).randint(0, 256, (4, 4, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((32, 32), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def large_tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(12):
            noise = np.random.RandomState(number).randint(0, 256, (700, 700, 3)).astype(np.uint8)
            data = io.BytesIO()
            Image.fromarray(noise).save(data, "PNG", compress_level=0)
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(data.getvalue())
            tar.addfile(member, io.BytesIO(data.getvalue()))
    return buffer.getvalue()


def upload(system, url, count):
    for first in range(0, count, 100):
        some = range(first, min(count, first + 100))
        system.pipe({f"{url[5:]}/in/{n % 2}/{n:05}.png": image(n) for n in some})


def test_there_and_back(run, proxy, bucket, tmp_path):
    url, system = bucket
    upload(system, url, 60)
    options = ["--weights", TINY, "--rows-per-shard", "20"]
    system.get(f"{url}/in", str(tmp_path / "in"), recursive=True)
    run("tokenize", tmp_path / "in", "-o", tmp_path / "local", *options)
    command = ["tokenize", f"{url}/in", "-o", f"{url}/out", *options]
    run(*command)
    # Names, labels and tokens are those of the files; what tells of changes is the store's ETag.
    tokens = load_tokens(tmp_path / "local")
    assert np.array_equal(load_tokens(f"{url}/out"), tokens)
    assert TokenDataset(f"{url}/out").class_to_idx == {"0": 0, "1": 1}
    for name in ("stats", "inspect"):
        here = json.loads(run(name, tmp_path / "local", "--json").stdout)
        there = json.loads(run(name, f"{url}/out", "--json").stdout)
        changing = {"plan", "file_bytes", "bits_per_pixel", "ratio_raw"}
        assert {k: v for k, v in here.items() if k not in changing} == {
            k: v for k, v in there.items() if k not in changing
        }
    run("export", f"{url}/out", "-o", tmp_path / "t.npy")
    assert np.array_equal(np.load(tmp_path / "t.npy"), tokens)
    for _ in range(2):
        for place in (url, tmp_path):
            shards = ("--rows-per-shard", "40", "-f")
            run("export", f"{url}/out", "-o", f"{place}/t.npz", *shards)
            run("export", f"{url}/out", "-o", f"{place}/mds", "--format", "mds", *shards)
    for name in ("t-00000.npz", "t-00001.npz", "t-00001.npz.index.jsonl", "t.npz.meta.json",
        "mds/shard.00000.mds", "mds/index.json"):  # fmt: skip
        assert system.cat(f"{url}/{name}") == (tmp_path / name).read_bytes()
    assert (
        b"already exists"
        in run("export", f"{url}/out", "-o", f"{url}/t.npz", *shards[:2], status=1).stderr
    )
    weights = ("--weights", TINY)
    for place in (url, tmp_path):
        out = tmp_path / f"from {place.__class__.__name__}"
        run("decode", f"{place}/t-00001.npz", "-o", out, *weights)
        assert len(list(out.rglob("*.png"))) == 20
    run("decode", f"{url}/out", "-o", tmp_path / "there", *weights)
    run("decode", tmp_path / "local", "-o", tmp_path / "here", "--weights", TINY)
    images = sorted(p.relative_to(tmp_path / "here") for p in (tmp_path / "here").rglob("*.png"))
    assert len(images) == 60
    for name in images:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    # What is finished stands; what is missing is made again, the same.
    before = {path: system.cat(path) for path in system.ls(f"{url}/out", detail=False)}
    assert len(before) == 3
    system.rm(f"{url}/out/shard-00001.parquet")
    proxy.requests = []
    run(*command)
    assert {path: system.cat(path) for path in before} == before
    assert [name for method, name in proxy.requests if method == "PUT"] == [
        f"/{url[5:]}/out/shard-00001.parquet"
    ]
    # One file, and its parts are gone.
    run("tokenize", f"{url}/in", "-o", f"{url}/one.parquet", *options)
    assert np.array_equal(load_tokens(f"{url}/one.parquet"), tokens)
    assert not system.exists(f"{url}/one.parquet.shards")
    # A changed image has another ETag, though its size is the same.
    system.pipe(f"{url}/in/0/00002.png", image(2)[:-1] + b"X")
    said = run(*command, status=1).stderr
    assert b"its inputs have changed since" in said
    run(*command, "-f", status=0)


def test_a_second_run_replaces_nothing(bucket):
    url, system = bucket
    path = remote.location(f"{url}/a.parquet")
    for _ in range(2):
        with remote.uploading(path) as file:
            file.write(b"first")
    with (
        pytest.raises(OutputError, match=r"a\.parquet: already exists, from another run"),
        remote.uploading(path) as file,
    ):
        file.write(b"other")
    assert system.cat(f"{url}/a.parquet") == b"first"


def test_what_fails_now_and_then_loses_nothing(run, proxy, bucket, tmp_path):
    url, system = bucket
    # TOKCODEC_IMAGES=10000 TOKCODEC_FAULTS=0.01 pytest tests/test_remote.py -k now_and_then
    upload(system, url, int(os.environ.get("TOKCODEC_IMAGES", "200")))
    system.pipe(f"{url}/in/large.tar", large_tar())  # several of the blocks that it is read in
    options = ["--weights", TINY, "--rows-per-shard", "50", "--workers", "8"]
    run("tokenize", f"{url}/in", "-o", f"{url}/whole", *options)
    proxy.share, proxy.faults = float(os.environ.get("TOKCODEC_FAULTS", "0.05")), 0
    run("tokenize", f"{url}/in", "-o", f"{url}/out", *options)
    run("export", f"{url}/out", "-o", tmp_path / "t.npy")
    assert proxy.faults > 5
    proxy.share = 0.0
    for path in system.ls(f"{url}/whole", detail=False):
        assert system.cat(path) == system.cat(path.replace("/whole/", "/out/"))
    assert np.array_equal(np.load(tmp_path / "t.npy"), load_tokens(f"{url}/whole"))


def test_a_store_that_is_away_ends_in_rows_or_one_line(run, proxy, bucket, monkeypatch):
    monkeypatch.setattr(remote, "_PAUSES", (0.01,))
    url, system = bucket
    upload(system, url, 2)
    listed = list(listing.expand(f"{url}/in"))
    proxy.share = 1.0
    for batch in listing.gather(listed):
        for record in batch.records():
            with pytest.raises(OSError, match=r"\w"):
                record.read()
    for command in (
        ["tokenize", f"{url}/in", "-o", f"{url}/out", "--weights", TINY],
        ["export", f"{url}/in", "-o", "x.npy"],
        ["stats", f"{url}/in"],
    ):
        (said,) = run(*command, status=1).stderr.decode().splitlines()
        assert said.startswith(f"tokcodec: {url}/in: cannot re")


def test_credentials_reach_no_output(run, tmp_path):
    """A server that asks for them, and one image that it has not."""

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            found = "signature=s3cret" in self.path and "a.png" in self.path
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(image(1) if found and self.command == "GET" else b"")

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://me:pass@127.0.0.1:{server.server_port}"
        (tmp_path / "list").write_text(
            f"{base}/a.png?signature=s3cret&x=1\n{base}/b.png?signature=s3cret&x=1\n"
        )
        done = run("tokenize", "--from-file", tmp_path / "list", "-o", tmp_path / "out.parquet",
                   "--weights", TINY, status=3)  # fmt: skip
        server.shutdown()
    everything = done.stdout + done.stderr + (tmp_path / "out.parquet").read_bytes()
    assert b"a.png" in everything
    for secret in (b"s3cret", b"pass@"):
        assert secret not in everything
