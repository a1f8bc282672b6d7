"""HTTP probes: what they answer, in each state of the server, and to clients that are slow, hostile or many."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from fastbean import Config, Server
from fastbean.daemon import http_probes
from fastbean.errors import ListenError, UsageError
from patience import PATIENCE_S

CONFIG = Config(listen=["127.0.0.1"], port=0, http=["127.0.0.1:0"], verbosity=0)


@contextmanager
def serving(config: Config = CONFIG) -> Iterator[Server]:
    with Server(config) as server:
        # A command that is answered shows that the loop runs.
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as client:
            client.sendall(b"list-tube-used\r\n")
            assert client.recv(100)
        yield server


def connect(server: Server) -> socket.socket:
    host, _, port = server.http_addresses[0].rpartition(":")
    return socket.create_connection((host, int(port)), PATIENCE_S)


def all_of(sock: socket.socket) -> bytes:
    found = b""
    while data := sock.recv(65536):
        found += data
    return found


def ask(server: Server, *pieces: bytes) -> tuple[int, dict[str, str], str]:
    """Send a request in these pieces; return the status, the fields of the head, and the content."""
    with connect(server) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            sock.sendall(piece)
        head, _, content = all_of(sock).decode().partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines)
    assert int(fields["Content-Length"]) == len(content)
    assert fields["Connection"] == "close"
    return int(first.split()[1]), fields, content


def get(server: Server, path: str) -> tuple[int, str]:
    status, _, content = ask(server, f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
    return status, content


def test_a_server_that_serves_is_alive_ready_and_the_leader() -> None:
    with serving() as server:
        assert get(server, "/livez") == (200, "serving\n")
        assert get(server, "/readyz?verbose") == (200, "serving\n")
        status, content = get(server, "/leader")
        assert status == 200
        assert json.loads(content) == {"role": "single", "state": "serving"}


def test_a_server_that_starts_is_alive_and_not_ready() -> None:
    server = Server(CONFIG)
    server.start()
    try:
        assert get(server, "/livez") == (200, "starting\n")
        assert get(server, "/readyz") == (503, "starting\n")
        assert get(server, "/leader")[0] == 503
    finally:
        server.close()


def test_a_server_that_stops_is_alive_and_not_ready() -> None:
    """It stops as long as a client may still take the replies that are due."""
    with serving(CONFIG.replace(stop_timeout_s=PATIENCE_S)) as server:
        with socket.socket() as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(("127.0.0.1", server.port))
            reader.sendall(b"put 0 0 60 60000\r\n%b\r\n" % bytes(60000) + b"peek-ready\r\n" * 300)
            while not server._hub.full_sockets():
                pass
            server.stop()
            while get(server, "/readyz") == (200, "serving\n"):
                pass
            assert get(server, "/readyz") == (503, "stopping\n")
            assert get(server, "/livez") == (200, "stopping\n")


def test_a_loop_that_hangs_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_probes, "ANSWER_S", 0.05)
    hangs = threading.Event()
    with serving() as server:
        server._loop.call_soon(lambda: hangs.wait(PATIENCE_S) and None)
        try:
            assert get(server, "/livez") == (503, "the server does not answer\n")
        finally:
            hangs.set()
        monkeypatch.setattr(http_probes, "ANSWER_S", PATIENCE_S)
        assert get(server, "/livez") == (200, "serving\n")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /nowhere HTTP/1.1\r\n\r\n", 404),
        (b"POST /livez HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"HEAD /livez HTTP/1.0\r\n\r\n", 405),
        (b"rubbish\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET /livez HTTP/9.9\r\n\r\n", 505),
        (b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"GET /livez HTTP/1.1\r\nX: " + b"y" * 9000, 431),
        (b"GET /livez HTTP/1.1\n\n", 200),
    ],
)
def test_requests_that_are_no_probe_get_a_status(request_bytes: bytes, status: int) -> None:
    with serving() as server:
        assert ask(server, request_bytes)[0] == status


def test_a_head_may_come_in_pieces() -> None:
    with serving() as server:
        assert ask(server, b"GE", b"T /readyz HT", b"TP/1.1\r\nHost: h\r", b"\n\r", b"\n")[0] == 200


def test_clients_that_say_nothing_delay_nobody_and_are_limited() -> None:
    with serving() as server:
        silent = [connect(server) for _ in range(http_probes.MOST_CONNECTIONS - 1)]
        assert get(server, "/livez")[0] == 200
        silent.append(connect(server))
        with connect(server) as one_more:
            assert all_of(one_more) == b"", "it is closed at once"
        silent.pop().close()
        while get_or_nothing(server) == b"":
            pass
        for each in silent:
            each.close()


def get_or_nothing(server: Server) -> bytes:
    with connect(server) as sock:
        try:
            sock.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
            return all_of(sock)
        except ConnectionError:
            return b""


def test_a_client_that_is_too_slow_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_probes, "REQUEST_S", 0.05)
    with serving() as server, connect(server) as sock:
        sock.sendall(b"GET /livez HTTP/1.1\r\n")
        assert all_of(sock) == b""


def test_a_stop_does_not_wait_for_probes() -> None:
    with serving() as server:
        waiting = connect(server)
        waiting.sendall(b"GET /")
    with suppress(ConnectionResetError):  # it was closed before this was read
        assert all_of(waiting) == b""
    waiting.close()


def test_an_address_that_is_taken_is_an_error_and_leaves_nothing_bound() -> None:
    with serving() as server:
        other = Server(CONFIG.replace(http=[server.http_addresses[0]]))
        with pytest.raises(ListenError, match="another server has this address"):
            other.start()
        assert get(server, "/livez")[0] == 200


@pytest.mark.parametrize("http", ["127.0.0.1", [1]])
def test_addresses_are_a_list_of_strings(http: object) -> None:
    with pytest.raises(UsageError, match="http is"):
        Config(http=http)  # type: ignore[arg-type]


def test_without_http_there_is_no_thread_and_no_import() -> None:
    with Server(CONFIG.replace(http=())) as server:
        assert server.http_addresses == []
        assert "fastbean-http" not in {each.name for each in threading.enumerate()}
