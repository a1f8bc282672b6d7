"""The lock of a binlog directory: whom it excludes, what ends it, and what is said of a lock that cannot be had."""

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import threading

import pytest

import fastbean
from fastbean.binlog.lock import DirectoryLock
from fastbean.errors import BinlogError
from made_binlogs import io_client

BUSY = "another server uses this directory"
OTHER_PROCESS = """
import sys
from fastbean.binlog.lock import DirectoryLock
from fastbean.errors import BinlogError
try:
    DirectoryLock(sys.argv[1])
except BinlogError as error:
    print(error)
else:
    print("locked")
"""


def other_process_says(directory):
    """What a process says that takes the lock, and ends."""
    ended = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, str(directory)], capture_output=True, text=True, check=True
    )
    return ended.stdout.strip()


def config(directory, fsync_ms=0):
    return fastbean.Config(listen=["127.0.0.1"], port=0, binlog_dir=str(directory), fsync_ms=fsync_ms)


@pytest.fixture(params=["open-file-description", "process"])
def kind(request, monkeypatch):
    """Both kinds of locks: the second one is that of systems without the first."""
    if request.param == "process":
        monkeypatch.delattr(fcntl, "F_OFD_SETLK")
    return request.param


@pytest.mark.usefixtures("kind")
def test_two_servers_of_one_process_never_have_one_directory(tmp_path):
    with fastbean.Server(config(tmp_path)) as first:
        client = io_client(first.port)
        assert client(b"put 0 0 60 1\r\na\r\n") == b"INSERTED 1\r\n"
        for _ in range(2):
            with pytest.raises(BinlogError, match=BUSY):
                fastbean.Server(config(tmp_path)).start()
            assert BUSY in other_process_says(tmp_path)
        assert client(b"put 0 0 60 1\r\nb\r\n") == b"INSERTED 2\r\n"
        client(b"", close=True)
    with fastbean.Server(config(tmp_path)) as again:
        client = io_client(again.port)
        assert client(b"peek 2\r\n", bodies=1) == b"FOUND 2 1\r\nb\r\n"
        client(b"", close=True)


@pytest.mark.usefixtures("kind")
def test_another_name_of_the_directory_is_the_same_directory(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "link").symlink_to("log")
    lock = DirectoryLock(tmp_path / "log")
    with pytest.raises(BinlogError, match=BUSY):
        DirectoryLock(tmp_path / "link")
    lock.release()
    DirectoryLock(tmp_path / "link").release()


def test_to_close_other_descriptors_of_the_file_does_not_end_it(tmp_path):
    lock = DirectoryLock(tmp_path)
    os.close(os.open(tmp_path / "lock", os.O_RDWR))
    shutil.copy(tmp_path / "lock", tmp_path / "copied")
    assert BUSY in other_process_says(tmp_path)
    lock.release()
    assert other_process_says(tmp_path) == "locked"


@pytest.mark.usefixtures("kind")
def test_it_excludes_the_kind_that_beanstalkd_takes(tmp_path):
    lock = DirectoryLock(tmp_path)
    code = "import fcntl, os, sys; fcntl.lockf(os.open(sys.argv[1], os.O_WRONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    program = [sys.executable, "-c", code, str(tmp_path / "lock")]
    assert subprocess.run(program, capture_output=True, check=False).returncode == 1
    lock.release()
    assert subprocess.run(program, capture_output=True, check=False).returncode == 0


def test_many_threads_and_one_directory(tmp_path):
    locks = []

    def take():
        with contextlib.suppress(BinlogError):
            locks.append(DirectoryLock(tmp_path))

    threads = [threading.Thread(target=take) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(locks) == 1
    locks[0].release()
    locks[0].release()
    DirectoryLock(tmp_path).release()


def test_a_child_of_a_fork_does_not_keep_it(tmp_path):
    """multiprocessing forks: the child may live longer than the server, and a restart must not be refused."""
    code = (
        "import os, sys; from fastbean.binlog.lock import DirectoryLock; lock = DirectoryLock(sys.argv[1]); "
        "os.fork() or (print('ready', flush=True), sys.stdin.read(), os._exit(0)); sys.stdin.close(); os._exit(0)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout.readline() == b"ready\n"
        assert parent.wait(60) == 0
        assert other_process_says(tmp_path) == "locked"
        parent.stdin.close()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errno.EAGAIN, BUSY),
        (errno.EACCES, BUSY),
        (errno.ENOLCK, "cannot lock it: No locks available; its file system has no locks, or the system has no more"),
        (errno.EOPNOTSUPP, "cannot lock it: Operation not supported; its file system has no locks"),
        (errno.EIO, "cannot lock it: Input/output error; look at the disk"),
    ],
)
@pytest.mark.usefixtures("kind")
def test_the_errors_of_a_lock(tmp_path, monkeypatch, error, words):
    def refuse(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)
    with pytest.raises(BinlogError, match=words) as raised:
        DirectoryLock(tmp_path)
    assert str(raised.value).startswith(f"-b {tmp_path}: ")
    monkeypatch.undo()
    DirectoryLock(tmp_path).release()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errno.EROFS, "the directory must exist and be writable"),
        (errno.EMFILE, "raise ulimit -n"),
        (errno.ENOSPC, "make room on its disk"),
        (errno.EIO, "look at the disk"),
    ],
)
def test_the_errors_of_its_file(tmp_path, monkeypatch, error, words):
    def refuse(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(BinlogError, match=f"cannot open its lock: {os.strerror(error)}; {words}"):
        DirectoryLock(tmp_path)
