"""A log callable that raises: the server goes on as if it had returned; Ctrl-C in it reaches the program."""

import errno
import logging
import os
import socket
import threading
import time
from pathlib import Path

import pytest

import fastbean
from fastbean.base.guarded_log import GuardedLog
from fastbean.binlog import beanstalkd, replacement, replay, segment_files, takeover
from fastbean.errors import BinlogError
from made_binlogs import SEGMENT_BYTES, io_client, many_jobs, saved, write_log
from patience import PATIENCE_S

PUT = b"put 0 0 60 4\r\nbody\r\n"


class BrokenError(Exception):
    """What a log raises."""


class Broken:
    """A log that raises at each event, and keeps their names."""

    def __init__(self, error=BrokenError):
        self.events = []
        self._error = error
        self._heard = threading.Condition()

    def __call__(self, _level, event, **_fields):
        with self._heard:
            self.events.append(event)
            self._heard.notify_all()
        raise self._error

    def wait_for(self, event):
        with self._heard:
            assert self._heard.wait_for(lambda: event in self.events, PATIENCE_S), f"no {event} in {self.events}"


@pytest.fixture
def log():
    return Broken()


def config(directory=None, **settings):
    binlog = {} if directory is None else {"binlog_dir": str(directory), "binlog_size": SEGMENT_BYTES, "fsync_ms": 0}
    return fastbean.Config(**{"listen": ["127.0.0.1"], "port": 0, **binlog, **settings})


def assert_serves(server):
    client = io_client(server.port)
    assert client(PUT).startswith(b"INSERTED ")
    client(b"", close=True)


def test_addresses(log):
    with fastbean.Server(config(listen=["0.0.0.0"], http=["127.0.0.1:0"]), log=log) as server:
        assert_serves(server)
    assert log.events == ["listening", "listening-on-all-addresses", "listening-for-http"]


def test_clients_and_commands(log):
    with fastbean.Server(config(verbosity=2), log=log) as server:
        assert_serves(server)
        assert_serves(server)
        log.wait_for("close")
    assert set(log.events) == {"listening", "accept", "command", "reply", "close"}


def test_drain_and_undrain(log):
    with fastbean.Server(config(), log=log) as server:
        client = io_client(server.port)
        server.drain()
        assert client(PUT) == b"DRAINING\r\n"
        server.undrain()
        assert client(PUT) == b"INSERTED 2\r\n"
        client(b"", close=True)
    assert log.events[1:] == ["draining", "no-longer-draining"]


def test_too_many_clients(log):
    with fastbean.Server(config(max_connections=1), log=log) as server:
        client = io_client(server.port)
        assert client(PUT) == b"INSERTED 1\r\n"
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", server.port), timeout=60) as other:
                assert other.recv(100) == b"OUT_OF_MEMORY\r\n"
        assert client(PUT) == b"INSERTED 2\r\n"
        client(b"", close=True)
    assert "refusing-clients" in log.events


def test_a_client_that_speaks_http(log):
    with fastbean.Server(config(), log=log) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as browser:
            browser.sendall(b"GET / HTTP/1.1\r\n")
            assert browser.recv(100) == b""
        log.wait_for("http-refused")
        client = io_client(server.port)
        assert client(PUT) == b"INSERTED 1\r\n"
        client(b"", close=True)


def test_lost_log_lines(log):
    with fastbean.Server(config(), log=log) as server:
        server._loop.call_later(0, lambda: server._hub.on_dropped_notices(3))
        server._loop.wake()
        log.wait_for("notices-dropped")
        assert_serves(server)


def test_no_descriptors(log):
    with fastbean.Server(config(), log=log) as server:
        client = io_client(server.port)
        server._loop.call_later(0, lambda: server._acceptor._pause(errno.EMFILE))
        server._loop.wake()
        assert client(PUT) == b"INSERTED 1\r\n"
        log.wait_for("not-accepting")
        client(b"", close=True)
        assert_serves(server)


class Slow(Broken):
    """Takes its time over a client that comes, too."""

    def __call__(self, level, event, **fields):
        if event == "accept":
            time.sleep(0.1)
        super().__call__(level, event, **fields)


def test_a_slow_iteration():
    log = Slow()
    with fastbean.Server(config(verbosity=1, slow_iteration_ms=30), log=log) as server:
        assert_serves(server)
        log.wait_for("slow-iteration")
        assert_serves(server)


def test_a_stop_that_does_not_send_everything(log):
    body = b"x" * (8 << 20)
    with fastbean.Server(config(max_job_size=len(body), stop_timeout_s=600), log=log) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
            client.sendall(b"put 0 0 99 %d\r\n%s\r\nreserve\r\n" % (len(body), body))
            assert client.recv(20)
            server.stop(0)
            server.close()
    assert log.events[-1] == "replies-not-sent"


def test_a_slow_disk(log, tmp_path):
    with fastbean.Server(config(tmp_path, slow_sync_ms=1000), log=log) as server:
        server._binlog.journal.slow_sync_ns = server._binlog._segment_worker.slow_ns = 1
        # A segment that was prepared before does not count: put until another one is needed.
        while "slow-segment" not in log.events:
            assert_serves(server)
        log.wait_for("slow-sync")
        log.wait_for("slow-write")
        server._log_slow_sync(running=True, ms=1, files=1, size_bytes=1)
        assert_serves(server)
    assert "sync-goes-on" in log.events


@pytest.mark.parametrize(("error", "event"), [(errno.ENOSPC, "binlog-has-no-room"), (errno.EIO, "binlog-cannot-grow")])
def test_a_disk_without_room(log, tmp_path, monkeypatch, error, event):
    def refuse(*_):
        raise OSError(error, os.strerror(error))

    with fastbean.Server(config(tmp_path), log=log) as server:
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", refuse)
            client = io_client(server.port)
            while client(PUT).startswith(b"INSERTED "):
                pass
            client(b"", close=True)
            log.wait_for(event)
        # It is tried again after a second.
        client = io_client(server.port)
        while not client(PUT).startswith(b"INSERTED "):
            time.sleep(0.05)
        client(b"", close=True)


def test_a_segment_that_is_not_removed(log, tmp_path, monkeypatch):
    monkeypatch.setattr(segment_files, "REMOVE_RETRY_S", 0.01)
    with fastbean.Server(config(tmp_path), log=log) as server:
        with monkeypatch.context() as patch:
            patch.setattr(segment_files, "remove", lambda _path: (tmp_path / "missing").unlink())
            server._binlog._segment_worker.remove(99, 0)
            log.wait_for("segment-not-removed")
        for _ in range(30):
            assert_serves(server)


def test_a_binlog_is_opened(log, tmp_path, monkeypatch):
    monkeypatch.setattr(replay, "PROGRESS_S", -1)
    monkeypatch.setattr(segment_files, "sync_directory", lambda _directory: False)
    write_log(tmp_path / "log")
    texts = []

    def progress(text):
        texts.append(text)
        raise BrokenError

    server = fastbean.Server(config(tmp_path / "log"), log=log)
    server.bind()
    server.open_binlog(progress)
    assert len(texts) > 1
    thread = threading.Thread(target=server.run)
    thread.start()
    assert_serves(server)
    server.stop()
    thread.join()
    assert log.events == ["listening", "directory-not-synced", "binlog-open"]


def test_a_torn_tail(log, tmp_path):
    path = write_log(tmp_path / "log", [saved(1)])[-1]
    end = len(path.read_bytes().rstrip(b"\0"))
    with path.open("r+b") as file:
        file.seek(end)
        file.write(b"\1" * 9)
    with fastbean.Server(config(tmp_path / "log"), log=log) as server:
        assert_serves(server)
    assert "binlog-torn" in log.events


def test_a_takeover(log, tmp_path):
    beanstalkd.write(tmp_path, [saved(1), saved(2)])
    path = tmp_path / "binlog.1"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[4:60])
    with fastbean.Server(config(tmp_path), log=log) as server:
        client = io_client(server.port)
        assert client(b"peek 2\r\n", bodies=1) == b"FOUND 2 4\r\nbody\r\n"
        client(b"", close=True)
    assert log.events[1:-1] == [
        "beanstalkd-record-left-out",
        "beanstalkd-binlog-found",
        "beanstalkd-binlog-taken-over",
    ]


def test_a_takeover_that_was_interrupted(log, tmp_path, monkeypatch):
    beanstalkd.write(tmp_path, [saved(1)])
    with monkeypatch.context() as patch:
        patch.setattr(replacement, "finish", lambda _directory: False)
        takeover.prepare(tmp_path, segment_bytes=SEGMENT_BYTES, log=lambda *_, **__: None, progress=lambda _text: None)
    with fastbean.Server(config(tmp_path), log=log) as server:
        assert_serves(server)
    assert "binlog-replacement-finished" in log.events


def test_every_event_of_a_server_was_raised_at_here():
    """The other events are the daemon's own; its log raises nothing."""
    here = Path(__file__).read_text()
    package = Path(fastbean.__file__).parent
    sources = [package / "server.py", *(package / "net").glob("*.py"), *(package / "binlog").glob("*.py")]
    logged = {
        line.split('", "')[1].split('"')[0]
        for source in sources
        for line in source.read_text().splitlines()
        if 'og("' in line and '", "' in line
    }
    assert len(logged) > 20
    assert {event for event in logged if f'"{event}"' not in here} == set()


def test_an_error_of_the_start_is_raised_all_the_same(log, tmp_path):
    with pytest.raises(BinlogError, match="must exist"):
        fastbean.Server(config(tmp_path / "missing"), log=log).start()


def test_the_first_error_is_reported_to_logging(caplog):
    log = Broken()
    guarded = GuardedLog(log)
    with caplog.at_level(logging.ERROR, logger="fastbean"):
        guarded("INFO", "one", text="x")
        guarded("INFO", "two")
    assert log.events == ["one", "two"]
    assert [record.message for record in caplog.records] == ["the log callable has raised an error"]
    assert caplog.records[0].exc_info[0] is BrokenError


def test_an_error_of_that_report_does_no_harm(monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(logging.Logger, "error", fail)
    GuardedLog(Broken())("INFO", "event")


# --- Ctrl-C, and what else is not to be dropped


@pytest.mark.parametrize("event", ["accept", "command", "reply", "close"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_a_signal_handler_raises_ends_run_and_is_raised_by_it(tmp_path, event, error):
    """The server runs in the main thread; a client in another one makes the log run."""
    events = []

    def log(_level, name, **_fields):
        events.append(name)
        if name == event:
            raise error

    server = fastbean.Server(config(tmp_path, verbosity=2), log=log)
    server.start()

    def use():
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
            client.sendall(PUT + b"quit\r\n")
            while client.recv(100):
                pass

    thread = threading.Thread(target=use)
    thread.start()
    with pytest.raises(error):
        server.run()
    thread.join()
    assert event in events
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=60)
    # The directory is free.
    with fastbean.Server(config(tmp_path)) as again:
        assert_serves(again)


def test_ctrl_c_in_drain_is_raised_by_drain():
    log = Broken(KeyboardInterrupt)
    server = fastbean.Server(config(), log=lambda *words, **_: words[1] == "draining" and log(*words))
    with server:
        with pytest.raises(KeyboardInterrupt):
            server.drain()
        client = io_client(server.port)
        assert client(PUT) == b"DRAINING\r\n"
        client(b"", close=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_in_other_threads_it_is_an_error_as_any_other(error):
    log = Broken(error)
    server = fastbean.Server(config(verbosity=2), log=lambda *words, **_: words[1] != "listening" and log(*words))
    with server:
        assert_serves(server)
        assert_serves(server)
    assert "command" in log.events


def test_many_jobs_are_restored_by_a_server_whose_log_raises(log, tmp_path):
    write_log(tmp_path / "log")
    with fastbean.Server(config(tmp_path / "log"), log=log) as server:
        client = io_client(server.port)
        assert b"FOUND %d" % len(many_jobs()) in client(b"peek %d\r\n" % len(many_jobs()), bodies=1)
        client(b"", close=True)
