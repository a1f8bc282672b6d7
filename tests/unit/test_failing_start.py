"""A start that fails at any step, for any reason, leaves nothing behind: no thread, no descriptor, no lock, no file."""

import errno
import gc
import itertools
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path

import pytest

import fastbean
from fastbean.binlog.lock import DirectoryLock
from fastbean.errors import ResourceError
from made_binlogs import SEGMENT_BYTES, many_jobs, write_log

PACKAGE = str(Path(fastbean.__file__).parent)
# Python closes a socket that is lost between the call that makes it and the next step, and warns of it.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
ENDS = ("close", "__exit__", "release")  # what these end has ended, also when they fail
# A new error for each start: one that is raised again keeps the frames of all its tracebacks, and the servers in them.
FAILURES = {
    "KeyboardInterrupt": KeyboardInterrupt,
    "MemoryError": MemoryError,
    "OSError": lambda: OSError(errno.EIO, os.strerror(errno.EIO)),
}


@pytest.fixture(scope="module")
def made():
    """A binlog of several segments, with spares, as a server leaves it."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "log"
        write_log(directory, many_jobs())
        with fastbean.Server(config(directory)):
            pass
        yield directory


@pytest.fixture
def memory_path():
    """A folder in memory where the system has one: each start syncs."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def config(directory, socket_path=None):
    return fastbean.Config(
        listen=["127.0.0.1", *([f"unix:{socket_path}"] if socket_path else [])],
        port=0,
        binlog_dir=str(directory),
        binlog_size=SEGMENT_BYTES,
        fsync_ms=0,
    )


def state():
    """The descriptors and threads of this process."""
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            descriptors[name] = Path(f"/proc/self/fd/{name}").readlink()
        except FileNotFoundError:
            continue  # the one of the listing itself
    return descriptors, {thread.name for thread in threading.enumerate()}


class FailingCall:
    """Raises an error in the place of the `at`-th call of a built-in function out of a module of the package.

    That is every call of the system, and many that allocate.
    """

    def __init__(self, at, error):
        self._at = at
        self._error = error
        self.calls = 0

    def __enter__(self):
        sys.setprofile(self._called)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)

    @property
    def raised(self):
        return self.calls >= self._at

    def _called(self, frame, event, function):
        is_ours = event == "c_call" and frame.f_code.co_filename.startswith(PACKAGE)
        if is_ours and function.__name__ not in ENDS:
            self.calls += 1
            if self.calls == self._at:
                raise self._error


def start(server):
    """Starts it; whether that failed."""
    try:
        server.start()
    except (KeyboardInterrupt, MemoryError, OSError, RuntimeError, fastbean.errors.FastbeanError):
        return True
    return False


def assert_nothing_is_left(before, directory, socket_path):
    if state() != before:
        gc.collect()
    assert state() == before
    assert not socket_path.exists()
    DirectoryLock(directory).release()


@pytest.mark.parametrize("error", FAILURES)
@pytest.mark.parametrize("kind", ["new", "old"])
def test_a_start_that_fails_at_any_call_leaves_nothing(made, memory_path, kind, error):
    socket_path = memory_path / "socket"
    directory = memory_path / "log"
    failed = 0
    for at in itertools.count(0):
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(made, directory) if kind == "old" else directory.mkdir()
        server = fastbean.Server(config(directory, socket_path))
        before = state()
        with FailingCall(at, FAILURES[error]()) as call:
            if start(server):
                failed += 1
                assert_nothing_is_left(before, directory, socket_path)
        server.close()
        if at and not call.raised:
            break
        assert_nothing_is_left(before, directory, socket_path)
    assert failed > 50


class Log:
    """A log that raises at its `at`-th call."""

    def __init__(self, at, error):
        self._at = at
        self._error = error
        self.events = []

    def __call__(self, _level, event, **_fields):
        self.events.append(event)
        if len(self.events) == self._at:
            raise self._error


def test_a_start_that_ctrl_c_ends_in_the_log_leaves_nothing(made, memory_path):
    directory = memory_path / "log"
    shutil.copytree(made, directory)
    for at in itertools.count(1):
        log = Log(at, KeyboardInterrupt())
        server = fastbean.Server(config(directory, memory_path / "socket"), log=log)
        before = state()
        failed = start(server)
        if not failed:
            server.close()
        assert_nothing_is_left(before, directory, memory_path / "socket")
        if not failed:
            break
        assert len(log.events) == at
    assert log.events[-1] == "binlog-open"
    assert at == 4


@pytest.mark.parametrize("number", [1, 2])
def test_a_start_without_a_thread_leaves_nothing(memory_path, monkeypatch, number):
    directory = memory_path / "log"
    directory.mkdir()
    started = []
    real = threading.Thread.start

    def begin(thread):
        started.append(thread)
        if len(started) == number:
            raise RuntimeError("can't start new thread")
        real(thread)

    before = state()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", begin)
        with pytest.raises(ResourceError, match="can't start new thread: raise ulimit -u"):
            fastbean.Server(config(directory, memory_path / "socket")).start()
    assert_nothing_is_left(before, directory, memory_path / "socket")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_ctrl_c_while_a_thread_begins_leaves_nothing(memory_path, monkeypatch, number):
    """The thread runs already then: `Thread.start` waits for it to say so."""
    directory = memory_path / "log"
    directory.mkdir()
    started = []
    real = threading.Thread.start

    def begin(thread):
        started.append(thread)
        real(thread)
        if len(started) == number:
            raise KeyboardInterrupt

    before = state()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", begin)
        with pytest.raises(KeyboardInterrupt):
            fastbean.Server(config(directory, memory_path / "socket")).serve_in_thread()
    assert len(started) == number
    assert_nothing_is_left(before, directory, memory_path / "socket")


def test_a_start_whose_thread_cannot_serve_leaves_nothing(memory_path, monkeypatch):
    directory = memory_path / "log"
    directory.mkdir()
    real = threading.Thread.start

    def begin(thread):
        if thread.name == "fastbean":
            raise RuntimeError("can't start new thread")
        real(thread)

    before = state()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", begin)
        with (
            pytest.raises(RuntimeError, match="new thread"),
            fastbean.Server(config(directory, memory_path / "socket")),
        ):
            pass
    assert_nothing_is_left(before, directory, memory_path / "socket")


def test_a_sync_thread_whose_pipe_is_gone_ends(memory_path):
    """It must neither spin nor write into the file that has the number of its pipe by now."""
    directory = memory_path / "log"
    directory.mkdir()
    with fastbean.Server(config(directory)) as server:
        thread = server._binlog._sync_thread
        reading, writing = server._binlog._begin_pipe
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, reading)
        # What waits in the pipe is woken by its end alone.
        os.dup2(null, writing)
        os.close(null)
        thread.join(60)
        assert not thread.is_alive()
