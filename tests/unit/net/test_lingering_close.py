"""Clients that are still sending when the server ends lose no reply, and hold it up only so long."""

import os
import socket
import threading
import time

import pytest

from fastbean.base import clock, limits
from fastbean.config import Config
from fastbean.net.lingering_close import linger
from fastbean.server import Server
from patience import PATIENCE_S

MINUTE_NS = 60_000_000_000
REPLIES = 2000


@pytest.fixture
def ends():
    """A client's socket, and the descriptor of the other end."""
    near, far = socket.socketpair()
    far.setblocking(False)
    near.settimeout(PATIENCE_S)
    with near:
        yield near, far.detach()


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_nobody_is_waited_for_when_nobody_sends():
    linger([], lambda: pytest.fail("asked for the time"))


def test_it_reads_to_the_end_however_much_comes(ends):
    near, fd = ends
    sender = threading.Thread(target=lambda: (near.sendall(bytes(5_000_000)), near.close()))
    sender.start()
    linger([fd], lambda: MINUTE_NS)
    sender.join()
    assert not is_open(fd)


def test_a_client_that_is_gone_is_no_error(ends):
    near, fd = ends
    near.close()
    linger([fd], lambda: MINUTE_NS)
    assert not is_open(fd)


def test_without_time_it_closes_at_once(ends):
    _, fd = ends
    linger([fd], lambda: 0)
    assert not is_open(fd)


def test_the_time_may_end_meanwhile(ends):
    _, fd = ends
    left = iter([MINUTE_NS, MINUTE_NS])
    linger([fd], lambda: next(left, 0))
    assert not is_open(fd)


def test_a_client_that_never_closes_is_given_up(ends, monkeypatch):
    _, fd = ends
    monkeypatch.setattr(limits, "LINGER_NS", 1)
    linger([fd], lambda: MINUTE_NS)
    assert not is_open(fd)


def wait_until(condition):
    give_up_ns = clock.monotonic_ns() + MINUTE_NS
    while not condition():
        assert clock.monotonic_ns() < give_up_ns
        time.sleep(0.002)


def test_a_stop_in_the_midst_of_a_pipeline_loses_no_reply(monkeypatch):
    """Most replies are still on their way when the server ends, and what the client sends on would have it reset."""
    monkeypatch.setattr(limits, "LINGER_NS", MINUTE_NS)
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
