"""A connection over a transport that changes bytes, holds back received ones and keeps those that it could not send."""

import contextlib
import importlib
import random
import socket
import sys
import time
from pathlib import Path

import pytest

from builds import compile_module
from fastbean.engine.state import State
from fastbean.net.hub import Hub
from fastbean.net.poller import new_selector
from patience import PATIENCE_S

SOURCE = Path(__file__).with_name("transports") / "records.pyx"
MILLISECOND_NS = 1_000_000
MOST_BYTES = 30_000


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    compile_module(SOURCE, folder)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("records")
    sys.path.remove(str(folder))


def record(data):
    return len(data).to_bytes(2, "big") + bytes(byte ^ 0xFF for byte in data)


class Client:
    """The other end: it sends records and reads them."""

    def __init__(self, hub, records):
        self.hub = hub
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.sock = socket.create_connection(listener.getsockname())
            far, _ = listener.accept()
        for sock in (self.sock, far):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 30_000)
        records.adopt(hub, far, hub.now_ns)
        self._to_send = b""
        self._received = b""

    def send(self, data):
        self._to_send += record(data)

    def converse(self, reply_bytes, read_bytes=1 << 20):
        """The bytes of the replies, once there are so many; it reads so many at once in each iteration."""
        replies = b""
        give_up_s = time.monotonic() + PATIENCE_S
        while len(replies) < reply_bytes:
            assert time.monotonic() < give_up_s, f"{replies[-100:]} and no more"
            with contextlib.suppress(BlockingIOError):
                self._to_send = self._to_send[self.sock.send(self._to_send) :] if self._to_send else b""
            self.hub.serve(self.hub.now_ns + MILLISECOND_NS, once=True)
            with contextlib.suppress(BlockingIOError):
                self._received += self.sock.recv(read_bytes)
            replies += self._take_records()
        return replies

    def _take_records(self):
        found = b""
        while len(self._received) > 2 and len(self._received) >= (end := 2 + int.from_bytes(self._received[:2], "big")):
            found += bytes(byte ^ 0xFF for byte in self._received[2:end])
            self._received = self._received[end:]
        return found


@pytest.fixture(params=["compiled", "selectors"])
def hub(request):
    poller = new_selector(request.param)
    made = Hub(State(now_ns=time.monotonic_ns()), poller)
    made.now_ns = time.monotonic_ns()
    yield made
    made.close_all(made.now_ns)
    poller.close()


@pytest.fixture
def client(hub, records):
    made = Client(hub, records)
    yield made
    made.sock.close()
    hub.close_all(hub.now_ns)
    assert records.still_open() == 0


def test_a_command_is_answered(client):
    client.send(b"list-tube-used\r\n")
    assert client.converse(15) == b"USING default\r\n"


def test_what_came_before_the_poller_watched_is_answered(hub, records):
    client = Client(hub, records)
    client.sock.send(record(b"list-tube-used\r\n"))
    assert client.converse(15) == b"USING default\r\n"
    client.sock.close()


def test_a_record_may_hold_more_than_one_receive_takes(client):
    """What the transport holds back is received though no event announces it."""
    body = b"x" * 20_000
    client.send(b"put 0 0 60 20000\r\n" + body[:9_000])
    client.send(body[9_000:] + b"\r\nlist-tube-used\r\n" + b"put 0 0 60 5\r\nhe")
    client.send(b"llo\r\n")
    assert client.converse(39) == b"INSERTED 1\r\nUSING default\r\nINSERTED 2\r\n"


def test_what_comes_behind_a_waiting_reserve_is_kept_and_bounded(hub, records, client):
    request = b"reserve\r\n" + b"list-tube-used\r\n" * 10_000
    for at in range(0, len(request), MOST_BYTES):
        client.send(request[at : at + MOST_BYTES])
    for _ in range(20):
        client.converse(0)
        hub.serve(hub.now_ns + MILLISECOND_NS, once=True)
    other = Client(hub, records)
    other.send(b"put 0 0 60 1\r\na\r\n")
    assert other.converse(12) == b"INSERTED 1\r\n"
    expected = b"RESERVED 1 1\r\na\r\n" + b"USING default\r\n" * 10_000
    assert client.converse(len(expected)) == expected
    other.sock.close()


def test_replies_that_the_socket_does_not_take_at_once(hub, client):
    body = bytes(range(256)) * 200
    client.send(b"put 0 0 60 %d\r\n" % len(body) + body[:10_000])
    client.send(body[10_000:39_000])
    client.send(body[39_000:] + b"\r\n")
    client.converse(12)
    client.sock.send(record(b"peek 1\r\n" * 100))
    reply = b"FOUND 1 %d\r\n%b\r\n" % (len(body), body)
    for _ in range(50):
        hub.serve(hub.now_ns, once=True)  # until the socket takes no more
    assert hub.full_sockets()
    assert client.converse(len(reply) * 100, 50_000) == reply * 100


@pytest.mark.parametrize("seed", range(5))
def test_records_of_any_size(client, seed):
    rng = random.Random(seed)
    request = (b"put 0 0 60 20000\r\n" + b"x" * 20_000 + b"\r\n" + b"list-tube-used\r\n" * 200) * 5
    while request:
        size = rng.choice([1, 20, 1_000, MOST_BYTES])
        client.send(request[:size])
        request = request[size:]
    expected = b"".join(b"INSERTED %d\r\n" % id + b"USING default\r\n" * 200 for id in range(1, 6))
    assert client.converse(len(expected)) == expected


def test_after_the_end_of_file_the_rest_is_answered_and_the_transport_closed(hub, records, client):
    client.send(b"list-tube-used\r\n" * 300)
    client.converse(1)
    client.sock.shutdown(socket.SHUT_WR)
    while hub.connections:
        hub.serve(hub.now_ns + MILLISECOND_NS, once=True)
    assert records.still_open() == 0
