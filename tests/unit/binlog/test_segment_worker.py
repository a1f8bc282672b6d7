"""The thread that makes and removes segments, when it has no memory or fails: it lives, and nothing waits in vain."""

import contextlib
import itertools
import os
import shutil
import socket
import threading
import time

import pytest

import fastbean
from fastbean.binlog import segment_files
from fastbean.binlog.binlog import Binlog
from fastbean.errors import BinlogFailedError
from made_binlogs import SEGMENT_BYTES, io_client, results_of, write_log

PUT = b"put 0 0 60 900\r\n%s\r\n" % (b"x" * 900)
CALLS = ("open", "rename", "write_zeros", "fsync", "unlink", "posix_fallocate", "sync_directory", "path_of", "remove")


class BrokenError(Exception):
    """A mistake in our own code, say."""


class FailingCall:
    """Raises an error in the place of the `at`-th of the calls that the thread makes."""

    def __init__(self, monkeypatch, at, error):
        self.made = 0
        self.raised = False
        self.ended = False
        for name in CALLS:
            owner = segment_files if hasattr(segment_files, name) else os
            monkeypatch.setattr(owner, name, self._wrap(getattr(owner, name), at, error))

    def _wrap(self, real, at, error):
        def call(*arguments, **options):
            if threading.current_thread().name == "fastbean-segments" and not self.ended:
                self.made += 1
                if self.made == at:
                    self.raised = True
                    raise error
            return real(*arguments, **options)

        return call


class Worker:
    """The thread, and its results."""

    def __init__(self, directory):
        self.directory = directory
        self.events = []
        self._woken = threading.Semaphore(0)
        self.thread = segment_files.SegmentWorker(directory, self._woken.release, self._log)
        self.thread.start()

    def _log(self, _level, event, **_fields):
        self.events.append(event)

    def next(self):
        """The next result."""
        assert self._woken.acquire(timeout=60), "it does not report"
        return next(results_of(self.thread))

    def close(self):
        self.thread.close()
        for result in results_of(self.thread):
            if result.fd >= 0:
                os.close(result.fd)


@pytest.fixture
def directory(directory, monkeypatch):
    """Some segments, and a thread that retries quickly."""
    monkeypatch.setattr(segment_files, "REMOVE_RETRY_S", 0.01)
    monkeypatch.setattr(segment_files, "MEMORY_RETRY_S", 0.01)
    write_log(directory)
    return directory


def copies(directory, monkeypatch, error):
    """For each call that can fail: a worker on a copy of the directory, and the call."""
    for at in itertools.count(1):
        copied = directory.with_name(f"copy-{at}")
        shutil.copytree(directory, copied)
        with monkeypatch.context() as patch:
            failing = FailingCall(patch, at, error)
            worker = Worker(copied)
            yield worker, failing
            worker.close()
        shutil.rmtree(copied)
        if not failing.raised:
            assert at > 3
            return


def assert_works(worker, failing, number):
    """It still makes segments."""
    failing.ended = True
    worker.thread.create(number, SEGMENT_BYTES)
    while (result := worker.next()).number != number:
        assert result.outcome == "removed"
    assert result.outcome == "made"
    os.close(result.fd)


def outcome(worker):
    result = worker.next()
    if result.fd >= 0:
        os.close(result.fd)
    return result.outcome


def test_without_memory_for_a_spare_it_is_refused(directory, monkeypatch):
    outcomes = []
    for worker, failing in copies(directory, monkeypatch, MemoryError()):
        worker.thread.create(100, SEGMENT_BYTES)
        outcomes.append(outcome(worker))
        if outcomes[-1] == "refused":
            assert worker.events == ["binlog-cannot-grow"]
        assert_works(worker, failing, 101)
    assert set(outcomes) == {"made", "refused"}
    assert outcomes[-1] == "made"


def test_without_memory_to_recycle_a_segment_it_is_removed(directory, monkeypatch):
    outcomes = []
    for worker, failing in copies(directory, monkeypatch, MemoryError()):
        worker.thread.recycle(1, 100, SEGMENT_BYTES, 3)
        outcomes.append([outcome(worker)])
        if outcomes[-1] == ["refused"]:
            outcomes[-1].append(outcome(worker))
        assert_works(worker, failing, 101)
        assert not segment_files.is_there(segment_files.path_of(worker.directory, 1))
    assert outcomes[-1] == ["recycled"]
    assert {tuple(each) for each in outcomes} == {("recycled",), ("refused", "removed")}


def test_without_memory_to_remove_a_segment_it_is_tried_again(directory, monkeypatch):
    for worker, failing in copies(directory, monkeypatch, MemoryError()):
        worker.thread.remove(1, SEGMENT_BYTES, 3)
        worker.thread.remove(2, SEGMENT_BYTES, 3)
        assert [worker.next().old for _ in range(2)] == [1, 2]
        assert_works(worker, failing, 101)


def test_a_report_for_which_there_is_no_memory_comes_later(directory):
    worker = Worker(directory)
    refusals = iter([True] * 5)
    real = worker.thread._results

    class Scarce:
        """A list that has no memory at first."""

        def append(self, work):
            if next(refusals, False):
                raise MemoryError
            real.append(work)

    worker.thread._results = Scarce()
    worker.thread.create(100, SEGMENT_BYTES)
    assert worker._woken.acquire(timeout=60)
    worker.thread._results = real
    assert outcome_of(real.popleft()) == "made"
    worker.close()


def outcome_of(result):
    os.close(result.fd)
    return result.outcome


@pytest.mark.parametrize("work", ["create", "recycle", "remove"])
def test_any_other_error_is_reported_as_a_failure(directory, monkeypatch, work):
    outcomes = []
    for worker, _ in copies(directory, monkeypatch, BrokenError("a mistake")):
        if work == "create":
            worker.thread.create(100, SEGMENT_BYTES)
        elif work == "recycle":
            worker.thread.recycle(1, 100, SEGMENT_BYTES, 3)
        else:
            worker.thread.remove(1, SEGMENT_BYTES, 3)
        result = worker.next()
        outcomes.append(result.outcome)
        if result.outcome == "failed":
            assert result.text == "the thread that makes and removes segments has failed: BrokenError('a mistake')"
        elif result.fd >= 0:
            os.close(result.fd)
        assert worker.thread._thread.is_alive()
    assert outcomes[-1] in ("made", "recycled", "removed")
    assert set(outcomes[:-1]) == {"failed"}


# --- what a server makes of it


def config(directory):
    return fastbean.Config(
        listen=["127.0.0.1"], port=0, binlog_dir=str(directory), binlog_size=SEGMENT_BYTES, fsync_ms=0
    )


def test_a_failure_of_the_thread_ends_the_server_and_holds_nobody(tmp_path, monkeypatch):
    errors = []
    server = fastbean.Server(config(tmp_path))
    server.start()

    def run():
        try:
            server.run()
        except BinlogFailedError as error:
            errors.append(str(error))

    def broken(*_, **__):
        raise BrokenError("a mistake")

    monkeypatch.setattr(segment_files, "create", broken)
    thread = threading.Thread(target=run)
    thread.start()
    # It may have ended before this client comes.
    with (
        contextlib.suppress(ConnectionError),
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as client,
    ):
        client.sendall(PUT * 20)
        while client.recv(1000):
            pass
    thread.join()
    assert "BrokenError('a mistake')" in errors[0]


def put_until(client, word):
    """Puts jobs until one is answered with this word."""
    while not client(PUT).startswith(word):
        time.sleep(0.01)


def test_a_question_for_which_there_is_no_memory_refuses_puts_for_a_while(tmp_path, monkeypatch):
    def no_memory(*_):
        raise MemoryError

    with fastbean.Server(config(tmp_path)) as server:
        client = io_client(server.port)
        with monkeypatch.context() as patch:
            for name in ("create", "recycle", "remove"):
                patch.setattr(segment_files.SegmentWorker, name, no_memory)
            put_until(client, b"OUT_OF_MEMORY")
        put_until(client, b"INSERTED")
        client(b"", close=True)


def test_segments_that_could_not_be_asked_to_go_go_later(tmp_path, monkeypatch):
    refused = threading.Event()
    real = segment_files.SegmentWorker.remove

    def remove(worker, *arguments):
        if not refused.is_set():
            refused.set()
            raise MemoryError
        real(worker, *arguments)

    monkeypatch.setattr(segment_files.SegmentWorker, "remove", remove)
    with fastbean.Server(config(tmp_path)) as server:
        client = io_client(server.port)
        id = 0
        while segment_files.list_segments(tmp_path)[0][0] == 1:
            if client(PUT).startswith(b"INSERTED"):
                id += 1
                assert client(b"delete %d\r\n" % id) in (b"DELETED\r\n", b"NOT_FOUND\r\n")
        client(b"", close=True)
    assert refused.is_set()


def test_a_spare_for_which_there_is_no_memory_is_taken_later(tmp_path, monkeypatch):
    refused = threading.Event()
    real = Binlog._take

    def take(binlog, result):
        if result.fd >= 0 and not refused.is_set():
            refused.set()
            raise MemoryError
        real(binlog, result)

    monkeypatch.setattr(Binlog, "_take", take)
    with fastbean.Server(config(tmp_path)) as server:
        client = io_client(server.port)
        assert [client(PUT)[:8] for _ in range(20)] == [b"INSERTED"] * 20
        client(b"", close=True)
    assert refused.is_set()
    assert len(segment_files.list_segments(tmp_path)) > 3
