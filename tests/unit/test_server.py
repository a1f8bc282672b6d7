"""The life of a server: what can be called when, in which order things are closed, and what it tells its log."""

import errno
import os
import socket
import time

import pytest

from fastbean import __version__
from fastbean.config import Config
from fastbean.errors import BinlogError, ListenError
from fastbean.server import Server
from patience import PATIENCE_S

LOCAL = Config(listen=["127.0.0.1"], port=0)


class Lines:
    """A log that keeps what it is told."""

    def __init__(self):
        self.told = []

    def __call__(self, level, event, **fields):
        self.told.append((level, event, fields))

    def events(self, level):
        return [event for one, event, _ in self.told if one == level]


def ask(server, request):
    """The first part of the answer to ``request``, from a new connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as client:
        client.sendall(request)
        return client.recv(65536)


def test_a_server_without_settings_has_the_default_ones():
    assert Server().config == Config()


def test_start_binds_and_run_serves():
    server = Server(LOCAL)
    server.start()
    try:
        assert server.port > 0
        assert server.addresses == [f"127.0.0.1:{server.port}"]
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S).close()
    finally:
        server.close()


def test_a_server_starts_once():
    server = Server(LOCAL)
    server.start()
    with pytest.raises(RuntimeError, match="once"):
        server.start()
    server.close()
    with pytest.raises(RuntimeError, match="once"):
        server.start()
    with pytest.raises(RuntimeError, match="closed"):
        server.run()


def test_a_stop_before_the_start_lets_run_return_at_once():
    server = Server(LOCAL)
    server.stop()
    server.run()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)


def test_closing_is_always_allowed():
    Server(LOCAL).close()
    with Server(LOCAL) as server:
        server.close()
        server.stop()
    server.close()


def test_a_log_that_cannot_be_opened_leaves_nothing(tmp_path):
    path = tmp_path / "socket"
    with pytest.raises(BinlogError, match="must exist and be writable"):
        Server(Config(listen=[f"unix:{path}"], binlog_dir=str(tmp_path / "missing"))).start()
    assert not path.exists()


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (errno.ENOSPC, "No space left on device; make room on its disk"),
        (errno.EDQUOT, "make room on its disk"),
        (errno.EIO, "look at the disk, and at the rights"),
    ],
)
def test_a_log_for_which_there_is_no_room_says_what_to_do(tmp_path, monkeypatch, error, advice):
    def refuse(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(BinlogError, match=rf"^-b {tmp_path}: its binlog: .*{advice}"):
        Server(LOCAL.replace(binlog_dir=str(tmp_path))).start()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_slow_syncs_and_slow_segments_have_one_threshold(tmp_path):
    log = Lines()
    config = LOCAL.replace(binlog_dir=str(tmp_path), fsync_ms=0, slow_sync_ms=1)
    with Server(config, log=log) as server:
        assert server._binlog._segment_worker.slow_ns == server._binlog.journal.slow_sync_ns == 1_000_000


def test_jobs_are_there_again_after_a_restart(tmp_path):
    config = LOCAL.replace(binlog_dir=str(tmp_path))
    for expected in (b"INSERTED 1\r\n", b"INSERTED 2\r\n"):
        with Server(config) as server, socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as client:
            client.sendall(b"put 0 0 60 1\r\na\r\n")
            assert client.recv(100) == expected


def test_a_start_that_fails_can_be_told_what_is_wrong_and_leaves_nothing(tmp_path):
    path = tmp_path / "socket"
    with Server(LOCAL) as other:
        busy = Server(Config(listen=[f"unix:{path}", other.addresses[0]]))
        with pytest.raises(ListenError, match="already in use"):
            busy.start()
        busy.close()
    assert not path.exists()


def test_drain_refuses_puts():
    with Server(LOCAL) as server:
        assert ask(server, b"put 0 0 1 1\r\nx\r\n") == b"INSERTED 1\r\n"
        server.drain()
        assert ask(server, b"put 0 0 1 1\r\nx\r\n") == b"DRAINING\r\n"


def test_undrain_takes_puts_again():
    with Server(LOCAL) as server:
        server.drain()
        assert ask(server, b"put 0 0 1 1\r\nx\r\n") == b"DRAINING\r\n"
        server.undrain()
        assert ask(server, b"put 0 0 1 1\r\nx\r\n") == b"INSERTED 2\r\n"


def test_undrain_before_the_start_takes_a_drain_back():
    server = Server(LOCAL)
    server.drain()
    server.undrain()
    with server:
        assert ask(server, b"put 0 0 1 1\r\nx\r\n") == b"INSERTED 1\r\n"


def test_drain_before_the_start_holds_from_the_start():
    server = Server(LOCAL)
    server.drain()
    with server:
        assert ask(server, b"put 0 0 1 1\r\nx\r\n") == b"DRAINING\r\n"


def test_the_log_hears_of_addresses_and_warns_of_open_ones():
    log = Lines()
    with Server(Config(listen=["127.0.0.1", "0.0.0.0:0", "[::]:0"], port=0), log=log) as server:
        names = server.addresses
    listening = [fields["address"] for level, event, fields in log.told if (level, event) == ("INFO", "listening")]
    assert listening == names
    warned = [fields["address"] for level, _, fields in log.told if level == "WARNING"]
    assert warned == names[1:]


@pytest.mark.parametrize(("verbosity", "info", "debug"), [(0, [], []), (1, ["accept", "close"], [])])
def test_verbosity(verbosity, info, debug):
    log = Lines()
    with Server(LOCAL.replace(verbosity=verbosity), log=log) as server:
        ask(server, b"list-tube-used\r\n")
    assert [event for event in log.events("INFO") if event != "listening"] == info
    assert log.events("DEBUG") == debug


def test_the_highest_verbosity_tells_every_command_and_reply():
    log = Lines()
    with Server(LOCAL.replace(verbosity=2), log=log) as server:
        ask(server, b"list-tube-used\r\nbogus\r\n")
    told = [(event, fields["text"]) for level, event, fields in log.told if level == "DEBUG"]
    assert sorted(told) == [
        ("command", "bogus"),
        ("command", "list-tube-used"),
        ("reply", "UNKNOWN_COMMAND"),
        ("reply", "USING default"),
    ]


def test_the_settings_reach_the_engine():
    with Server(LOCAL.replace(max_job_size=3, binlog_size=4097)) as server:
        stats = ask(server, b"stats\r\n").decode()
        assert ask(server, b"put 0 0 1 4\r\nabcd\r\n") == b"JOB_TOO_BIG\r\n"
    assert "\nmax-job-size: 3\n" in stats
    assert "\nbinlog-max-size: 4097\n" in stats
    assert '\nversion: "1.13"\n' in stats
    assert f'\nfastbean-version: "{__version__}"\n' in stats
    assert f'\nhostname: "{socket.gethostname()}"\n' in stats


def test_the_statistics_are_those_of_the_command(tmp_path):
    with pytest.raises(RuntimeError, match="has not started"):
        Server(LOCAL).stats()
    with Server(Config(listen=["127.0.0.1"], port=0, binlog_dir=str(tmp_path))) as server:
        assert ask(server, b"put 0 0 60 1\r\nx\r\n") == b"INSERTED 1\r\n"
        found = server.stats()
        shown = ask(server, b"stats\r\n").decode()
        assert server.stats()["cmd-stats"] == 1
    assert list(found) == [line.split(":")[0] for line in shown.splitlines()[2:-1]]
    assert (found["cmd-stats"], found["current-jobs-ready"], found["fastbean-version"]) == (0, 1, __version__)
    assert server.stats()["current-connections"] == 0


def test_two_servers_have_two_names():
    with Server(LOCAL) as one, Server(LOCAL) as two:
        ids = [next(line for line in ask(each, b"stats\r\n").split(b"\n") if line[:3] == b"id:") for each in (one, two)]
    assert ids[0] != ids[1]
    assert [len(each) for each in ids] == [len("id: 0123456789abcdef")] * 2


def test_open_sockets_can_be_handed_over():
    given = socket.create_server(("127.0.0.1", 0))
    port = given.getsockname()[1]
    with Server(Config(listen=["192.0.2.1"]), inherited_fds=[given.detach()]) as server:
        assert server.port == port
        assert ask(server, b"list-tube-used\r\n") == b"USING default\r\n"


def test_what_a_client_did_not_read_yet_is_sent_before_the_end():
    body = b"x" * (1 << 20)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(PATIENCE_S)
        with Server(LOCAL.replace(max_job_size=len(body), stop_timeout_s=60)) as server:
            client.connect(("127.0.0.1", server.port))
            client.sendall(b"put 0 0 99 %d\r\n%s\r\nreserve\r\n" % (len(body), body))
            wanted = b"INSERTED 1\r\nRESERVED 1 %d\r\n%s\r\n" % (len(body), body)
            got = client.recv(20)
            server.stop()
            while len(got) < len(wanted):
                got += client.recv(65536)
            assert got == wanted
            assert client.recv(1) == b""


def test_a_client_that_does_not_read_holds_a_stop_up_only_so_long():
    log = Lines()
    body = b"x" * (8 << 20)
    with Server(LOCAL.replace(max_job_size=len(body), stop_timeout_s=600), log=log) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as client:
            client.sendall(b"put 0 0 99 %d\r\n%s\r\nreserve\r\n" % (len(body), body))
            assert client.recv(20)
            server.stop()
            server.stop(0)
            server.close()
    assert log.told[-1][:2] == ("WARNING", "replies-not-sent")


def test_a_client_that_speaks_http_is_warned_of():
    log = Lines()
    with Server(LOCAL, log=log) as server:
        for _ in range(3):
            assert ask(server, b"POST / HTTP/1.1\r\nHost: x\r\n\r\nput 0 0 60 1\r\na\r\n") == b""
        assert b"\ntotal-jobs: 0\n" in ask(server, b"stats\r\n")
    ((_, _, fields),) = [line for line in log.told if line[:2] == ("WARNING", "http-refused")]
    assert fields["requests"] == 1


class Sleepy(Lines):
    """A log that takes its time over a client that comes, in the middle of an iteration."""

    def __call__(self, level, event, **fields):
        super().__call__(level, event, **fields)
        if event == "accept":
            time.sleep(0.1)


@pytest.mark.parametrize(("slow_iteration_ms", "warned"), [(30, True), (0, False)])
def test_a_slow_iteration_is_warned_of(slow_iteration_ms, warned):
    log = Sleepy()
    with Server(LOCAL.replace(verbosity=1, slow_iteration_ms=slow_iteration_ms), log=log) as server:
        ask(server, b"list-tube-used\r\n")
    told = [fields for level, event, fields in log.told if (level, event) == ("WARNING", "slow-iteration")]
    # A pause of the machine makes others slow, too.
    assert any(fields["phase"] == "serve" and fields["sockets"] >= 1 for fields in told) == warned


@pytest.mark.parametrize(("running", "event"), [(True, "sync-goes-on"), (False, "slow-sync")])
def test_a_slow_sync_is_warned_of(running, event):
    log = Lines()
    Server(LOCAL, log=log)._log_slow_sync(running, 1500, 2, 4096)
    assert log.told == [("WARNING", event, {"ms": 1500, "files": 2, "bytes": 4096})]
