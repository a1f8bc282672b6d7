"""Accepting: also when descriptors run out, and when the poller fails."""

import errno
import os
import resource
import selectors
import socket
import sys

import pytest

from fastbean.base import limits
from fastbean.config import Config
from fastbean.net import poller as poller_module
from fastbean.net.listener import Acceptor, Address, client_descriptors, join_host_port
from fastbean.net.poller import new_selector
from fastbean.net.selector_poller import SelectorPoller
from fastbean.server import Server

LOOPBACK = Address("127.0.0.1", 0)


class MadeUpLoop:
    """A clock that the test sets, and timers that it runs."""

    def __init__(self):
        self.now_ns = 0
        self.timers = []

    def call_later(self, delay_ns, callback):
        self.timers.append((self.now_ns + delay_ns, callback))

    def run_timers(self):
        due, self.timers = self.timers, []
        for at_ns, callback in due:
            self.now_ns = at_ns
            callback()


class MadeUpHub:
    """Keeps the sockets that it adopts."""

    def __init__(self):
        self.on_close = None
        self.adopted = []
        self.fault = None
        self.limit = None

    def is_full(self):
        return self.connections == self.limit

    @property
    def connections(self):
        return len(self.adopted)

    def adopt(self, sock, peer, now_ns):
        if self.fault:
            raise self.fault
        self.adopted.append((sock, peer, now_ns))


class MadeUpListener:
    """A listening socket whose ``accept`` gives what the test has lined up: sockets, or errors."""

    def __init__(self):
        self.lined_up = []
        self.sock = self
        self.tries = 0
        self.closed = False

    def fileno(self):
        return 0

    def accept(self):
        self.tries += 1
        if not self.lined_up:
            raise BlockingIOError
        first = self.lined_up.pop(0)
        if isinstance(first, Exception):
            raise first
        return first

    def close(self):
        self.closed = True


class MadeUpPoller:
    """Never waits; adding, or removing, fails where the test says so."""

    def __init__(self):
        self.watched = {}
        self.faults = []

    def add(self, fd, events, data):
        assert events == selectors.EVENT_READ
        if self.faults:
            fault = self.faults.pop(0)
            if fault:
                raise fault
        assert fd not in self.watched
        self.watched[fd] = data

    def remove(self, fd):
        self.watched.pop(fd, None)


class Scene:
    """An acceptor over made-up parts."""

    def __init__(self):
        self.loop = MadeUpLoop()
        self.hub = MadeUpHub()
        self.listener = MadeUpListener()
        self.poller = MadeUpPoller()
        self.lines = []
        self.acceptor = Acceptor(self.loop, self.poller, self.hub, [self.listener], self.log)

    def log(self, level, event, **fields):
        self.lines.append((level, event, fields))

    def readable(self):
        """What the loop does when the listener is readable; nothing if it is not watched."""
        for function in list(self.poller.watched.values()):
            function(selectors.EVENT_READ)

    @property
    def listening(self):
        return len(self.poller.watched) == 1


class MadeUpSocket:
    def __init__(self, fault=None, fd=9):
        self.fd = fd
        self.blocking = True
        self.closed = False
        self.fault = fault
        self.calls = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def fileno(self):
        return self.fd

    def send(self, data):
        self.calls.append(data)
        if self.fault:
            raise self.fault

    def shutdown(self, how):
        self.calls.append(how)

    def recv(self, size):
        self.calls.append("recv")
        raise BlockingIOError

    def setblocking(self, flag):
        self.blocking = flag

    def close(self):
        self.closed = True


@pytest.fixture
def scene():
    return Scene()


def client(port=5):
    return MadeUpSocket(), ("127.0.0.1", port)


def test_clients_are_adopted_with_peer_and_time(scene):
    scene.loop.now_ns = 77
    scene.listener.lined_up = [client(1), (MadeUpSocket(), ("::1", 2, 0, 0)), (MadeUpSocket(), "")]
    scene.readable()
    assert [(peer, now_ns) for _, peer, now_ns in scene.hub.adopted] == [
        ("127.0.0.1:1", 77),
        ("[::1]:2", 77),
        ("unix", 77),
    ]
    assert not any(sock.blocking for sock, _, _ in scene.hub.adopted)


def test_an_iteration_accepts_a_bounded_number(scene):
    scene.listener.lined_up = [client() for _ in range(1000)]
    scene.readable()
    assert len(scene.hub.adopted) == limits.ACCEPTS_PER_ITERATION
    scene.readable()
    assert len(scene.hub.adopted) == 2 * limits.ACCEPTS_PER_ITERATION


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.ENETUNREACH])
def test_a_client_that_is_gone_already_does_not_stop_the_others(scene, number):
    scene.listener.lined_up = [client(), OSError(number, "gone"), client()]
    scene.readable()
    assert len(scene.hub.adopted) == 2
    assert scene.lines == []


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EINVAL])
def test_out_of_descriptors_it_stops_listening(scene, number):
    scene.listener.lined_up = [client(), OSError(number, "no more"), client()]
    scene.readable()
    assert not scene.listening
    assert scene.listener.tries == 2
    ((level, event, fields),) = scene.lines
    assert (level, event) == ("WARNING", "not-accepting")
    assert (fields["reason"], fields["connections"]) == ("no more", 1)
    scene.readable()
    assert scene.listener.tries == 2


def test_a_client_too_many_is_told_and_closed(scene):
    scene.hub.limit = 2
    sockets = [MadeUpSocket() for _ in range(3)]
    scene.listener.lined_up = [(sock, ("127.0.0.1", 5)) for sock in sockets]
    scene.readable()
    assert [sock.closed for sock in sockets] == [False, False, True]
    assert sockets[2].calls == [b"OUT_OF_MEMORY\r\n", socket.SHUT_WR, "recv"]
    assert not sockets[2].blocking
    assert scene.listening
    ((level, event, fields),) = scene.lines
    assert (level, event, fields["connections"]) == ("WARNING", "refusing-clients", 2)


@pytest.mark.parametrize("fault", [BlockingIOError(), ConnectionResetError(), BrokenPipeError()])
def test_a_client_too_many_that_cannot_be_told_is_closed_all_the_same(scene, fault):
    scene.hub.limit = 0
    sock = MadeUpSocket(fault)
    scene.listener.lined_up = [(sock, ""), client()]
    scene.readable()
    assert sock.closed
    assert scene.listener.lined_up == []


def test_refused_clients_are_taken_in_bounded_numbers_and_logged_once_a_minute(scene):
    scene.hub.limit = 0
    scene.listener.lined_up = [client() for _ in range(1000)]
    scene.readable()
    assert scene.listener.tries == limits.ACCEPTS_PER_ITERATION
    scene.readable()
    assert scene.listener.tries == 2 * limits.ACCEPTS_PER_ITERATION
    assert len(scene.lines) == 1
    scene.loop.now_ns += limits.ACCEPT_COMPLAINT_NS
    scene.readable()
    assert len(scene.lines) == 2


def test_it_listens_again_after_a_second(scene):
    scene.listener.lined_up = [OSError(errno.EMFILE, "no more"), client()]
    scene.readable()
    assert [due_ns for due_ns, _ in scene.loop.timers] == [limits.ACCEPT_RETRY_NS]
    scene.loop.run_timers()
    assert scene.listening
    scene.readable()
    assert len(scene.hub.adopted) == 1


def test_it_listens_again_when_a_connection_closes(scene):
    assert scene.hub.on_close is None
    scene.listener.lined_up = [OSError(errno.EMFILE, "no more")]
    scene.readable()
    scene.hub.on_close()
    assert scene.listening
    assert scene.hub.on_close is None
    scene.loop.run_timers()
    assert scene.listening


def test_a_long_shortage_is_one_line_and_one_timer(scene):
    scene.listener.lined_up = [OSError(errno.EMFILE, "no more") for _ in range(50)]
    for _ in range(50):
        scene.readable()
        scene.hub.on_close()
    assert len(scene.lines) == 1
    assert len(scene.loop.timers) == 1
    scene.loop.now_ns = limits.ACCEPT_COMPLAINT_NS
    scene.listener.lined_up = [OSError(errno.EMFILE, "no more")]
    scene.readable()
    assert len(scene.lines) == 2


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "no watches left"), MemoryError()])
def test_a_client_that_cannot_be_adopted_is_closed(scene, fault):
    sock, peer = client()
    scene.hub.fault = fault
    scene.listener.lined_up = [(sock, peer)]
    scene.readable()
    assert sock.closed
    assert not scene.listening


def test_close_takes_the_listeners_along(scene):
    scene.acceptor.close()
    assert scene.listener.closed
    assert not scene.listening
    scene.acceptor.close()


def test_a_pause_that_ends_after_close_brings_nothing_back(scene):
    scene.listener.lined_up = [OSError(errno.EMFILE, "no more")]
    scene.readable()
    scene.acceptor.close()
    scene.hub.on_close()
    scene.loop.run_timers()
    assert not scene.listening


class TwoListeners(Scene):
    """An acceptor with two listeners."""

    def __init__(self):
        super().__init__()
        self.other = MadeUpListener()
        self.other.fileno = lambda: 1
        self.poller = MadeUpPoller()
        self.acceptor = Acceptor(self.loop, self.poller, self.hub, [self.listener, self.other], self.log)

    @property
    def listening(self):
        return len(self.poller.watched) == 2


def test_two_listeners_pause_together():
    scene = TwoListeners()
    scene.listener.lined_up = [OSError(errno.EMFILE, "no more")]
    scene.other.lined_up = [client()]
    scene.readable()
    assert scene.poller.watched == {}
    assert scene.listener.tries == 1
    scene.hub.on_close()
    scene.readable()
    assert len(scene.hub.adopted) == 1


FAULTS = [OSError(errno.ENOSPC, "no watches left"), OSError(errno.ENOMEM, "no memory"), MemoryError()]


@pytest.mark.parametrize("fault", FAULTS, ids=["ENOSPC", "ENOMEM", "MemoryError"])
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("ends_by", ["a close", "time"])
def test_a_resume_that_fails_is_tried_again(fault, place, ends_by):
    scene = TwoListeners()
    scene.listener.lined_up = [OSError(errno.EMFILE, "no more")]
    scene.readable()
    scene.poller.faults = [None] * place + [fault]
    scene.hub.on_close()
    assert scene.poller.watched == {}
    if ends_by == "a close":
        scene.hub.on_close()
    else:
        scene.loop.run_timers()
    assert scene.listening
    assert scene.hub.on_close is None
    scene.other.lined_up = [client()]
    scene.readable()
    assert len(scene.hub.adopted) == 1
    assert [event for _, event, _ in scene.lines] == ["not-accepting"]


@pytest.mark.parametrize("fault", FAULTS, ids=["ENOSPC", "ENOMEM", "MemoryError"])
def test_a_retry_that_fails_is_tried_again_though_no_client_closes(scene, fault):
    scene.listener.lined_up = [OSError(errno.EMFILE, "no more")]
    scene.readable()
    scene.poller.faults = [fault] * 3
    for _ in range(3):
        scene.loop.run_timers()
        assert not scene.listening
    scene.loop.run_timers()
    assert scene.listening


def test_a_pause_that_cannot_be_ended_later_does_not_begin(scene, monkeypatch):
    def fail(_delay_ns, _callback):
        raise MemoryError

    monkeypatch.setattr(scene.loop, "call_later", fail)
    scene.listener.lined_up = [OSError(errno.EMFILE, "no more")]
    with pytest.raises(MemoryError):
        scene.readable()
    assert scene.listening
    monkeypatch.undo()
    scene.listener.lined_up = [client()]
    scene.readable()
    assert len(scene.hub.adopted) == 1


def test_after_a_resume_that_failed_the_close_is_a_clean_one():
    scene = TwoListeners()
    scene.listener.lined_up = [OSError(errno.EMFILE, "no more")]
    scene.readable()
    scene.poller.faults = [None, OSError(errno.ENOSPC, "no watches left")]
    scene.hub.on_close()
    scene.acceptor.close()
    assert scene.listener.closed
    assert scene.other.closed
    assert scene.poller.watched == {}


@pytest.mark.parametrize(
    ("limit", "number"), [(1024, 992), (128, 96), (127, 96), (64, 48), (resource.RLIM_INFINITY, sys.maxsize)]
)
def test_how_many_descriptors_clients_may_use_beside_a_binlog(monkeypatch, limit, number):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert client_descriptors(reserves=True) == number
    assert client_descriptors(reserves=False) == sys.maxsize


class Reserving(Scene):
    """An acceptor that leaves descriptors free, and the descriptor that the system hands out next."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.limit = 64
        self.next_fd = 47
        self.poller = MadeUpPoller()
        monkeypatch.setattr(resource, "getrlimit", lambda _: (self.limit, 1024))
        monkeypatch.setattr(os, "dup", lambda _: self.next_fd)
        monkeypatch.setattr(os, "close", lambda _: None)
        self.acceptor = Acceptor(self.loop, self.poller, self.hub, [self.listener], self.log, reserves=True)
        self.listener.lined_up = [(MadeUpSocket(fd=fd), "") for fd in range(45, 60)]


@pytest.fixture
def reserving(monkeypatch):
    return Reserving(monkeypatch)


def test_clients_leave_descriptors_free(reserving):
    reserving.readable()
    assert len(reserving.hub.adopted) == 3
    assert not reserving.listening
    ((level, event, fields),) = reserving.lines
    assert (level, event, fields["connections"]) == ("WARNING", "not-accepting", 3)
    assert (fields["reason"], fields["advice"]) == (
        "Too many open files",
        "raise the limit on open files (ulimit -n)",
    )


def test_it_accepts_again_when_a_low_descriptor_is_free(reserving):
    reserving.readable()
    reserving.next_fd = 48
    reserving.loop.run_timers()
    reserving.hub.on_close()
    assert not reserving.listening
    reserving.next_fd = 30
    reserving.hub.on_close()
    assert reserving.listening
    assert len(reserving.lines) == 1


def test_it_accepts_again_when_the_limit_is_raised(reserving):
    reserving.readable()
    reserving.next_fd = 48
    reserving.limit = 1024
    reserving.loop.run_timers()
    assert reserving.listening
    reserving.readable()
    assert len(reserving.hub.adopted) == 15


class FailingPoller(SelectorPoller):
    """Cannot watch anything the next time that it is asked."""

    fails = False

    def add(self, fd, events, data):
        if FailingPoller.fails:
            FailingPoller.fails = False
            raise OSError(errno.ENOSPC, "no watches left")
        super().add(fd, events, data)


def test_a_server_accepts_again_after_the_kernel_could_not_watch_its_listener(monkeypatch):
    monkeypatch.setattr(poller_module, "new_selector", lambda *_: FailingPoller())
    with Server(Config(listen=["127.0.0.1"], port=0)) as server:
        address = ("127.0.0.1", server.port)
        # The next client is one after which there is no descriptor left; the limit is looked up again afterwards.
        server._acceptor._client_descriptors = 0
        with socket.create_connection(address, timeout=60) as first:
            first.sendall(b"list-tube-used\r\n")
            assert first.recv(100) == b"USING default\r\n"
            FailingPoller.fails = True
        with socket.create_connection(address, timeout=60) as second:
            second.sendall(b"list-tube-used\r\n")
            assert second.recv(100) == b"USING default\r\n"
        assert not FailingPoller.fails


@pytest.mark.parametrize("kind", ["compiled", "selectors"])
def test_a_real_socket_brings_a_real_client(bind, kind):
    (listener,) = bind(LOOPBACK)
    hub = MadeUpHub()
    poller = new_selector(kind)
    acceptor = Acceptor(MadeUpLoop(), poller, hub, [listener], lambda *_, **__: None)
    with socket.create_connection(listener.sock.getsockname()[:2], timeout=10) as peer:
        for fd, mask in poller.wait(10_000_000_000):
            poller.data_of(fd)(mask)
        ((sock, name, _),) = hub.adopted
        with sock:
            assert name == join_host_port(*peer.getsockname())
            assert not os.get_blocking(sock.fileno())
    acceptor.close()
    poller.close()
