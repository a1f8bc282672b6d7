"""peek and its kin, kick and kick-job."""

from __future__ import annotations

import pytest

from .client import Client
from .servers import Server
from .transcript import play


def test_peek_shows_any_job_of_anybody(server: Server) -> None:
    play(
        server,
        r"""
        A> use t1\r\nput 0 0 60 1\r\na\r\nput 0 100 60 1\r\nb
        A< USING t1
        A< INSERTED 1
        A< INSERTED 2
        A> reserve-job 1
        A< RESERVED 1 1
        A< a
        B> peek 1\r\npeek 2\r\npeek 3\r\npeek 00001\r\npeek   1
        B< FOUND 1 1
        B< a
        B< FOUND 2 1
        B< b
        B< NOT_FOUND
        B< FOUND 1 1
        B< a
        B< FOUND 1 1
        B< a
        """,
    )


def test_peeks_show_the_next_one_of_the_tube_in_use(server: Server) -> None:
    play(
        server,
        r"""
        A> peek-ready\r\npeek-delayed\r\npeek-buried
        A< NOT_FOUND
        A< NOT_FOUND
        A< NOT_FOUND
        A> put 5 0 60 1\r\na\r\nput 1 0 60 1\r\nb\r\nput 0 200 60 1\r\nc\r\nput 9 100 60 1\r\nd
        A< INSERTED 1
        A< INSERTED 2
        A< INSERTED 3
        A< INSERTED 4
        A> peek-ready\r\npeek-delayed
        A< FOUND 2 1
        A< b
        A< FOUND 4 1
        A< d
        A> use t1
        A< USING t1
        A> peek-ready\r\npeek-delayed\r\npeek-buried
        A< NOT_FOUND
        A< NOT_FOUND
        A< NOT_FOUND
        """,
    )


def test_peek_buried_shows_the_one_that_was_buried_first(server: Server) -> None:
    play(
        server,
        r"""
        A> put 1 0 60 1\r\na\r\nput 1 0 60 1\r\nb
        A< INSERTED 1
        A< INSERTED 2
        A> reserve\r\nreserve
        A< RESERVED 1 1
        A< a
        A< RESERVED 2 1
        A< b
        A> bury 2 9\r\nbury 1 0
        A< BURIED
        A< BURIED
        A> peek-buried
        A< FOUND 2 1
        A< b
        A> kick 1\r\npeek-buried
        A< KICKED 1
        A< FOUND 1 1
        A< a
        """,
    )


@pytest.mark.parametrize(
    "line",
    ["peek ", "peek x", "peek 1x", "peek 1 ", "peek -1", "peek +1", "peek 18446744073709551616"]
    + [f"peek-{state}{junk}" for state in ("ready", "delayed", "buried") for junk in (" ", " x", "x", " 1")],
)
def test_badly_formed_peeks(shared: Server, line: str) -> None:
    with Client(shared) as client:
        assert client.ask(line).line == b"BAD_FORMAT"


@pytest.mark.parametrize("line", ["peek", "peekx 1", "peek-", "peek-reserved", "peek-read", "PEEK 1"])
def test_not_peeks_at_all(shared: Server, line: str) -> None:
    with Client(shared) as client:
        assert client.ask(line).line == b"UNKNOWN_COMMAND"


def test_kick_kicks_buried_jobs_only_as_long_as_there_are_any(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 1\r\na\r\nput 0 100 60 1\r\nb\r\nput 0 50 60 1\r\nc
        A< INSERTED 1
        A< INSERTED 2
        A< INSERTED 3
        A> reserve
        A< RESERVED 1 1
        A< a
        A> bury 1 0
        A< BURIED
        A> kick 10
        A< KICKED 1
        # The delayed ones come next, the one that would be ready first before the others.
        A> kick 1
        A< KICKED 1
        A> peek-delayed
        A< FOUND 2 1
        A< b
        A> kick 10\r\nkick 10
        A< KICKED 1
        A< KICKED 0
        """,
    )


def test_kick_works_in_the_tube_in_use(server: Server) -> None:
    play(
        server,
        r"""
        A> use t1\r\nput 0 100 60 1\r\na
        A< USING t1
        A< INSERTED 1
        A> use default\r\nkick 1\r\nuse t1\r\nkick 1
        A< USING default
        A< KICKED 0
        A< USING t1
        A< KICKED 1
        """,
    )


def test_who_waits_is_served_after_each_kicked_job(server: Server) -> None:
    play(
        server,
        r"""
        A> put 900 0 60 1\r\na\r\nput 1 0 60 1\r\nb
        A< INSERTED 1
        A< INSERTED 2
        A> reserve-job 1\r\nreserve-job 2
        A< RESERVED 1 1
        A< a
        A< RESERVED 2 1
        A< b
        A> bury 1 900\r\nbury 2 1
        A< BURIED
        A< BURIED
        B> reserve
        B waits
        # Both are kicked, but the less urgent one was ready first, and somebody waited for it.
        A> kick 2
        A< KICKED 2
        B< RESERVED 1 1
        B< a
        A> peek-ready
        A< FOUND 2 1
        A< b
        """,
    )


@pytest.mark.parametrize(
    ("bound", "kicked"),
    [
        ("2x", 2),
        ("-1", 3),
        ("4294967297", 1),
        ("4294967296", 0),
        ("18446744073709551615", 3),
        ("  2", 2),
        ("+2", 2),
        ("1 2 3", 1),
        ("0", 0),
    ],
)
def test_kick_reads_its_bound_loosely(shared: Server, bound: str, kicked: int) -> None:
    with Client(shared) as client:
        jobs = [client.put(b"x", delay=100) for _ in range(3)]
        assert client.ask(f"kick {bound}").line == b"KICKED %d" % kicked
        assert [client.ask(f"delete {job}").word for job in jobs] == 3 * ["DELETED"]


@pytest.mark.parametrize("line", ["kick ", "kick x", "kick  ", "kick 18446744073709551616", "kick -"])
def test_badly_formed_kicks(shared: Server, line: str) -> None:
    with Client(shared) as client:
        assert client.ask(line).line == b"BAD_FORMAT"


@pytest.mark.parametrize("line", ["kick", "kick-job", "kick-jobs 1", "kicks 1", "KICK 1"])
def test_not_kicks_at_all(shared: Server, line: str) -> None:
    with Client(shared) as client:
        assert client.ask(line).line == b"UNKNOWN_COMMAND"


def test_kick_job_kicks_a_buried_or_delayed_job_of_any_tube(server: Server) -> None:
    play(
        server,
        r"""
        A> use t1\r\nput 0 100 60 1\r\na\r\nput 0 0 60 1\r\nb
        A< USING t1
        A< INSERTED 1
        A< INSERTED 2
        A> reserve-job 2\r\nkick-job 2
        A< RESERVED 2 1
        A< b
        A< NOT_FOUND
        A> bury 2 0
        A< BURIED
        B> kick-job 1\r\nkick-job 2\r\nkick-job 1\r\nkick-job 2\r\nkick-job 3
        B< KICKED
        B< KICKED
        B< NOT_FOUND
        B< NOT_FOUND
        B< NOT_FOUND
        """,
    )


@pytest.mark.parametrize("line", ["kick-job ", "kick-job x", "kick-job 1 ", "kick-job -1", "kick-job 1x"])
def test_badly_formed_kick_jobs(shared: Server, line: str) -> None:
    with Client(shared) as client:
        assert client.ask(line).line == b"BAD_FORMAT"
