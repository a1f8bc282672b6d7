"""Addresses, bound sockets, stale socket files, and accepting: also when descriptors run out."""

import errno
import os
import selectors
import socket
import stat

import pytest

from fastbean.base import limits
from fastbean.errors import ListenError
from fastbean.net.listener import (
    Acceptor,
    Address,
    Options,
    adopt_all,
    bind_all,
    join_host_port,
    parse_address,
    parse_port,
)
from patience import PATIENCE_S

LOOPBACK = Address("127.0.0.1", 0)


def connect(listener):
    if listener.sock.family == socket.AF_UNIX:
        client = socket.socket(socket.AF_UNIX)
        client.connect(listener.sock.getsockname())
        return client
    return socket.create_connection(listener.sock.getsockname()[:2], timeout=PATIENCE_S)


@pytest.mark.parametrize(
    ("text", "host", "port", "path"),
    [
        ("127.0.0.1", "127.0.0.1", 11300, ""),
        ("localhost:5", "localhost", 5, ""),
        ("localhost:0", "localhost", 0, ""),
        ("::1", "::1", 11300, ""),
        ("::", "::", 11300, ""),
        ("[::1]", "::1", 11300, ""),
        ("[fe80::1%lo]:7", "fe80::1%lo", 7, ""),
        ("unix:/run/x", "", 0, "/run/x"),
        ("unix:rel:ative", "", 0, "rel:ative"),
    ],
)
def test_an_address_is_read(text, host, port, path):
    address = parse_address(text, 11300)
    assert (address.host, address.port, address.path) == (host, port, path)


@pytest.mark.parametrize(
    "text", ["", ":5", "unix:", "unix:a\0b", "[::1", "[]:5", "[::1]5", "a:", "a:b c", "a:65536", "a\0b", "[::1]:"]
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ListenError) as caught:
        parse_address(text, 11300)
    assert caught.value.exit_status == 111
    assert "\n" not in str(caught.value)


def test_text_of_addresses():
    assert join_host_port("::1", 5) == "[::1]:5"
    assert [str(parse_address(text, 1)) for text in ("h", "[::1]:2", "unix:x")] == ["h:1", "[::1]:2", "unix:x"]
    assert parse_port("00080", "-p") == 80


def test_a_tcp_socket_is_ready_for_clients(bind):
    (listener,) = bind(LOOPBACK, options=Options(None, 11, 12, 13))
    assert listener.name == f"127.0.0.1:{listener.port}"
    assert listener.port > 0
    assert not listener.on_all
    assert not listener.sock.getblocking()
    assert not listener.sock.get_inheritable()
    with connect(listener):
        accepted, _ = listener.sock.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            for name, value in (("TCP_KEEPIDLE", 11), ("TCP_KEEPINTVL", 12), ("TCP_KEEPCNT", 13)):
                assert accepted.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value


def test_every_address_of_a_host_is_bound(monkeypatch, bind):
    tcp = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    found = [
        (socket.AF_INET, *tcp, ("127.0.0.1", 0)),
        (socket.AF_INET, *tcp, ("127.0.0.2", 0)),
        (socket.AF_INET, *tcp, ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert [listener.name.split(":")[0] for listener in bind(Address("both"))] == ["127.0.0.1", "127.0.0.2"]


def test_an_address_that_this_machine_lacks_is_left_out_if_the_host_has_another(monkeypatch, bind):
    tcp = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    found = [(socket.AF_INET, *tcp, ("192.0.2.1", 0)), (socket.AF_INET, *tcp, ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert len(bind(Address("two"))) == 1
    del found[1]
    with pytest.raises(ListenError, match="this machine has no such address"):
        bind(Address("one"))


def test_ipv6_has_brackets_in_its_name(bind):
    (listener,) = bind(Address("::1", 0))
    assert listener.name == f"[::1]:{listener.port}"


def test_all_of_ipv6_takes_ipv4_clients_unless_ipv4_is_listed(bind):
    (dual,) = bind(Address("::", 0))
    assert dual.on_all
    assert not dual.sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    dual.close()
    apart = bind(Address("127.0.0.1", dual.port), Address("::", dual.port))
    assert [listener.port for listener in apart] == [dual.port] * 2
    assert apart[1].sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def test_a_busy_port_is_refused_and_nothing_stays_bound(bind, tmp_path):
    (listener,) = bind(LOOPBACK)
    with pytest.raises(ListenError, match="Address already in use; another server has this address"):
        bind_all([Address(path=str(tmp_path / "s")), LOOPBACK, Address("127.0.0.1", listener.port)], Options())
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_does_not_exist(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ListenError, match="cannot listen on nowhere:1: Name or service not known; give an address"):
        bind_all([Address("nowhere", 1)], Options())


@pytest.mark.parametrize("host", ["x" * 300 + "\u00e9", "a..\u00e9", "..", "::1::2"])
def test_a_host_that_is_no_name(host):
    with pytest.raises(ListenError, match="cannot listen on"):
        bind_all([Address(host, 1)], Options())


def test_a_unix_socket_has_its_mode_and_its_file_goes_with_it(bind, tmp_path):
    path = tmp_path / "socket"
    (listener,) = bind(Address(path=str(path)), options=Options(unix_mode=0o642))
    assert stat.S_IMODE(path.stat().st_mode) == 0o642
    assert (listener.name, listener.port) == (f"unix:{path}", 0)
    connect(listener).close()
    listener.close()
    assert not path.exists()
    listener.close()


def test_a_relative_path_is_unlinked_from_anywhere(bind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (listener,) = bind(Address(path="socket"))
    monkeypatch.chdir("/")
    listener.close()
    assert list(tmp_path.iterdir()) == []


def test_a_stale_socket_file_is_replaced(bind, tmp_path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
    (listener,) = bind(Address(path=str(path)))
    connect(listener).close()


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link", "live", "full", "datagram"])
def test_anything_else_at_the_path_is_an_error_and_stays(bind, tmp_path, kind):
    path = tmp_path / "socket"
    held = []
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    elif "link" in kind:
        path.symlink_to(tmp_path / "target")
        if kind == "link":
            (tmp_path / "target").write_text("precious")
    else:
        held.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM))
        held[0].bind(str(path))
        if kind != "datagram":
            held[0].listen(0)
        for _ in range(2 if kind == "full" else 0):
            held.append(socket.socket(socket.AF_UNIX))
            held[-1].setblocking(False)
            held[-1].connect_ex(str(path))
    before = path.lstat()
    with pytest.raises(ListenError, match="cannot listen on unix:"):
        bind(Address(path=str(path)))
    assert path.lstat().st_ino == before.st_ino
    for sock in held:
        sock.close()


@pytest.mark.parametrize("path", ["no-such-folder/socket", "x" * 200])
def test_a_path_that_cannot_be_bound(bind, tmp_path, path):
    with pytest.raises(ListenError, match="cannot listen on unix:"):
        bind(Address(path=str(tmp_path / path)))


def test_the_file_of_another_server_is_left_alone(bind, tmp_path):
    path = tmp_path / "socket"
    (old,) = bind(Address(path=str(path)))
    path.rename(tmp_path / "moved")
    (new,) = bind(Address(path=str(path)))
    old.close()
    connect(new).close()


def test_sockets_that_are_open_already_are_adopted_and_never_unlinked(tmp_path):
    path = tmp_path / "socket"
    given = [socket.socket(socket.AF_UNIX), socket.socket()]
    given[0].bind(str(path))
    given[1].bind(("127.0.0.1", 0))
    for sock in given:
        sock.listen()
    port = given[1].getsockname()[1]
    adopted = adopt_all([sock.detach() for sock in given], Options())
    assert [listener.name for listener in adopted] == [f"unix:{path}", f"127.0.0.1:{port}"]
    for listener in adopted:
        assert not listener.sock.getblocking()
        assert not listener.sock.get_inheritable()
        listener.close()
    assert path.exists()


@pytest.mark.parametrize("kind", ["closed", "file", "datagram", "not listening"])
def test_what_is_no_listening_socket_is_refused(tmp_path, kind):
    held = None
    if kind == "file":
        held = (tmp_path / "file").open("w")
    elif kind != "closed":
        held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM)
    fd = held.fileno() if held else 10**6
    try:
        with pytest.raises(ListenError, match=rf"descriptor {fd} of LISTEN_FDS: .*ListenStream="):
            adopt_all([fd], Options())
    finally:
        if held:
            held.close()


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


class MadeUpSelector(selectors.SelectSelector):
    """A real selector that is never asked to wait."""

    def select(self, timeout=None):
        raise AssertionError("the acceptor does not wait")


class Scene:
    """An acceptor over made-up parts."""

    def __init__(self):
        self.loop = MadeUpLoop()
        self.hub = MadeUpHub()
        self.listener = MadeUpListener()
        self.selector = MadeUpSelector()
        self.lines = []
        self.acceptor = Acceptor(self.loop, self.selector, self.hub, [self.listener], self.log)

    def log(self, level, event, **fields):
        self.lines.append((level, event, fields))

    def readable(self):
        """What the loop does when the listener is readable; nothing if it is not watched."""
        for key in list(self.selector.get_map().values()):
            key.data(selectors.EVENT_READ)

    @property
    def listening(self):
        return len(self.selector.get_map()) == 1


class MadeUpSocket:
    def __init__(self, fault=None):
        self.blocking = True
        self.closed = False
        self.fault = fault
        self.calls = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

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


def test_two_listeners_pause_together():
    scene = Scene()
    other = MadeUpListener()
    other.fileno = lambda: 1
    scene.selector = MadeUpSelector()
    Acceptor(scene.loop, scene.selector, scene.hub, [scene.listener, other], scene.log)
    scene.listener.lined_up = [OSError(errno.EMFILE, "no more")]
    other.lined_up = [client()]
    scene.readable()
    assert len(scene.selector.get_map()) == 0
    assert scene.listener.tries == 1
    scene.hub.on_close()
    scene.readable()
    assert len(scene.hub.adopted) == 1


def test_a_real_socket_brings_a_real_client(bind):
    (listener,) = bind(LOOPBACK)
    hub = MadeUpHub()
    selector = selectors.DefaultSelector()
    acceptor = Acceptor(MadeUpLoop(), selector, hub, [listener], lambda *_, **__: None)
    with connect(listener) as peer:
        for key, mask in selector.select(10):
            key.data(mask)
        ((sock, name, _),) = hub.adopted
        with sock:
            assert name == join_host_port(*peer.getsockname())
            assert not os.get_blocking(sock.fileno())
    acceptor.close()
    selector.close()
