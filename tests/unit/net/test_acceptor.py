"""Accepting: also when descriptors run out, and when the poller fails.

The first half looks at the `Acceptor` over a made-up hub, the second at the hub with real sockets.
"""

import errno
import os
import resource
import socket
import subprocess
import sys
import time

import pytest

from builds import compile_library
from fastbean.base import limits
from fastbean.config import Config
from fastbean.engine.state import State
from fastbean.net import poller as poller_module
from fastbean.net.hub import Hub
from fastbean.net.listener import Acceptor, Address, client_descriptors, join_host_port
from fastbean.net.poller import new_selector
from fastbean.net.selector_poller import SelectorPoller
from fastbean.server import Server
from patience import PATIENCE_S

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
    """Keeps which sockets it accepts from; watching one fails where the test says so."""

    def __init__(self):
        self.on_close = self.on_accept_error = self.on_refused = None
        self.connections = 0
        self.watched = set()
        self.faults = []
        self.client_descriptors = None

    def listen(self, fd):
        if self.faults:
            fault = self.faults.pop(0)
            if fault:
                raise fault
        assert fd not in self.watched
        self.watched.add(fd)

    def stop_listening(self, fd):
        self.watched.discard(fd)

    def accept_again(self, client_descriptors):
        self.client_descriptors = client_descriptors


class MadeUpListener:
    """A listening socket with this descriptor."""

    def __init__(self, fd=0):
        self.fd = fd
        self.sock = self
        self.closed = False

    def fileno(self):
        return self.fd

    def close(self):
        self.closed = True


class Scene:
    """An acceptor over made-up parts."""

    def __init__(self, listeners=1, *, reserves=False):
        self.loop = MadeUpLoop()
        self.hub = MadeUpHub()
        self.listeners = [MadeUpListener(fd) for fd in range(listeners)]
        self.lines = []
        self.acceptor = Acceptor(self.loop, self.hub, self.listeners, self.log, reserves=reserves)

    def log(self, level, event, **fields):
        self.lines.append((level, event, fields))

    def fail(self, number=errno.EMFILE):
        """The hub stops accepting."""
        self.hub.client_descriptors = None
        self.hub.on_accept_error(number)

    @property
    def listening(self):
        """Whether the hub watches all listeners, and accepts from them."""
        return len(self.hub.watched) == len(self.listeners) and self.hub.client_descriptors is not None


@pytest.fixture
def scene():
    return Scene()


def test_it_listens_from_the_start(scene):
    assert scene.listening
    assert scene.hub.client_descriptors == sys.maxsize


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EINVAL])
def test_after_an_error_it_stops_listening(scene, number):
    scene.hub.connections = 1
    scene.fail(number)
    assert scene.hub.watched == set()
    ((level, event, fields),) = scene.lines
    assert (level, event) == ("WARNING", "not-accepting")
    assert (fields["reason"], fields["connections"]) == (os.strerror(number), 1)
    assert (fields["advice"] == "wait") == (number == errno.EINVAL)


def test_refused_clients_are_logged_once_a_minute(scene):
    scene.hub.connections = 2
    for _ in range(3):
        scene.hub.on_refused()
    ((level, event, fields),) = scene.lines
    assert (level, event, fields["connections"]) == ("WARNING", "refusing-clients", 2)
    assert scene.listening
    scene.loop.now_ns += limits.ACCEPT_COMPLAINT_NS
    scene.hub.on_refused()
    assert len(scene.lines) == 2


def test_it_listens_again_after_a_second(scene):
    scene.fail()
    assert [due_ns for due_ns, _ in scene.loop.timers] == [limits.ACCEPT_RETRY_NS]
    scene.loop.run_timers()
    assert scene.listening


def test_it_listens_again_when_a_connection_closes(scene):
    assert scene.hub.on_close is None
    scene.fail()
    scene.hub.on_close()
    assert scene.listening
    assert scene.hub.on_close is None
    scene.loop.run_timers()
    assert scene.listening


def test_a_long_shortage_is_one_line_and_one_timer(scene):
    for _ in range(50):
        scene.fail()
        scene.hub.on_close()
    assert len(scene.lines) == 1
    assert len(scene.loop.timers) == 1
    scene.loop.now_ns = limits.ACCEPT_COMPLAINT_NS
    scene.fail()
    assert len(scene.lines) == 2


def test_close_takes_the_listeners_along(scene):
    scene.acceptor.close()
    assert scene.listeners[0].closed
    assert scene.hub.watched == set()
    scene.acceptor.close()


def test_a_pause_that_ends_after_close_brings_nothing_back(scene):
    scene.fail()
    scene.acceptor.close()
    scene.hub.on_close()
    scene.loop.run_timers()
    assert scene.hub.watched == set()


def test_two_listeners_pause_together():
    scene = Scene(2)
    scene.fail()
    assert scene.hub.watched == set()
    scene.hub.on_close()
    assert scene.listening


FAULTS = [OSError(errno.ENOSPC, "no watches left"), OSError(errno.ENOMEM, "no memory"), MemoryError()]


@pytest.mark.parametrize("fault", FAULTS, ids=["ENOSPC", "ENOMEM", "MemoryError"])
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("ends_by", ["a close", "time"])
def test_a_resume_that_fails_is_tried_again(fault, place, ends_by):
    scene = Scene(2)
    scene.fail()
    scene.hub.faults = [None] * place + [fault]
    scene.hub.on_close()
    assert scene.hub.watched == set()
    if ends_by == "a close":
        scene.hub.on_close()
    else:
        scene.loop.run_timers()
    assert scene.listening
    assert scene.hub.on_close is None
    assert [event for _, event, _ in scene.lines] == ["not-accepting"]


@pytest.mark.parametrize("fault", FAULTS, ids=["ENOSPC", "ENOMEM", "MemoryError"])
def test_a_retry_that_fails_is_tried_again_though_no_client_closes(scene, fault):
    scene.fail()
    scene.hub.faults = [fault] * 3
    for _ in range(3):
        scene.loop.run_timers()
        assert not scene.listening
    scene.loop.run_timers()
    assert scene.listening


def test_a_pause_that_cannot_be_ended_later_does_not_begin(scene, monkeypatch):
    def fail(_delay_ns, _callback):
        raise MemoryError

    monkeypatch.setattr(scene.loop, "call_later", fail)
    with pytest.raises(MemoryError):
        scene.fail()
    assert len(scene.hub.watched) == 1
    monkeypatch.undo()
    scene.fail()
    assert scene.hub.watched == set()
    scene.loop.run_timers()
    assert scene.listening


def test_after_a_resume_that_failed_the_close_is_a_clean_one():
    scene = Scene(2)
    scene.fail()
    scene.hub.faults = [None, OSError(errno.ENOSPC, "no watches left")]
    scene.hub.on_close()
    scene.acceptor.close()
    assert all(listener.closed for listener in scene.listeners)
    assert scene.hub.watched == set()


@pytest.mark.parametrize(
    ("limit", "number"), [(1024, 992), (128, 96), (127, 96), (64, 48), (resource.RLIM_INFINITY, sys.maxsize)]
)
def test_how_many_descriptors_clients_may_use_beside_a_binlog(monkeypatch, limit, number):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert client_descriptors(reserves=True) == number
    assert client_descriptors(reserves=False) == sys.maxsize


@pytest.fixture
def descriptors(monkeypatch):
    """What the system says: the limit, and which descriptor comes next."""
    found = {"limit": 64, "next": 48}
    monkeypatch.setattr(resource, "getrlimit", lambda _: (found["limit"], 1024))
    monkeypatch.setattr(os, "dup", lambda _: found["next"])
    monkeypatch.setattr(os, "close", lambda _: None)
    return found


def test_it_accepts_again_when_a_low_descriptor_is_free(descriptors):
    scene = Scene(reserves=True)
    assert scene.hub.client_descriptors == 48
    scene.fail()
    scene.loop.run_timers()
    scene.hub.on_close()
    assert not scene.listening
    descriptors["next"] = 30
    scene.hub.on_close()
    assert scene.listening
    assert len(scene.lines) == 1
    assert scene.lines[0][2]["advice"] == "raise the limit on open files (ulimit -n)"


def test_it_accepts_again_when_the_limit_is_raised(descriptors):
    scene = Scene(reserves=True)
    scene.fail()
    descriptors["limit"] = 1024
    scene.loop.run_timers()
    assert scene.listening
    assert scene.hub.client_descriptors == 992


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
        server._hub.accept_again(0)
        with socket.create_connection(address, timeout=60) as first:
            first.sendall(b"list-tube-used\r\n")
            assert first.recv(100) == b"USING default\r\n"
            FailingPoller.fails = True
        with socket.create_connection(address, timeout=60) as second:
            second.sendall(b"list-tube-used\r\n")
            assert second.recv(100) == b"USING default\r\n"
        assert not FailingPoller.fails


class RealHub:
    """A hub that accepts from a real socket."""

    def __init__(self, poller, listener, **settings):
        self.errors = []
        self.refusals = 0
        self.peers = []
        self.listener = listener
        self.hub = Hub(State(now_ns=time.monotonic_ns(), **settings), poller)
        self.hub.now_ns = time.monotonic_ns()
        self.hub.on_accept_error = self.errors.append
        self.hub.on_refused = self._refuse
        self.hub.shared.verbosity = 1
        self.hub.shared.on_event = lambda event, _fd, text: self.peers.append(text) if event == "accept" else None
        self.hub.listen(listener.fileno())
        self.clients = []

    def _refuse(self):
        self.refusals += 1

    def connect(self):
        client = socket.socket(self.listener.family, socket.SOCK_STREAM)
        self.clients.append(client)
        client.settimeout(PATIENCE_S)
        client.connect(self.listener.getsockname())
        return client

    def serve(self):
        self.hub.serve(self.hub.now_ns, once=True)

    def close(self):
        self.hub.close_all(self.hub.now_ns)
        for client in self.clients:
            client.close()


@pytest.fixture(params=["compiled", "selectors"])
def poller(request):
    made = new_selector(request.param)
    yield made
    made.close()


@pytest.fixture
def real(poller, bind):
    """Makes a hub that accepts from an address."""
    made = []

    def make(address=LOOPBACK, **settings):
        made.append(RealHub(poller, bind(address)[0].sock, **settings))
        return made[-1]

    yield make
    for hub in made:
        hub.close()


@pytest.mark.parametrize("kind", ["127.0.0.1", "::1", "unix"])
def test_a_client_is_served_and_its_address_reported(real, kind, tmp_path):
    hub = real(Address(path=str(tmp_path / "socket")) if kind == "unix" else Address(kind, 0))
    client = hub.connect()
    client.send(b"list-tube-used\r\n")
    hub.serve()
    hub.serve()
    assert client.recv(100) == b"USING default\r\n"
    assert hub.peers == ["unix" if kind == "unix" else join_host_port(*client.getsockname()[:2])]


def test_an_iteration_accepts_a_bounded_number(real):
    hub = real()
    for _ in range(limits.ACCEPTS_PER_ITERATION + 5):
        hub.connect()
    hub.serve()
    assert hub.hub.connections <= limits.ACCEPTS_PER_ITERATION
    while hub.hub.connections < limits.ACCEPTS_PER_ITERATION + 5:
        hub.serve()


def test_no_program_inherits_a_client(real):
    hub = real()
    fd = os.dup(0)
    os.close(fd)
    hub.connect()  # it gets the lowest free descriptor, and the hub the next one
    hub.serve()
    assert hub.hub.connections == 1
    assert not os.get_inheritable(fd + 1)
    assert not os.get_blocking(fd + 1)


def test_a_client_too_many_is_told_and_closed(real):
    hub = real(max_connections=1)
    first, second = hub.connect(), hub.connect()
    second.send(b"list-tube-used\r\n")  # unread, it must not make the close a reset
    while hub.refusals == 0:
        hub.serve()
    assert second.recv(100) == b"OUT_OF_MEMORY\r\n"
    assert second.recv(100) == b""
    assert (hub.hub.connections, hub.errors, hub.peers) == (1, [], [join_host_port(*first.getsockname())])
    first.close()
    while hub.hub.connections:
        hub.serve()
    hub.connect()
    while hub.hub.connections == 0:
        hub.serve()
    assert hub.refusals == 1


def test_out_of_descriptors_it_accepts_nobody_until_it_is_told_to(real):
    hub = real()
    client = hub.connect()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, hard))
    try:
        hub.serve()
        assert hub.errors == [errno.EMFILE]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    hub.serve()
    assert (hub.errors, hub.hub.connections) == ([errno.EMFILE], 0)
    hub.hub.accept_again(sys.maxsize)
    hub.serve()
    assert hub.hub.connections == 1


def test_clients_leave_descriptors_free(real):
    hub = real()
    clients = [hub.connect() for _ in range(3)]
    # The hub's end of the first one has the next descriptor.
    hub.hub.accept_again(clients[-1].fileno() + 3)
    while not hub.errors:
        hub.serve()
    hub.serve()
    assert (hub.errors, hub.hub.connections) == ([errno.EMFILE], 2)


def test_a_report_of_an_error_that_fails_is_made_again(real):
    hub = real()
    calls = []

    def fail_once(number):
        calls.append(number)
        if len(calls) == 1:
            raise MemoryError("a test")

    hub.hub.on_accept_error = fail_once
    hub.connect()
    hub.hub.accept_again(0)
    with pytest.raises(MemoryError, match="a test"):
        hub.serve()
    hub.serve()
    hub.serve()
    assert calls == [errno.EMFILE] * 2


def test_it_accepts_from_a_socket_until_it_is_told_to_stop(real):
    hub = real()
    hub.hub.stop_listening(hub.listener.fileno())
    hub.hub.stop_listening(hub.listener.fileno())
    hub.connect()
    hub.serve()
    assert hub.hub.connections == 0
    hub.hub.listen(hub.listener.fileno())
    hub.serve()
    assert hub.hub.connections == 1


# Which errors of `accept4` concern one client only.
FAILING_ACCEPTS = """
import errno, socket, sys, time
from fastbean.engine.state import State
from fastbean.net.hub import Hub
from fastbean.net.poller import new_selector

listener = socket.create_server(("127.0.0.1", 0))
listener.setblocking(False)
client = socket.create_connection(listener.getsockname())
hub = Hub(State(), new_selector())
errors = []
hub.on_accept_error = errors.append
hub.listen(listener.fileno())
hub.serve(time.monotonic_ns() + 60_000_000_000, True)
hub.serve(0, True)
print(hub.connections, *errors)
"""


@pytest.mark.parametrize(
    ("number", "result"),
    [(number, "1") for number in (errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.ENETUNREACH, errno.EINTR)]
    + [(number, f"0 {number}") for number in (errno.ENFILE, errno.ENOBUFS, errno.EINVAL)],
)
def test_a_client_that_is_gone_already_does_not_stop_the_others(accepts, number, result):
    preload = ":".join(filter(None, [os.environ.get("LD_PRELOAD"), str(accepts)]))
    environment = {**os.environ, "LD_PRELOAD": preload, "ACCEPT_ERROR": str(number)}
    program = [sys.executable, "-c", FAILING_ACCEPTS]
    ran = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert ran.stdout.strip() == result


@pytest.fixture(scope="module")
def accepts(tmp_path_factory):
    source = tmp_path_factory.mktemp("accepts") / "accepts.c"
    source.write_text(ACCEPTS)
    return compile_library(source, source.parent, "-ldl")


ACCEPTS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

/* The first accept of a process fails with the error in the environment. */
int accept4(int listening, struct sockaddr *peer, socklen_t *size, int flags) {
    static int has_failed;
    int (*real)(int, struct sockaddr *, socklen_t *, int) = dlsym(RTLD_NEXT, "accept4");
    if (!has_failed) {
        has_failed = 1;
        errno = atoi(getenv("ACCEPT_ERROR"));
        return -1;
    }
    return real(listening, peer, size, flags);
}
"""
