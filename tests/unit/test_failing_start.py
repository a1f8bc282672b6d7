"""A start that fails at any step, for any reason, leaves nothing behind: no thread, no descriptor, no lock, no file."""

import dis
import errno
import functools
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
OPENING = tuple(str(Path(PACKAGE, "binlog", name)) for name in ("binlog.py", "lock.py", "segment_files.py"))
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


def test_ctrl_c_that_threading_replaces_by_its_own_error_is_still_ctrl_c(memory_path, monkeypatch):
    """It comes in the middle of `Thread.start`, whose condition then releases a lock that it does not hold."""
    directory = memory_path / "log"
    directory.mkdir()

    def begin(_thread):
        try:
            raise KeyboardInterrupt
        finally:
            threading.Lock().release()

    before = state()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", begin)
        with pytest.raises(KeyboardInterrupt):
            fastbean.Server(config(directory, memory_path / "socket")).start()
    assert_nothing_is_left(before, directory, memory_path / "socket")


@functools.cache
def after_calls(code):
    """The offsets in a function at which the handler of a signal may run: after each call, before its result is stored.

    What enters a `with` is no such call.
    """
    before, last, offsets = "", "", set()
    for instruction in dis.get_instructions(code):
        if last.startswith("CALL") and before != "LOAD_SPECIAL":
            offsets.add(instruction.offset)
        before, last = last, instruction.opname
    return offsets


class Interruption:
    """Raises after the `at`-th call that the modules that open files make, as the handler of a signal may."""

    def __init__(self, at):
        self._at = at
        self.steps = 0

    def __enter__(self):
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_):
        sys.settrace(None)

    def _trace(self, frame, event, _argument):
        if not frame.f_code.co_filename.startswith(OPENING):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode" and frame.f_lasti in after_calls(frame.f_code):
            self.steps += 1
            if self.steps == self._at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._trace


@pytest.mark.parametrize("kind", ["new", "old"])
def test_a_start_that_ctrl_c_ends_after_any_call_leaves_no_descriptor(made, memory_path, kind):
    """What the call has opened is not stored yet then."""
    directory = memory_path / "log"
    for at in itertools.count(1):
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(made, directory) if kind == "old" else directory.mkdir()
        server = fastbean.Server(config(directory))
        before = state()
        with Interruption(at) as interruption:
            failed = start(server)
        server.close()
        if state() != before:
            gc.collect()
        assert state() == before, f"after {at} calls"
        if not failed:
            break
    assert interruption.steps < at
    assert at > 30


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


@pytest.mark.parametrize(("place", "name"), [(0, "_write_pipe"), (1, "_sync_pipe")])
def test_a_thread_of_the_sink_whose_pipe_is_gone_ends(memory_path, place, name):
    """It must neither spin nor write into the file that has the number of its pipe by now."""
    directory = memory_path / "log"
    directory.mkdir()
    with fastbean.Server(config(directory)) as server:
        thread = server._binlog._sink_threads[place]
        pipe = getattr(server._binlog, name)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, pipe.reading)
        # What waits in the pipe is woken by its end alone.
        os.dup2(null, pipe.writing)
        os.close(null)
        thread.join(60)
        assert not thread.is_alive()
