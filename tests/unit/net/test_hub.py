"""The iterations of the hub, over the compiled poller and the standard library's selector, with TCP and with unix
sockets.

All must do the same, though the compiled one reports once only that something has come by TCP.
"""

import contextlib
import os
import random
import selectors
import signal
import socket
import time

import pytest

from fastbean.engine.state import State
from fastbean.net.hub import Hub
from fastbean.net.poller import new_selector
from patience import PATIENCE_S, attempts

MINUTE_NS = 60_000_000_000
MILLISECOND_NS = 1_000_000
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Scene:
    """A hub, its poller, and a descriptor that has a function called, as those of the loop have."""

    def __init__(self, poller, family):
        self.poller = poller
        self.family = family
        self.hub = Hub(State(now_ns=time.monotonic_ns()), poller)
        self.hub.now_ns = time.monotonic_ns()
        self.called = []
        self.bell, self.knob = socket.socketpair()
        self.on_ring(self.ring)
        self.ends = []

    def on_ring(self, function):
        """Has another function called for the descriptor; none: it is not watched."""
        self.poller.remove(self.bell.fileno())
        if function:
            self.poller.add(self.bell.fileno(), READ, function)

    def ring(self, mask):
        self.called.append((mask, self.bell.recv(100)))

    def client(self):
        """A socket whose other end the hub serves."""
        near, far = socket_pair(self.family)
        near.settimeout(PATIENCE_S)
        far.setblocking(False)
        self.hub.adopt(far, "", self.hub.now_ns)
        self.ends.append(near)
        return near

    def converse(self, client, request, reply_bytes):
        """What the client is answered while it sends as much as the socket takes, iteration by iteration."""
        client.setblocking(False)
        replies = b""
        give_up_s = time.monotonic() + PATIENCE_S
        while len(replies) < reply_bytes:
            assert time.monotonic() < give_up_s, f"{replies[-100:]} and no more"
            with contextlib.suppress(BlockingIOError):
                request = request[client.send(request) :] if request else request
            self.serve(MILLISECOND_NS, once=True)
            with contextlib.suppress(BlockingIOError):
                replies += client.recv(1 << 20)
        client.settimeout(PATIENCE_S)
        return replies

    def serve(self, most_ns=MINUTE_NS, *, once=False):
        self.hub.serve(self.hub.now_ns + most_ns, once)

    def close(self):
        for fd in self.hub.close_all(self.hub.now_ns):
            os.close(fd)
        for end in (*self.ends, self.bell, self.knob):
            end.close()


def socket_pair(family):
    """Two connected sockets; of TCP's the first is the client's, as with a listener."""
    if family == socket.AF_UNIX:
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


@pytest.fixture(params=["compiled", "selectors"])
def poller(request):
    made = new_selector(request.param)
    yield made
    made.close()


@pytest.fixture(params=[socket.AF_INET, socket.AF_UNIX], ids=["tcp", "unix"])
def scene(request, poller):
    made = Scene(poller, request.param)
    yield made
    made.close()


def test_an_iteration_serves_everybody_who_is_ready(scene):
    clients = [scene.client() for _ in range(5)]
    for client in clients:
        client.send(b"list-tube-used\r\n")
    scene.serve(once=True)
    assert [client.recv(100) for client in clients] == [b"USING default\r\n"] * 5
    assert scene.called == []


def test_iterations_go_on_until_a_function_was_called(scene):
    client = scene.client()
    client.send(b"watch other\r\n")
    scene.serve(once=True)
    scene.knob.send(b"x")
    scene.serve()
    assert client.recv(100) == b"WATCHING 2\r\n"
    assert scene.called == [(READ, b"x")]


def test_iterations_go_on_until_the_time_has_come(scene):
    client = scene.client()
    client.send(b"watch other\r\n")
    until_ns = scene.hub.now_ns + 20_000_000
    scene.hub.serve(until_ns)
    assert scene.hub.now_ns >= until_ns
    assert client.recv(100) == b"WATCHING 2\r\n"


def test_an_iteration_has_one_time(scene):
    before_ns = time.monotonic_ns()
    scene.serve(0)
    assert before_ns <= scene.hub.now_ns <= time.monotonic_ns()


def test_what_is_left_over_does_not_wait(scene):
    client = scene.client()
    client.send(b"list-tube-used\r\n" * 2000)
    scene.knob.send(b"x")
    received = b""
    while received.count(b"\n") < 2000:
        scene.serve(once=True)
        received += client.recv(1 << 20)
    assert received == b"USING default\r\n" * 2000


def test_more_than_one_receive_takes(scene):
    replies = scene.converse(scene.client(), b"list-tube-used\r\n" * 20_000, 300_000)
    assert replies == b"USING default\r\n" * 20_000


def test_a_body_that_fills_what_is_received_into(scene):
    body_bytes = 65_000
    put = b"put 0 0 60 %d\r\n%s\r\n" % (body_bytes, b"x" * body_bytes)
    assert scene.converse(scene.client(), put + b"list-tube-used\r\n" * 9_000, 135_000) == (
        b"INSERTED 1\r\n" + b"USING default\r\n" * 9_000
    )


def test_what_came_before_a_hang_up_is_answered(scene):
    client = scene.client()
    client.send(b"list-tube-used\r\n")
    client.shutdown(socket.SHUT_WR)
    scene.serve(once=True)
    scene.serve(MILLISECOND_NS, once=True)
    assert client.recv(100) == b"USING default\r\n"
    assert client.recv(100) == b""


def test_a_hang_up_that_comes_later_is_noticed(scene):
    client = scene.client()
    assert scene.converse(client, b"list-tube-used\r\n", 15) == b"USING default\r\n"
    client.shutdown(socket.SHUT_WR)
    scene.serve(once=True)
    assert scene.hub.connections == 0


def test_input_that_was_too_much_while_the_client_waited(scene):
    client, other = scene.client(), scene.client()
    client.setblocking(False)
    request = b"reserve\r\n" + b"list-tube-used\r\n" * 10_000
    for _ in range(20):
        with contextlib.suppress(BlockingIOError):
            request = request[client.send(request) :]
        scene.serve(MILLISECOND_NS, once=True)
    assert scene.converse(other, b"put 0 0 60 1\r\nx\r\n", 12) == b"INSERTED 1\r\n"
    reply = b"RESERVED 1 1\r\nx\r\n" + b"USING default\r\n" * 10_000
    assert scene.converse(client, request, len(reply)) == reply


def test_behind_urgent_data_there_may_be_more(scene):
    client = scene.client()
    client.send(b"list-tube-used\r\nlist-")
    if scene.family == socket.AF_INET:
        client.send(b"!", socket.MSG_OOB)
    client.send(b"tube-used\r\n")
    assert scene.converse(client, b"", 30) == b"USING default\r\n" * 2


def test_urgent_data_at_the_end_keeps_nobody_busy(scene):
    client = scene.client()
    client.send(b"list-tube-used\r\n")
    if scene.family == socket.AF_INET:
        client.send(b"!", socket.MSG_OOB)
    for _ in range(5):
        scene.serve(MILLISECOND_NS, once=True)
    assert client.recv(100) == b"USING default\r\n"
    before_ns = scene.hub.now_ns
    scene.serve(30 * MILLISECOND_NS, once=True)
    assert scene.hub.now_ns - before_ns >= 30 * MILLISECOND_NS


@pytest.mark.parametrize("seed", range(10))
def test_pieces_of_any_size_at_any_time(scene, seed):
    rng = random.Random(seed)
    request = b"put 0 0 60 60000\r\n" + b"x" * 60_000 + b"\r\n" + b"list-tube-used\r\n" * 500
    left = {scene.client(): request for _ in range(3)}
    replies = dict.fromkeys(left, b"")
    for client in left:
        client.setblocking(False)
    give_up_s = time.monotonic() + PATIENCE_S
    while scene.hub.connections:
        assert time.monotonic() < give_up_s, replies
        client = rng.choice(list(left))
        with contextlib.suppress(BlockingIOError):
            sent = client.send(left[client][: rng.choice([1, 30, 1000, 70_000])]) if left[client] else 0
            left[client] = left[client][sent:]
            if sent and not left[client]:
                client.shutdown(socket.SHUT_WR)
        if rng.random() < 0.7:
            scene.serve(0 if any(left.values()) else MILLISECOND_NS, once=True)
        for each in left:
            with contextlib.suppress(BlockingIOError):
                replies[each] += each.recv(1 << 20)
    for client, reply in replies.items():
        client.settimeout(PATIENCE_S)
        while part := client.recv(1 << 20):
            reply += part
        assert reply.startswith(b"INSERTED ")
        assert reply.endswith(b"\r\n" + b"USING default\r\n" * 500)


def test_a_function_that_was_given_up_in_the_same_iteration_is_not_called(poller):
    one, other = socket.socketpair()
    with one, other:
        calls = []

        def end(sock):
            calls.append(sock)
            poller.remove(sock.fileno())

        poller.add(one.fileno(), WRITE, lambda _mask: end(other))
        poller.add(other.fileno(), WRITE, lambda _mask: end(one))
        Hub(State(), poller).serve(0, once=True)
        assert len(calls) == 1


def test_what_a_function_raises_comes_out_and_the_next_iteration_does_not_wait(scene):
    def fail(_mask):
        raise MemoryError("a test")

    client = scene.client()
    scene.on_ring(fail)
    scene.knob.send(b"x")
    client.send(b"list-tube-used\r\n")
    with pytest.raises(MemoryError, match="a test"):
        scene.serve()
    scene.on_ring(None)
    scene.serve(once=True)
    scene.serve(0, once=True)
    assert client.recv(100) == b"USING default\r\n"
    scene.on_ring(scene.ring)
    scene.serve()
    assert scene.called == [(READ, b"x")]


def test_a_close_is_reported_at_the_end_of_its_iteration(scene):
    clients = [scene.client() for _ in range(3)]
    closes = []
    scene.hub.on_close = lambda: closes.append(scene.hub.connections)
    clients[0].send(b"list-tube-used\r\n")
    scene.serve(once=True)
    assert closes == []
    for client in clients[:2]:
        client.close()
    scene.serve(once=True)
    scene.serve(0, once=True)
    assert closes == [1]


def test_iterations_end_when_a_close_was_reported(scene):
    """The function may have set a timer, of which the loop has to hear."""
    clients = [scene.client() for _ in range(2)]
    scene.hub.on_close = lambda: clients[1].send(b"list-tube-used\r\n")
    clients[0].close()
    scene.serve()
    clients[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        clients[1].recv(100)
    scene.serve(once=True)
    assert clients[1].recv(100) == b"USING default\r\n"


def test_a_report_of_a_close_that_fails_is_made_again(scene):
    client = scene.client()
    calls = []

    def fail_once():
        calls.append(1)
        if len(calls) == 1:
            raise MemoryError("a test")

    scene.hub.on_close = fail_once
    client.close()
    with pytest.raises(MemoryError, match="a test"):
        scene.serve(once=True)
    scene.serve(0, once=True)
    scene.serve(0, once=True)
    assert len(calls) == 2


def test_what_a_signal_handler_raises_comes_out(scene):
    def interrupt(*_):
        raise KeyboardInterrupt

    def serve_with_an_alarm():  # which may go off before the wait begins
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        scene.serve()

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            serve_with_an_alarm()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Slow:
    """A function that takes its time when it is called."""

    def __init__(self, scene, takes_s):
        self.told = []
        self.takes_s = takes_s
        scene.hub.slow_iteration_ns = 30_000_000
        scene.hub.on_slow_iteration = lambda **fields: self.told.append(fields)
        scene.on_ring(self.ring)
        self.bell = scene.bell

    def ring(self, mask):
        self.bell.recv(100)
        time.sleep(self.takes_s)


def test_a_slow_iteration_is_told_with_what_it_was_doing(scene):
    client = scene.client()
    for attempt in attempts():  # a pause may make another phase the longest one
        slow = Slow(scene, 0.1)
        client.sendall(b"put 0 9 60 1\r\na\r\nkick 3\r\n")
        scene.knob.send(b"x")
        with attempt:
            scene.serve(once=True)
            (told,) = slow.told
            assert told.pop("ms") >= told.pop("phase_ms") >= 90
            assert told == {"phase": "serve", "sockets": 2, "steps": 3, "last": "kick", "moved": 1}


def test_an_iteration_that_waits_for_long_is_not_slow(scene):
    for attempt in attempts():  # a pause outside the wait makes an iteration slow
        slow = Slow(scene, 0)
        with attempt:
            scene.serve(100_000_000)
            scene.knob.send(b"x")
            scene.serve(once=True)
            assert slow.told == []


def test_without_a_limit_no_iteration_is_slow(scene):
    slow = Slow(scene, 0.1)
    scene.hub.slow_iteration_ns = 0
    scene.knob.send(b"x")
    scene.serve(once=True)
    assert slow.told == []


@pytest.mark.parametrize(
    "sent", [b"reserve\r\nlist-tubes\r\n", b"put 0 0 1 9\r\nab", b"put 0 0 1 9999999\r\nab", b"lis"]
)
def test_at_the_end_a_client_in_the_midst_of_sending_is_not_reset(scene, sent):
    client, idle = scene.client(), scene.client()
    client.sendall(sent)
    scene.serve(once=True)
    (fd,) = scene.hub.close_all(scene.hub.now_ns)
    client.sendall(b"more")
    assert client.recv(1) == b""
    assert os.read(fd, 9) == b"more"
    os.close(fd)
    assert idle.recv(1) == b""


def test_at_the_end_what_was_not_received_yet_counts_as_sending(scene):
    client = scene.client()
    client.sendall(b"list-tubes\r\n")
    fds = scene.hub.close_all(scene.hub.now_ns)
    assert len(fds) == 1
    os.close(fds[0])


def test_while_it_stops_it_sends_what_was_answered_and_runs_nothing_more(scene):
    busy, quiet = scene.client(), scene.client()
    busy.sendall(b"put 0 0 60 60000\r\n" + b"x" * 60_000 + b"\r\n" + b"peek 1\r\n" * 2000 + b"put 0 0 60 1\r\na\r\n")
    while not scene.hub.unsent:
        scene.serve(once=True)
    scene.hub.stop_running(scene.hub.now_ns)
    quiet.send(b"put 0 0 60 1\r\na\r\n")
    ((_, size),) = scene.hub.full_sockets()
    assert size > 0
    busy.setblocking(False)
    received = b""
    while scene.hub.unsent:
        with contextlib.suppress(BlockingIOError):
            received += busy.recv(1 << 20)
        scene.serve(MILLISECOND_NS, once=True)
    assert scene.hub.full_sockets() == []
    assert scene.hub.state.counters()["jobs"] == 1
    half_closed = scene.hub.close_all(scene.hub.now_ns)
    busy.setblocking(True)
    while part := busy.recv(1 << 20):
        received += part
    for fd in half_closed:
        os.close(fd)
    reply = b"FOUND 1 60000\r\n" + b"x" * 60_000 + b"\r\n"
    found = received.count(b"FOUND")
    assert received == b"INSERTED 1\r\n" + reply * found
    assert 0 < found < 2000
