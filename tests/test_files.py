"""Output, temporary and lock files: links and pipes of their names, and modes that are kept."""

import contextlib
import os
import signal
import stat

import pytest

from tokcodec.errors import OutputError
from tokcodec.io import files
from tokcodec.io.files import TEMPORARY, open_lock, write_atomically


@pytest.fixture(autouse=True)
def no_hang():
    """What waits for ever fails instead."""

    def late(*_):
        pytest.fail("it waits for ever")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_a_pipe_that_nobody_reads_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_READER_SECONDS", 0.2)
    os.mkfifo(tmp_path / "a.tok")
    with pytest.raises(OutputError, match=r"a\.tok: .*no program reads") as caught:
        write_atomically(tmp_path / "a.tok", lambda file: file.write(b"tokens"))
    assert "\n" not in str(caught.value)
    assert (tmp_path / "a.tok").is_fifo()


def test_a_pipe_takes_more_than_its_buffer(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    data = os.urandom(1 << 20)
    child = os.fork()
    if not child:
        os._exit((tmp_path / "pipe").read_bytes() != data)
    write_atomically(tmp_path / "pipe", lambda file: file.write(data))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("reader", [False, True])
def test_lock_files_are_regular_files(tmp_path, reader):
    path, victim = tmp_path / ".lock", tmp_path / "victim"
    with open_lock(path):
        assert path.is_file()
    path.unlink()
    path.symlink_to(victim)
    with pytest.raises(OSError, match=r"\.lock is a link or not a regular file"):
        open_lock(path)
    assert not victim.exists()
    path.unlink()
    os.mkfifo(path)
    with contextlib.ExitStack() as stack:
        if reader:
            stack.callback(os.close, os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        with pytest.raises(OSError, match=r"\.lock is a link or not a regular file"):
            open_lock(path)


@pytest.mark.parquet
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("victim")])
def test_the_lock_of_a_dataset_is_a_regular_file(tmp_path, make):
    pytest.importorskip("pyarrow")
    from tokcodec.dataset.folder import DatasetFolder

    make(tmp_path / ".lock")
    with pytest.raises(OutputError), DatasetFolder(tmp_path).lock():
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_temporary_files_do_not_follow_links(tmp_path, monkeypatch):
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "0")
    (tmp_path / f"{TEMPORARY}0").symlink_to(tmp_path / "victim")
    with pytest.raises(OutputError):
        write_atomically(tmp_path / "a.tok", lambda file: file.write(b"tokens"))
    assert not (tmp_path / "victim").exists()


def test_a_file_keeps_its_mode(tmp_path):
    path = tmp_path / "a.tok"
    write_atomically(path, lambda file: file.write(b"first"))
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    for mode in (0o600, 0o664):
        path.chmod(mode)
        write_atomically(path, lambda file: file.write(b"second"))
        assert stat.S_IMODE(path.stat().st_mode) == mode
