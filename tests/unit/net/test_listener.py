"""Addresses, bound sockets, and stale socket files."""

import socket
import stat

import pytest

from fastbean.errors import ListenError
from fastbean.net.listener import (
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
