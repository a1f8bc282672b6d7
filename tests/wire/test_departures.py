"""Where fastbean departs from the real beanstalkd on purpose, and what the real one does there.

The count of a kick that fails, and all that a restart with -b keeps, need a log on a disk that fails or a restart;
they are not here. Everything else of the list is.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from pathlib import Path

import pytest

from fastbean import __version__
from patience import PATIENCE_S, attempts

from . import servers
from .client import Client, settle
from .conftest import Starter
from .servers import BEANSTALKD, FASTBEAN, Server
from .transcript import play


def test_a_lone_cr_is_an_ordinary_character(fastbean: Server) -> None:
    play(
        fastbean,
        r"""
        A> x\rlist-tube-used
        A< UNKNOWN_COMMAND
        A> list-tube-used\r
        A< BAD_FORMAT
        A> use a\rb
        A< BAD_FORMAT
        A> delete 1\r
        A< BAD_FORMAT
        A>> \r
        A>> \r\n
        A< UNKNOWN_COMMAND
        A>> list-tube-used
        A>> \r\r
        A>> \r\n
        A< BAD_FORMAT
        A> list-tube-used
        A< USING default
        """,
    )


def test_a_lone_cr_wedges_the_real_one(beanstalkd: Server) -> None:
    play(
        beanstalkd,
        r"""
        A> x\ry
        A> list-tube-used
        A waits
        """,
    )


def test_a_line_of_225_bytes_is_one_line(fastbean: Server) -> None:
    play(
        fastbean,
        r"""
        A> {223*x}
        A< BAD_FORMAT
        A> {447*x}
        A< BAD_FORMAT
        A> list-tube-used
        A< USING default
        """,
    )


def test_the_real_one_takes_the_next_line_for_a_part_of_it(beanstalkd: Server) -> None:
    play(
        beanstalkd,
        r"""
        A> {223*x}
        A waits
        A> list-tube-used
        A< BAD_FORMAT
        A waits
        """,
    )


PAUSED_ALONE = r"""
    A> use a
    A< USING a
    A> pause-tube a 100
    A< PAUSED
    A> use default
    A< USING default
    A> pause-tube a 0
"""


def test_a_paused_tube_does_not_vanish(fastbean: Server) -> None:
    play(fastbean, PAUSED_ALONE + "    A< PAUSED\n    A> pause-tube a 0\n    A< NOT_FOUND\n")


def test_in_the_real_one_it_vanishes_with_its_last_client(beanstalkd: Server) -> None:
    play(beanstalkd, PAUSED_ALONE + "    A< NOT_FOUND\n")


HEADERS = r"Host: 127.0.0.1:11300\r\nOrigin: null\r\nContent-Type: text/plain\r\n"
BODY = r"\r\nput 0 0 60 5\r\nhello"


@pytest.mark.parametrize(
    "request_",
    [
        r"POST / HTTP/1.1\r\n" + HEADERS + BODY,
        r"GET /a?b=c HTTP/1.0\r\n" + HEADERS + BODY,
        r"POST /{2000*a} HTTP/1.1\r\n" + HEADERS + BODY,
        r"watch / HTTP/1.1\r\n" + HEADERS + BODY,
        r"PRI * HTTP/2.0\r\n\r\nSM\r\n" + BODY,
        (r"POST / HTTP/1.1\r\n" + HEADERS).replace(r"\r", "") + BODY,
        HEADERS + BODY,
        HEADERS.replace("Host", "hOST") + BODY,
    ],
    ids=["POST", "GET", "long target", "small letters", "HTTP/2", "LF alone", "Host alone", "Host in any case"],
)
def test_http_is_not_answered_and_nothing_of_it_is_run(fastbean: Server, request_: str) -> None:
    play(
        fastbean,
        rf"""
        A> {request_}
        A is closed
        B> peek-ready
        B< NOT_FOUND
        B> put 0 0 60 0\r\n
        B< INSERTED 1
        """,
    )


def test_http_that_comes_byte_by_byte_is_not_answered_either(fastbean: Server) -> None:
    # The server closes the connection while the client is still sending, so a reset is as good as an end.
    with Client(fastbean) as client, contextlib.suppress(ConnectionError):
        for byte in b"POST / HTTP/1.1\r\nHost: x\r\n\r\nput 0 0 60 5\r\nhello\r\n":
            client.send(bytes([byte]))
        assert client.read_to_the_end() == b""
    with Client(fastbean) as client:
        assert client.put(b"") == 1


def test_the_real_one_runs_the_body_of_a_request(beanstalkd: Server) -> None:
    play(
        beanstalkd,
        r"""
        A> POST / HTTP/1.1
        A< UNKNOWN_COMMAND
        A> Host: 127.0.0.1:11300
        A< UNKNOWN_COMMAND
        A> put 0 0 60 5\r\nhello
        A< INSERTED 1
        """,
    )


def test_who_waits_longest_is_served_first(fastbean: Server) -> None:
    play(
        fastbean,
        r"""
        # One job taken at once moves the real one's cursor, so that it would serve C first.
        A> put 0 0 60 1\r\na
        A< INSERTED 1
        B> reserve\r\ndelete 1
        B< RESERVED 1 1
        B< a
        B< DELETED
        B> reserve
        B waits
        C> reserve
        C waits
        D> reserve
        D waits
        E> reserve
        E waits
        # One that leaves does not upset the order of the others.
        C leaves
        A> put 0 0 60 1\r\nb
        A< INSERTED 2
        B< RESERVED 2 1
        B< b
        B> reserve
        B waits
        A> put 0 0 60 1\r\nc
        A< INSERTED 3
        D< RESERVED 3 1
        D< c
        A> put 0 0 60 1\r\nd
        A< INSERTED 4
        E< RESERVED 4 1
        E< d
        A> put 0 0 60 1\r\ne
        A< INSERTED 5
        B< RESERVED 5 1
        B< e
        """,
    )


def test_the_real_ones_cursor_may_serve_another(beanstalkd: Server) -> None:
    play(
        beanstalkd,
        r"""
        A> put 0 0 60 1\r\na
        A< INSERTED 1
        B> reserve\r\ndelete 1
        B< RESERVED 1 1
        B< a
        B< DELETED
        B> reserve
        B waits
        C> reserve
        C waits
        A> put 0 0 60 1\r\nb
        A< INSERTED 2
        C< RESERVED 2 1
        C< b
        B waits
        """,
    )


def test_many_who_wait_are_served_in_their_order(fastbean: Server) -> None:
    waiting = [Client(fastbean) for _ in range(40)]
    try:
        for client in waiting:
            client.send(b"reserve\r\n")
            settle(fastbean, rounds=1)
        with Client(fastbean) as producer:
            for number, client in enumerate(waiting, 1):
                producer.put(b"x")
                assert client.reply().id == number
    finally:
        for client in waiting:
            client.close()


def test_a_reservation_runs_out_though_its_client_keeps_silent(fastbean: Server) -> None:
    # The real one loses most of these: it looks at the very microsecond of the deadline, finds that it has not passed
    # yet, and does not look again until the client sends something.
    silent = [Client(fastbean) for _ in range(30)]
    try:
        with Client(fastbean) as other:
            for client in silent:
                other.put(b"x", ttr=1)
                client.ask("reserve")
            give_up = time.monotonic() + PATIENCE_S
            while time.monotonic() < give_up:
                body = other.ask("stats").body or b""
                if b"\njob-timeouts: 30\n" in body:
                    break
                time.sleep(0.1)
            assert b"\njob-timeouts: 30\n" in body
            assert b"\ncurrent-jobs-ready: 30\n" in body
    finally:
        for client in silent:
            client.close()


@pytest.mark.parametrize("kind", [FASTBEAN, BEANSTALKD])
def test_after_a_standstill_a_client_is_told_of_the_job_that_it_gets(launch: Starter, kind: str) -> None:
    for attempt in attempts():  # the standstill must begin in time, and the second reservation must not run out
        server = launch(kind)
        with attempt, Client(server) as client, Client(server) as other:
            client.put(b"x", ttr=2)
            client.send(b"reserve\r\nreserve\r\n")
            assert client.reply().id == 1
            settle(server)
            assert client.received_now() == b""
            server.signal(signal.SIGSTOP)
            time.sleep(2.5)
            server.signal(signal.SIGCONT)
            # Its reservation ran out in the meantime, so the job is ready, and this client waits for one.
            expected = b"RESERVED 1 1" if kind == FASTBEAN else b"DEADLINE_SOON"
            assert client.reply().line == expected
            body = other.ask("stats-job 1").body
            assert body is not None
            # The real one has given it the job all the same, and written the other reply over that.
            assert b"state: reserved" in body
            assert b"reserves: 2" in body


def test_the_version_is_that_of_the_protocol_and_fastbeans_own_comes_last(fastbean: Server) -> None:
    with Client(fastbean) as client:
        body = client.ask("stats").body
    assert body is not None
    assert b'\nversion: "1.13"\n' in body
    assert body.splitlines()[-1] == b'fastbean-version: "%s"' % __version__.encode()


def test_sigterm_ends_it_with_0_and_closes_every_client(fastbean: Server) -> None:
    with Client(fastbean) as client, Client(fastbean) as waiting:
        client.put(b"x", delay=1000)
        waiting.send(b"reserve\r\n")
        settle(fastbean)
        fastbean.stop()
        assert fastbean.returncode == 0
        assert client.read_to_the_end() == b""
        waiting.read_to_the_end()


def test_it_listens_on_several_addresses(launch: Starter, tmp_path: Path) -> None:
    server = launch(FASTBEAN, ["-l", f"unix:{tmp_path / 'socket'}"])
    with Client(server) as client, socket.socket(socket.AF_UNIX) as other:
        client.put(b"x")
        other.connect(str(tmp_path / "socket"))
        other.sendall(b"peek 1\r\nquit\r\n")
        assert other.makefile("rb").read() == b"FOUND 1 1\r\nx\r\n"


def test_a_socket_file_that_was_left_behind_is_replaced(launch: Starter, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    server = launch(FASTBEAN, unix=path)
    with Client(server) as client:
        assert client.put(b"x") == 1
    server.stop()
    assert not path.exists()


def test_any_other_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(servers.ServerFailedError, match=r"\S"):
        servers.start(FASTBEAN, unix=path)
    assert path.read_text() == "precious"
