"""put: its replies, its limits, and when it takes its id."""

from __future__ import annotations

import pytest

from .client import Client
from .servers import Server
from .transcript import play


def test_a_job_is_inserted_and_comes_back_as_it_was(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 5
        A> hello
        A< INSERTED 1
        A> peek 1
        A< FOUND 1 5
        A< hello
        """,
    )


def test_an_empty_body_is_a_body(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 0
        A>
        A< INSERTED 1
        A> reserve
        A< RESERVED 1 0
        A<
        """,
    )


def test_a_body_may_hold_any_bytes(server: Server) -> None:
    body = bytes(range(256)) + b"\r\ndelete 1\r\n\0"
    with Client(server) as client:
        client.put(body)
        assert client.ask("peek 1").body == body


def test_ids_count_up_from_one(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 1\r\na\r\nput 0 0 60 1\r\nb
        A< INSERTED 1
        A< INSERTED 2
        A> delete 2
        A< DELETED
        A> put 0 0 60 1\r\nc
        A< INSERTED 3
        """,
    )


def test_the_id_is_taken_when_the_line_is_complete(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 4
        A>> la
        A waits
        B> put 0 0 60 1\r\nb
        B< INSERTED 2
        A> te
        A< INSERTED 1
        # Equals in priority go by id, not by the moment at which they came.
        B> reserve
        B< RESERVED 1 4
        B< late
        """,
    )


def test_a_put_that_lacks_its_crlf_uses_up_its_id(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 3\r\nabcde
        A< EXPECTED_CRLF
        A< UNKNOWN_COMMAND
        A> put 0 0 60 1\r\na
        A< INSERTED 2
        """,
    )


def test_the_tail_of_a_too_long_body_is_the_next_command(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 3\r\nabcxxlist-tube-used
        A< EXPECTED_CRLF
        A< USING default
        A> put 0 0 60 3\r\nabc\nxx
        A< EXPECTED_CRLF
        A< UNKNOWN_COMMAND
        """,
    )


@pytest.mark.parametrize("size", [65534, 65535])
def test_a_body_up_to_the_limit_is_taken(server: Server, size: int) -> None:
    with Client(server) as client:
        client.put(b"x" * size)
        assert client.ask("reserve").body == b"x" * size


@pytest.mark.parametrize("size", [65536, 65537, 1000000])
def test_a_body_above_the_limit_is_swallowed_and_refused(server: Server, size: int) -> None:
    with Client(server) as client:
        assert client.ask(f"put 0 0 60 {size}", b"x" * size).line == b"JOB_TOO_BIG"
        assert client.ask("list-tube-used").line == b"USING default"
        assert client.put(b"next") == 1


def test_a_body_above_the_limit_needs_no_crlf_and_is_awaited_whole(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 65536
        A>> {65536*x}z
        A waits
        A>> z
        A< JOB_TOO_BIG
        A> list-tube-used
        A< USING default
        """,
    )


def test_junk_behind_a_too_large_size_is_not_looked_at(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 65536 junk
        A> {65536*x}
        A< JOB_TOO_BIG
        """,
    )


def test_a_badly_formed_put_does_not_swallow_its_body(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 x 14
        A> list-tube-used
        A< BAD_FORMAT
        A< USING default
        """,
    )


@pytest.mark.parametrize(
    "line",
    [
        "put ",
        "put 0",
        "put 0 0",
        "put 0 0 60",
        "put 0 0 60 ",
        "put x 0 60 1",
        "put 0 x 60 1",
        "put 0 0 x 1",
        "put 0 0 60 x",
        "put -1 0 60 1",
        "put 0 -1 60 1",
        "put 0 0 -1 1",
        "put 0 0 60 -1",
        "put +1 0 60 1",
        "put 4294967296 0 60 1",
        "put 0 4294967296 60 1",
        "put 0 0 4294967296 1",
        "put 0 0 60 4294967296",
        "put 0 0 60 99999999999999999999",
        "put 0 0 60 1 ",
        "put 0 0 60 1x",
        "put 0 0 60 1 1",
        "put 0,0 60 1",
        "put 1.5 0 60 1",
        "put 0x1 0 60 1",
        r"put\x200\t0 60 1".replace(r"\x20", " ").replace(r"\t", "\t"),
    ],
)
def test_badly_formed(shared: Server, line: str) -> None:
    with Client(shared) as client:
        assert client.ask(line).line == b"BAD_FORMAT"
        assert client.ask("list-tube-used").line == b"USING default"


@pytest.mark.parametrize("line", ["put", "PUT 0 0 60 1", "Put 0 0 60 1", "puts 0 0 60 1"])
def test_not_a_put_at_all(shared: Server, line: str) -> None:
    with Client(shared) as client:
        assert client.ask(line).line == b"UNKNOWN_COMMAND"


@pytest.mark.parametrize("line", ["put  0   0    60     1", "put 000 00 0060 001", "put 4294967295 0 60 1"])
def test_oddly_but_well_formed(shared: Server, line: str) -> None:
    with Client(shared) as client:
        client.ask("use odd")
        assert client.ask(line, b"x").word == "INSERTED"


def test_the_largest_delay_and_ttr_are_taken(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 4294967295 4294967295 1\r\nx
        A< INSERTED 1
        A> put 0 0 4294967295 1\r\ny
        A< INSERTED 2
        A> reserve
        A< RESERVED 2 1
        A< y
        A> reserve-with-timeout 0
        A< TIMED_OUT
        A> release 2 0 4294967295
        A< RELEASED
        A> peek-delayed
        A< FOUND 1 1
        A< x
        """,
    )


def test_a_ttr_of_0_is_one_second(server: Server) -> None:
    with Client(server) as client:
        client.put(b"x", ttr=0)
        body = client.ask("stats-job 1").body
        assert body is not None
        assert b"\nttr: 1\n" in body


def test_a_delayed_job_becomes_ready_in_time(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 1 60 1\r\nx\r\nreserve-with-timeout 0\r\nreserve
        A< INSERTED 1
        A< TIMED_OUT
        A waits 1 second
        A< RESERVED 1 1
        A< x
        """,
    )


def test_after_sigusr1_puts_are_refused_once_their_body_is_read(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 1\r\na
        A< INSERTED 1
        SIGUSR1 is sent
        A> put 0 0 60 1
        A waits
        A> b
        A< DRAINING
        A> put 0 0 60 1\r\nbcd
        A< EXPECTED_CRLF
        A< UNKNOWN_COMMAND
        A> put 0 0 60 65536\r\n{65536*x}
        A< JOB_TOO_BIG
        # Everything else goes on.
        A> reserve
        A< RESERVED 1 1
        A< a
        A> release 1 0 0
        A< RELEASED
        """,
    )


def test_drain_mode_stays_on(server: Server) -> None:
    play(
        server,
        r"""
        SIGUSR1 is sent
        SIGUSR1 is sent
        A> put 0 0 60 1\r\nb
        A< DRAINING
        """,
    )
