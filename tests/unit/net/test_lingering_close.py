"""The end of a server: what it waits for, and that clients that are still sending lose no reply."""

import contextlib
import os
import socket
import sys
import threading
import time

import pytest

from fastbean import server as server_module
from fastbean.base import clock, limits
from fastbean.config import Config
from fastbean.net import lingering_close
from fastbean.net.lingering_close import Delivery, linger, unacknowledged_bytes, undelivered_bytes
from fastbean.server import Server
from patience import PATIENCE_S

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
DAY_S = 86400
JOIN_S = 60
REPLIES = 2000


@pytest.fixture
def ends():
    """A client's socket, and the descriptor of the other end."""
    near, far = socket.socketpair()
    far.setblocking(False)
    near.settimeout(PATIENCE_S)
    with near:
        yield near, far.detach()


@pytest.fixture
def long_linger(monkeypatch):
    """Nothing ends because the machine is slow."""
    monkeypatch.setattr(limits, "LINGER_NS", DAY_S * SECOND_NS)


class MadeUpClock:
    """A clock that goes on by a tenth of a second whenever it is asked how much time is left, which is once a look.

    ``act`` is called with the number of the look.
    """

    def __init__(self, monkeypatch):
        self.looks = 0
        self.act = lambda look: None
        self.now_ns = 7 * SECOND_NS
        monkeypatch.setattr(clock, "monotonic_ns", lambda: self.now_ns)
        monkeypatch.setattr(lingering_close, "LOOK_EVERY_NS", 0)

    def left_ns(self):
        self.looks += 1
        self.now_ns += SECOND_NS // 10
        self.act(self.looks)
        return MINUTE_NS


@pytest.fixture
def made_up(monkeypatch):
    return MadeUpClock(monkeypatch)


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_nobody_is_waited_for_when_nobody_sends():
    linger([], lambda: pytest.fail("asked for the time"), MINUTE_NS)


def test_it_reads_to_the_end_however_much_comes(ends, long_linger, monkeypatch):
    monkeypatch.setattr(lingering_close, "LOOK_EVERY_NS", MINUTE_NS)
    near, fd = ends
    near.sendall(b"the first")
    sender = threading.Thread(target=lambda: (near.sendall(bytes(5_000_000)), near.close()))
    sender.start()
    linger([fd], lambda: MINUTE_NS, MINUTE_NS)
    sender.join()
    assert not is_open(fd)


def test_a_client_that_is_gone_is_no_error(ends):
    near, fd = ends
    near.close()
    linger([fd], lambda: MINUTE_NS, MINUTE_NS)
    assert not is_open(fd)


def test_without_time_it_closes_at_once(ends):
    _, fd = ends
    os.write(fd, b"a reply")
    linger([fd], lambda: 0, MINUTE_NS)
    assert not is_open(fd)


def test_the_time_may_end_meanwhile(ends, long_linger):
    _, fd = ends
    os.write(fd, b"a reply")
    left = iter([MINUTE_NS, MINUTE_NS])
    linger([fd], lambda: next(left, 0), MINUTE_NS)
    assert not is_open(fd)


def test_a_client_that_never_reads_is_given_up(ends, monkeypatch):
    _, fd = ends
    os.write(fd, b"a reply")
    monkeypatch.setattr(limits, "LINGER_NS", 1)
    linger([fd], lambda: MINUTE_NS, MINUTE_NS)
    assert not is_open(fd)


def test_a_silent_client_to_which_nothing_is_on_its_way_is_not_waited_for(ends, made_up, long_linger):
    _, fd = ends
    linger([fd], made_up.left_ns, MINUTE_NS)
    assert made_up.looks == 1
    assert not is_open(fd)


def test_a_client_is_waited_for_while_it_sends(ends, made_up, long_linger, monkeypatch):
    monkeypatch.setattr(lingering_close, "LOOK_EVERY_NS", SECOND_NS // 100)
    near, fd = ends
    near.send(b"x")
    made_up.act = lambda look: near.send(b"x") if look < 30 else None
    linger([fd], made_up.left_ns, 0)
    assert made_up.looks == 30
    assert not is_open(fd)


def test_it_waits_until_the_replies_are_read(ends, made_up, long_linger):
    near, fd = ends
    os.write(fd, b"a reply")
    got = []
    made_up.act = lambda look: got.append(near.recv(100)) if look == 5 else None
    linger([fd], made_up.left_ns, MINUTE_NS)
    assert got == [b"a reply"]
    assert made_up.looks == 5
    assert not is_open(fd)


def test_a_slow_reader_is_waited_for_and_one_that_does_not_read_is_not(made_up, long_linger):
    slow, to_slow = socket.socketpair()
    lazy, to_lazy = socket.socketpair()
    closed = []
    for _ in range(20):
        to_slow.send(bytes(1000))
        to_lazy.send(bytes(1000))
    for far in (to_slow, to_lazy):
        far.setblocking(False)
    fds = [to_slow.detach(), to_lazy.detach()]

    def read_a_little(look):
        closed.append([not is_open(fd) for fd in fds])
        if look % 8 == 0:
            assert len(slow.recv(1000)) == 1000

    made_up.act = read_a_little
    linger(fds, made_up.left_ns, SECOND_NS)
    assert made_up.looks == 8 * 20
    # One look is a tenth of a second.
    assert closed[9] == [False, False]
    assert closed[11] == [False, True]
    assert closed[-1] == [False, True]
    for sock in (slow, lazy):
        sock.close()


@pytest.mark.parametrize("platform", ["linux", "freebsd14"])
def test_where_nobody_knows_what_was_delivered_a_sender_is_waited_for_a_little(
    ends, made_up, long_linger, monkeypatch, platform
):
    monkeypatch.setattr(sys, "platform", platform)
    linger([ends[1]], made_up.left_ns, SECOND_NS)
    assert made_up.looks == (1 if platform == "linux" else 10)


def test_what_was_not_delivered_is_known(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as near:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        near.connect(listener.getsockname())
        far, _ = listener.accept()
        with far:
            assert undelivered_bytes([(far.fileno(), 5)]) == 5
            far.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    far.send(bytes(1 << 16))
            assert undelivered_bytes([(far.fileno(), 5), (far.fileno(), 6)]) > 11
            near.setblocking(False)
            wait_until(lambda: take(near) or unacknowledged_bytes(far.fileno()) == 0)
            monkeypatch.setattr(sys, "platform", "freebsd14")
            assert undelivered_bytes([(far.fileno(), 5)]) is None
    assert undelivered_bytes([]) == 0


def take(sock):
    """Reads what has come."""
    with contextlib.suppress(BlockingIOError):
        sock.recv(1 << 20)


def test_a_descriptor_that_is_no_socket_says_nothing(tmp_path):
    with (tmp_path / "file").open("w") as file:
        assert unacknowledged_bytes(file.fileno()) is None


def test_replies_arrive_as_long_as_less_of_them_is_left():
    delivery = Delivery(patience_ns=100, now_ns=1000)
    assert delivery.goes_on(50, 1000)
    assert delivery.goes_on(50, 1099)
    assert delivery.goes_on(49, 1099)
    assert delivery.goes_on(49, 1198)
    assert not delivery.goes_on(49, 1199)
    assert not delivery.goes_on(60, 1199)
    assert delivery.goes_on(59, 1200)


def test_without_patience_nothing_is_waited_for():
    assert not Delivery(patience_ns=0, now_ns=5).goes_on(1, 5)


def wait_until(condition):
    give_up_ns = clock.monotonic_ns() + MINUTE_NS
    while not condition():
        assert clock.monotonic_ns() < give_up_ns
        time.sleep(0.002)


class Stopping:
    """A server that is stopped; nothing of its stop ends only because time has passed."""

    def __init__(self):
        self.events = []
        config = Config(listen=["127.0.0.1"], port=0, max_job_size=8 << 20, stop_timeout_s=DAY_S)
        self.server = Server(config, log=lambda _level, event, **_fields: self.events.append(event))

    def client(self, sent):
        """A client that has sent this, and all of it is received."""
        client = socket.create_connection(("127.0.0.1", self.server.port), timeout=JOIN_S)
        client.sendall(sent)
        wait_until(lambda: unacknowledged_bytes(client.fileno()) == 0)
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=JOIN_S) as other:
            for _ in range(3):
                other.sendall(b"list-tube-used\r\n")
                assert other.recv(100) == b"USING default\r\n"
        return client

    def stop(self):
        self.server.stop()
        self.server._thread.join(JOIN_S)
        assert not self.server._thread.is_alive(), "the stop waits for a client that it owes nothing"


@pytest.fixture
def stopping(long_linger):
    made = Stopping()
    made.server.serve_in_thread()
    yield made
    made.server.stop(0)
    made.server.close()


@pytest.mark.parametrize("sent", [b"lis", b"put 0 0 9 100\r\nhalf", b"put 0 0 9 9999999\r\nhalf", b"reserve\r\nlis"])
def test_half_a_command_does_not_delay_a_stop(stopping, sent):
    with stopping.client(sent) as client:
        stopping.stop()
        assert client.recv(1) == b""
    assert "replies-not-sent" not in stopping.events


def test_a_client_that_does_not_read_does_not_delay_a_stop(stopping, monkeypatch):
    monkeypatch.setattr(server_module, "PATIENCE", 1e-9)
    body = b"x" * (8 << 20)
    with stopping.client(b"put 0 0 99 %d\r\n%s\r\npeek 1\r\nlis" % (len(body), body)):
        stopping.stop()
    assert stopping.events[-1] == "replies-not-sent"


class SlowBinlogHub:
    """Has a reply that waits for the binlog, for three iterations; beside it a client that does not read."""

    unsent = 2

    def __init__(self):
        self.iterations = 0
        self.now_ns = 0

    def stop_running(self, now_ns):
        pass

    def full_sockets(self):
        return [(0, 100)]

    def iterate(self, max_wait_ns):
        self.iterations += 1
        if self.iterations == 3:
            self.unsent = 1


def test_a_reply_that_waits_for_the_binlog_is_waited_for(monkeypatch):
    monkeypatch.setattr(server_module, "PATIENCE", 0)
    monkeypatch.setattr(server_module, "undelivered_bytes", lambda sockets: 100)
    lines = []
    server = Server(Config(stop_timeout_s=DAY_S), log=lambda *line, **fields: lines.append((*line, fields)))
    server._hub = server._loop = SlowBinlogHub()
    server._end_began_ns = 0
    server._send_the_rest()
    assert server._hub.iterations == 3
    assert lines == [("WARNING", "replies-not-sent", {"connections": 1})]


def test_a_client_that_asks_on_and_on_does_not_delay_a_stop(stopping, monkeypatch):
    """It reads what it is sent, so a server that went on to run commands would always have something to send."""
    monkeypatch.setattr(limits, "LINGER_NS", 1)
    body = b"x" * 60_000
    with stopping.client(b"put 0 0 99 60000\r\n%s\r\n" % body) as client:
        stop_asking = threading.Event()

        def ask():
            with contextlib.suppress(OSError):
                while not stop_asking.is_set():
                    client.sendall(b"peek 1\r\n" * 100)

        def read():
            with contextlib.suppress(OSError):
                while client.recv(1 << 16):
                    pass

        threads = [threading.Thread(target=ask), threading.Thread(target=read)]
        for thread in threads:
            thread.start()
        try:
            stopping.stop()
        finally:
            stop_asking.set()
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


def test_a_stop_in_the_midst_of_a_pipeline_loses_no_reply(long_linger):
    """Most replies are still on their way when the server ends, and what the client sends on would have it reset."""
    config = Config(listen=["127.0.0.1"], port=0, stop_timeout_s=60)
    with Server(config) as server, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(60)
        client.connect(("127.0.0.1", server.port))
        client.sendall(b"list-tube-used\r\n" * REPLIES + b"put 0 0 9 200000\r\nhalf")
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as other:
            wait_until(lambda: other.sendall(b"stats\r\n") or b"used: %d\n" % REPLIES in other.recv(65536))
        server.stop()
        wait_until(lambda: server._hub.connections == 0)
        client.sendall(bytes(150_000))
        got = b""
        while data := client.recv(65536):
            got += data
    assert got == b"USING default\r\n" * REPLIES
