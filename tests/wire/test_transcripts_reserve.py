"""reserve, reserve-with-timeout, reserve-job: who gets what, and when."""

from __future__ import annotations

import pytest

from patience import attempts

from .client import Client
from .conftest import Starter
from .servers import KINDS, Server
from .transcript import play


def test_the_most_urgent_job_comes_first_and_equals_by_id(server: Server) -> None:
    play(
        server,
        r"""
        A> put 5 0 60 1\r\na\r\nput 1 0 60 1\r\nb\r\nput 5 0 60 1\r\nc
        A> put 4294967295 0 60 1\r\nd\r\nput 0 0 60 1\r\ne
        A< INSERTED 1
        A< INSERTED 2
        A< INSERTED 3
        A< INSERTED 4
        A< INSERTED 5
        A> reserve\r\nreserve\r\nreserve\r\nreserve\r\nreserve
        A< RESERVED 5 1
        A< e
        A< RESERVED 2 1
        A< b
        A< RESERVED 1 1
        A< a
        A< RESERVED 3 1
        A< c
        A< RESERVED 4 1
        A< d
        """,
    )


def test_the_most_urgent_job_of_all_watched_tubes_comes_first(server: Server) -> None:
    play(
        server,
        r"""
        A> use t1\r\nput 7 0 60 1\r\na
        A< USING t1
        A< INSERTED 1
        A> use t2\r\nput 6 0 60 1\r\nb
        A< USING t2
        A< INSERTED 2
        A> use t3\r\nput 0 0 60 1\r\nc
        A< USING t3
        A< INSERTED 3
        B> watch t1\r\nwatch t2
        B< WATCHING 2
        B< WATCHING 3
        B> reserve\r\nreserve
        B< RESERVED 2 1
        B< b
        B< RESERVED 1 1
        B< a
        B> reserve-with-timeout 0
        B< TIMED_OUT
        """,
    )


def test_a_reserve_waits_for_a_job(server: Server) -> None:
    play(
        server,
        r"""
        A> reserve
        A waits
        B> put 0 0 60 1\r\nx
        B< INSERTED 1
        A< RESERVED 1 1
        A< x
        """,
    )


def test_of_two_who_wait_the_first_is_served_first(server: Server) -> None:
    play(
        server,
        r"""
        A> reserve
        A waits
        B> reserve
        B waits
        C> put 0 0 60 1\r\nx
        C< INSERTED 1
        A< RESERVED 1 1
        A< x
        B waits
        C> put 0 0 60 1\r\ny
        C< INSERTED 2
        B< RESERVED 2 1
        B< y
        """,
    )


def test_a_waiting_client_watches_several_tubes(server: Server) -> None:
    play(
        server,
        r"""
        A> watch t1\r\nwatch t2\r\nreserve
        A< WATCHING 2
        A< WATCHING 3
        B> use t2\r\nput 0 0 60 1\r\nx
        B< USING t2
        B< INSERTED 1
        A< RESERVED 1 1
        A< x
        # It waits in none of the others any more.
        B> use t1\r\nput 0 0 60 1\r\ny
        B< USING t1
        B< INSERTED 2
        A waits
        """,
    )


def test_reserve_with_timeout_0_never_waits(server: Server) -> None:
    play(
        server,
        r"""
        A> reserve-with-timeout 0
        A< TIMED_OUT
        A> put 0 0 60 1\r\nx
        A< INSERTED 1
        A> reserve-with-timeout 0
        A< RESERVED 1 1
        A< x
        """,
    )


def test_reserve_with_timeout_ends_in_time(server: Server) -> None:
    play(
        server,
        r"""
        A> reserve-with-timeout 1
        A waits 1 second
        A< TIMED_OUT
        B> put 0 0 60 1\r\nx
        B< INSERTED 1
        A waits
        A> reserve-with-timeout 1
        A< RESERVED 1 1
        A< x
        """,
    )


@pytest.mark.parametrize("text", ["0x", "0 junk", " 0", "00", "0 0"])
def test_reserve_with_timeout_looks_at_no_more_than_the_number(shared: Server, text: str) -> None:
    with Client(shared) as client:
        assert client.ask(f"reserve-with-timeout {text}").line == b"TIMED_OUT"


@pytest.mark.parametrize("text", ["99999999999999999999", "18446744073709551616"])
def test_reserve_with_timeout_refuses_what_no_number_can_be(shared: Server, text: str) -> None:
    with Client(shared) as client:
        assert client.ask(f"reserve-with-timeout {text}").line == b"BAD_FORMAT"


def test_reserve_with_timeout_takes_up_to_2147483647_seconds(server: Server) -> None:
    play(
        server,
        r"""
        A> reserve-with-timeout 2147483647
        A waits
        B> put 0 0 60 1\r\nx
        B< INSERTED 1
        A< RESERVED 1 1
        A< x
        """,
    )


@pytest.mark.parametrize("text", ["", "x", "-1", "2147483648", "4294967295", "4294967296", "+1"])
def test_reserve_with_timeout_refuses_as_1_13_does(fastbean: Server, text: str) -> None:
    # 1.12 takes all of these: an empty one as 0, a negative one as for ever.
    with Client(fastbean) as client:
        assert client.ask(f"reserve-with-timeout {text}").line == b"BAD_FORMAT"


@pytest.mark.parametrize(
    "line", ["reserve ", "reserve x", "reserved", "reserve-", "reserve-with-timeout", "reserve-job"]
)
def test_whatever_begins_with_reserve_is_a_badly_formed_reserve(shared: Server, line: str) -> None:
    with Client(shared) as client:
        assert client.ask(line).line == b"BAD_FORMAT"


def test_reserve_job_takes_ready_delayed_and_buried_ones(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 1\r\na\r\nput 0 100 60 1\r\nb\r\nput 0 0 60 1\r\nc
        A< INSERTED 1
        A< INSERTED 2
        A< INSERTED 3
        A> reserve-job 3
        A< RESERVED 3 1
        A< c
        A> bury 3 0
        A< BURIED
        A> reserve-job 3\r\nreserve-job 2\r\nreserve-job 1
        A< RESERVED 3 1
        A< c
        A< RESERVED 2 1
        A< b
        A< RESERVED 1 1
        A< a
        B> reserve-with-timeout 0
        B< TIMED_OUT
        """,
    )


def test_reserve_job_finds_no_reserved_one(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 1\r\na
        A< INSERTED 1
        A> reserve-job 1
        A< RESERVED 1 1
        A< a
        A> reserve-job 1
        A< NOT_FOUND
        B> reserve-job 1
        B< NOT_FOUND
        B> reserve-job 2
        B< NOT_FOUND
        """,
    )


def test_reserve_job_reaches_tubes_that_are_neither_watched_nor_running(server: Server) -> None:
    play(
        server,
        r"""
        A> use elsewhere\r\nput 0 0 60 1\r\na\r\npause-tube elsewhere 100
        A< USING elsewhere
        A< INSERTED 1
        A< PAUSED
        B> reserve-job 1
        B< RESERVED 1 1
        B< a
        """,
    )


@pytest.mark.parametrize(
    "line", ["reserve-job ", "reserve-job x", "reserve-job -1", "reserve-job 1 ", "reserve-job 1x"]
)
def test_reserve_job_badly_formed(shared: Server, line: str) -> None:
    with Client(shared) as client:
        assert client.ask(line).line == b"BAD_FORMAT"


def test_in_the_last_second_of_a_reservation_there_is_no_more_waiting(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 1 1\r\na
        A< INSERTED 1
        A> reserve\r\nreserve\r\nreserve-with-timeout 0\r\nreserve-with-timeout 100
        A< RESERVED 1 1
        A< a
        A< DEADLINE_SOON
        A< DEADLINE_SOON
        A< DEADLINE_SOON
        """,
    )


def test_in_the_last_second_an_available_job_is_still_given(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 1 1\r\na\r\nput 0 0 60 1\r\nb
        A< INSERTED 1
        A< INSERTED 2
        A> reserve\r\nreserve\r\nreserve
        A< RESERVED 1 1
        A< a
        A< RESERVED 2 1
        A< b
        A< DEADLINE_SOON
        """,
    )


def test_a_job_in_a_paused_tube_is_not_available(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 1 1\r\na\r\nput 0 0 60 1\r\nb
        A< INSERTED 1
        A< INSERTED 2
        A> reserve\r\npause-tube default 100\r\nreserve
        A< RESERVED 1 1
        A< a
        A< PAUSED
        A< DEADLINE_SOON
        """,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_waits_learns_when_the_last_second_begins(launch: Starter, kind: str) -> None:
    for attempt in attempts(quick_s=2):  # a server that is paused for the whole of that second misses it
        with attempt:
            play(
                launch(kind),
                r"""
                A> put 0 0 2 1\r\na
                A< INSERTED 1
                A> reserve\r\nreserve\r\ntouch 1\r\nreserve-with-timeout 100
                A< RESERVED 1 1
                A< a
                A waits 1 second
                A< DEADLINE_SOON
                A< TOUCHED
                A waits 2 seconds
                A< DEADLINE_SOON
                """,
            )


def test_the_last_second_does_not_keep_reserve_job_from_its_job(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 1 1\r\na\r\nput 0 100 60 1\r\nb
        A< INSERTED 1
        A< INSERTED 2
        A> reserve\r\nreserve-job 2
        A< RESERVED 1 1
        A< a
        A< RESERVED 2 1
        A< b
        """,
    )


def test_a_reservation_that_runs_out_goes_to_the_next(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 1 1\r\na
        A< INSERTED 1
        A> reserve
        A< RESERVED 1 1
        A< a
        B> reserve\r\nbury 1 0
        1.1 seconds pass
        # Real beanstalkd may need to hear from A first; see the departures.
        A> list-tube-used
        A< USING default
        B< RESERVED 1 1
        B< a
        B< BURIED
        A> release 1 0 0\r\nbury 1 0\r\ntouch 1
        A< NOT_FOUND
        A< NOT_FOUND
        A< NOT_FOUND
        """,
    )


def test_a_job_that_comes_back_stands_where_its_id_says(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 1\r\na\r\nput 0 0 60 1\r\nb\r\nput 0 0 60 1\r\nc
        A< INSERTED 1
        A< INSERTED 2
        A< INSERTED 3
        A> reserve\r\nreserve
        A< RESERVED 1 1
        A< a
        A< RESERVED 2 1
        A< b
        A> release 2 0 0
        A< RELEASED
        B> reserve
        B< RESERVED 2 1
        B< b
        A leaves
        B> reserve
        B< RESERVED 1 1
        B< a
        """,
    )
