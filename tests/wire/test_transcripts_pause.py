"""pause-tube: what stands still, what goes on, and when it ends."""

from __future__ import annotations

import pytest

from .client import Client
from .servers import Server
from .transcript import play


def test_no_job_of_a_paused_tube_is_reserved_until_the_pause_ends(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 1\r\na
        A< INSERTED 1
        A> pause-tube default 1\r\nreserve-with-timeout 0
        A< PAUSED
        A< TIMED_OUT
        A> pause-tube default 1\r\nreserve
        A< PAUSED
        A waits 1 second
        A< RESERVED 1 1
        A< a
        """,
    )


def test_a_pause_of_0_ends_a_pause(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 1\r\na
        A< INSERTED 1
        A> pause-tube default 100
        A< PAUSED
        B> reserve
        B waits
        A> pause-tube default 0
        A< PAUSED
        B< RESERVED 1 1
        B< a
        """,
    )


def test_a_pause_of_0_has_ended_for_the_very_next_command(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 1\r\na
        A< INSERTED 1
        A> pause-tube default 0\r\nreserve-with-timeout 0
        A< PAUSED
        A< RESERVED 1 1
        A< a
        """,
    )


def test_in_a_paused_tube_all_but_reserving_goes_on(server: Server) -> None:
    play(
        server,
        r"""
        A> pause-tube default 100
        A< PAUSED
        B> reserve
        B waits
        A> put 0 0 60 1\r\na\r\nput 0 100 60 1\r\nb
        A< INSERTED 1
        A< INSERTED 2
        A> kick 1\r\npeek-ready\r\ndelete 2
        A< KICKED 1
        A< FOUND 1 1
        A< a
        A< DELETED
        A> reserve-job 1
        A< RESERVED 1 1
        A< a
        A> release 1 0 0
        A< RELEASED
        B waits
        """,
    )


def test_delays_end_in_a_paused_tube(server: Server) -> None:
    play(
        server,
        r"""
        A> pause-tube default 100
        A< PAUSED
        A> put 0 1 60 1\r\na
        A< INSERTED 1
        1.2 seconds pass
        A> peek-ready
        A< FOUND 1 1
        A< a
        """,
    )


def test_one_who_watches_a_running_tube_too_is_served_from_there(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 1\r\na
        A< INSERTED 1
        A> pause-tube default 100
        A< PAUSED
        B> watch t1\r\nreserve
        B< WATCHING 2
        B waits
        A> use t1\r\nput 9 0 60 1\r\nb
        A< USING t1
        A< INSERTED 2
        B< RESERVED 2 1
        B< b
        """,
    )


def test_after_a_pause_the_most_urgent_jobs_go_first(server: Server) -> None:
    play(
        server,
        r"""
        A> pause-tube default 100
        A< PAUSED
        B> reserve
        B waits
        C> reserve
        C waits
        A> put 900 0 60 1\r\na\r\nput 1 0 60 1\r\nb
        A< INSERTED 1
        A< INSERTED 2
        A> pause-tube default 0
        A< PAUSED
        B< RESERVED 2 1
        B< b
        C< RESERVED 1 1
        C< a
        """,
    )


def test_statistics_of_a_pause(server: Server) -> None:
    play(
        server,
        r"""
        A> use t1\r\npause-tube t1 100\r\npause-tube t1 200
        A< USING t1
        A< PAUSED
        A< PAUSED
        A> stats-tube t1
        A< OK {?}
        A: ---
        A: name: "t1"
        A: current-jobs-urgent: 0
        A: current-jobs-ready: 0
        A: current-jobs-reserved: 0
        A: current-jobs-delayed: 0
        A: current-jobs-buried: 0
        A: total-jobs: 0
        A: current-using: 1
        A: current-watching: 0
        A: current-waiting: 0
        A: cmd-delete: 0
        A: cmd-pause-tube: 2
        A: pause: 200
        A: pause-time-left: {200-t}
        A: ...
        A<
        A> pause-tube t1 0\r\nstats-tube t1
        A< PAUSED
        A< OK {?}
        A: ---
        A: name: "t1"
        A: current-jobs-urgent: 0
        A: current-jobs-ready: 0
        A: current-jobs-reserved: 0
        A: current-jobs-delayed: 0
        A: current-jobs-buried: 0
        A: total-jobs: 0
        A: current-using: 1
        A: current-watching: 0
        A: current-waiting: 0
        A: cmd-delete: 0
        A: cmd-pause-tube: 3
        A: pause: 0
        A: pause-time-left: 0
        A: ...
        A<
        """,
    )


def test_the_longest_pause_is_taken(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 1\r\na
        A< INSERTED 1
        A> pause-tube default 4294967295
        A< PAUSED
        A> reserve-with-timeout 0
        A< TIMED_OUT
        """,
    )


@pytest.mark.parametrize("line", ["pause-tube default 0", "pause-tube  default  0", "pause-tube default 000"])
def test_well_formed(shared: Server, line: str) -> None:
    with Client(shared) as client:
        assert client.ask(line).line == b"PAUSED"


@pytest.mark.parametrize(
    "line",
    [
        "pause-tube ",
        "pause-tube default",
        "pause-tube default ",
        "pause-tube default x",
        "pause-tube default 1x",
        "pause-tube default 1 ",
        "pause-tube default 1 1",
        "pause-tube default -1",
        "pause-tube default +1",
        "pause-tube default 4294967296",
        "pause-tube -x 0",
        "pause-tube def,ault 0",
        "pause-tube 201" + 198 * "n" + " 0",
    ],
)
def test_badly_formed(shared: Server, line: str) -> None:
    with Client(shared) as client:
        assert client.ask(line).line == b"BAD_FORMAT"


def test_a_tube_that_is_not_there_is_not_made(server: Server) -> None:
    play(
        server,
        r"""
        A> pause-tube nowhere 1
        A< NOT_FOUND
        A> stats-tube nowhere
        A< NOT_FOUND
        """,
    )
