"""The turns of the hub, over the compiled selector and over one of the standard library: both must do the same."""

import os
import selectors
import signal
import socket
import time

import pytest

from fastbean._engine import Engine
from fastbean._hub import Hub
from fastbean._poller import new_selector

MINUTE_NS = 60_000_000_000
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Scene:
    """A hub, its selector, and a descriptor that has a function called, as those of the loop have."""

    def __init__(self, selector):
        self.selector = selector
        self.hub = Hub(Engine(now_ns=time.monotonic_ns()), selector)
        self.hub.now_ns = time.monotonic_ns()
        self.called = []
        self.bell, self.knob = socket.socketpair()
        selector.register(self.bell, READ, self.ring)
        self.ends = []

    def ring(self, mask):
        self.called.append((mask, self.bell.recv(100)))

    def client(self):
        """A socket whose other end the hub serves."""
        near, far = socket.socketpair()
        near.settimeout(20)
        far.setblocking(False)
        self.hub.adopt(far, "", self.hub.now_ns)
        self.ends.append(near)
        return near

    def serve(self, most_ns=MINUTE_NS, *, once=False):
        self.hub.serve(self.hub.now_ns + most_ns, once)

    def close(self):
        for fd in self.hub.close_all(self.hub.now_ns):
            os.close(fd)
        for end in (*self.ends, self.bell, self.knob):
            end.close()


@pytest.fixture(params=[new_selector, selectors.SelectSelector])
def scene(request):
    with request.param() as selector:
        made = Scene(selector)
        yield made
        made.close()


def test_a_turn_serves_everybody_who_is_ready(scene):
    clients = [scene.client() for _ in range(5)]
    for client in clients:
        client.send(b"list-tube-used\r\n")
    scene.serve(once=True)
    assert [client.recv(100) for client in clients] == [b"USING default\r\n"] * 5
    assert scene.called == []


def test_turns_go_on_until_a_function_was_called(scene):
    client = scene.client()
    client.send(b"watch other\r\n")
    scene.serve(once=True)
    scene.knob.send(b"x")
    scene.serve()
    assert client.recv(100) == b"WATCHING 2\r\n"
    assert scene.called == [(READ, b"x")]


def test_turns_go_on_until_the_time_has_come(scene):
    client = scene.client()
    client.send(b"watch other\r\n")
    until_ns = scene.hub.now_ns + 20_000_000
    scene.hub.serve(until_ns)
    assert scene.hub.now_ns >= until_ns
    assert client.recv(100) == b"WATCHING 2\r\n"


def test_a_turn_has_one_time(scene):
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


def test_a_function_that_was_given_up_in_the_same_turn_is_not_called():
    one, other = socket.socketpair()
    with new_selector() as selector, one, other:
        calls = []

        def end(fileobj):
            calls.append(fileobj)
            selector.unregister(fileobj)

        selector.register(one, WRITE, lambda _mask: end(other))
        selector.register(other, WRITE, lambda _mask: end(one))
        Hub(Engine(), selector).serve(0, once=True)
        assert len(calls) == len(selector.get_map()) == 1


def test_what_a_function_raises_comes_out_and_the_next_turn_does_not_wait(scene):
    def fail(_mask):
        raise MemoryError("a test")

    scene.selector.modify(scene.bell, READ, fail)
    scene.knob.send(b"x")
    with pytest.raises(MemoryError, match="a test"):
        scene.serve()
    scene.selector.unregister(scene.bell)
    scene.serve(once=True)
    scene.selector.register(scene.bell, READ, scene.ring)
    scene.serve()
    assert scene.called == [(READ, b"x")]


def test_what_a_signal_handler_raises_comes_out(scene):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(KeyboardInterrupt):
            scene.serve()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Slow:
    """A function that takes its time when it is called."""

    def __init__(self, scene, takes_s):
        self.told = []
        self.takes_s = takes_s
        scene.hub.slow_turn_ns = 30_000_000
        scene.hub.on_slow_turn = lambda **fields: self.told.append(fields)
        scene.selector.modify(scene.bell, READ, self.ring)
        self.bell = scene.bell

    def ring(self, mask):
        self.bell.recv(100)
        time.sleep(self.takes_s)


def test_a_slow_turn_is_told_with_what_it_was_doing(scene):
    client = scene.client()
    slow = Slow(scene, 0.1)
    client.sendall(b"put 0 9 60 1\r\na\r\nkick 3\r\n")
    scene.knob.send(b"x")
    scene.serve(once=True)
    (told,) = slow.told
    assert told.pop("ms") >= told.pop("phase_ms") >= 90
    assert told == {"phase": "serve", "sockets": 2, "steps": 3, "last": "kick", "moved": 1}


def test_a_turn_that_waits_for_long_is_not_slow(scene):
    slow = Slow(scene, 0)
    scene.serve(100_000_000)
    scene.knob.send(b"x")
    scene.serve(once=True)
    assert slow.told == []


def test_without_a_limit_no_turn_is_slow(scene):
    slow = Slow(scene, 0.1)
    scene.hub.slow_turn_ns = 0
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
