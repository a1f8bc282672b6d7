"""delete, release, bury, touch: what becomes of a job, and who may say so."""

from __future__ import annotations

import re
import time

import pytest

from .client import Client, Reply
from .servers import Server
from .transcript import play


def test_delete_takes_ready_delayed_buried_and_own_jobs(server: Server) -> None:
    play(
        server,
        r"""
        A> put 1 0 60 1\r\na\r\nput 0 100 60 1\r\nb\r\nput 0 0 60 1\r\nc\r\nput 0 0 60 1\r\nd
        A< INSERTED 1
        A< INSERTED 2
        A< INSERTED 3
        A< INSERTED 4
        A> reserve\r\nreserve
        A< RESERVED 3 1
        A< c
        A< RESERVED 4 1
        A< d
        A> bury 4 0
        A< BURIED
        A> delete 1\r\ndelete 2\r\ndelete 3\r\ndelete 4\r\ndelete 4
        A< DELETED
        A< DELETED
        A< DELETED
        A< DELETED
        A< NOT_FOUND
        """,
    )


def test_nobody_else_may_touch_a_reserved_job(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 1\r\na
        A< INSERTED 1
        A> reserve
        A< RESERVED 1 1
        A< a
        B> delete 1\r\nrelease 1 0 0\r\nbury 1 0\r\ntouch 1\r\nkick-job 1
        B< NOT_FOUND
        B< NOT_FOUND
        B< NOT_FOUND
        B< NOT_FOUND
        B< NOT_FOUND
        A> touch 1
        A< TOUCHED
        """,
    )


def test_only_a_reserved_job_can_be_released_buried_or_touched(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 1\r\na\r\nput 0 100 60 1\r\nb
        A< INSERTED 1
        A< INSERTED 2
        A> release 1 0 0\r\nbury 1 0\r\ntouch 1
        A> release 2 0 0\r\nbury 2 0\r\ntouch 2
        A> release 99 0 0\r\nbury 99 0\r\ntouch 99
        A< NOT_FOUND
        A< NOT_FOUND
        A< NOT_FOUND
        A< NOT_FOUND
        A< NOT_FOUND
        A< NOT_FOUND
        A< NOT_FOUND
        A< NOT_FOUND
        A< NOT_FOUND
        """,
    )


def test_release_gives_a_new_priority(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 1\r\na\r\nput 5 0 60 1\r\nb
        A< INSERTED 1
        A< INSERTED 2
        A> reserve
        A< RESERVED 1 1
        A< a
        A> release 1 6 0
        A< RELEASED
        A> reserve
        A< RESERVED 2 1
        A< b
        """,
    )


def test_release_with_a_delay_makes_the_job_wait(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 1\r\na
        A< INSERTED 1
        A> reserve
        A< RESERVED 1 1
        A< a
        A> release 1 0 1\r\npeek-ready
        A< RELEASED
        A< NOT_FOUND
        A> reserve-job 1\r\nrelease 1 0 1\r\nreserve
        A< RESERVED 1 1
        A< a
        A< RELEASED
        A waits 1 second
        A< RESERVED 1 1
        A< a
        """,
    )


def test_a_released_job_goes_to_one_who_waits(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 1\r\na
        A< INSERTED 1
        A> reserve
        A< RESERVED 1 1
        A< a
        B> reserve
        B waits
        A> release 1 0 0
        A< RELEASED
        B< RESERVED 1 1
        B< a
        """,
    )


def test_bury_gives_a_new_priority_that_counts_after_the_kick(server: Server) -> None:
    play(
        server,
        r"""
        A> put 5 0 60 1\r\na\r\nput 5 0 60 1\r\nb
        A< INSERTED 1
        A< INSERTED 2
        A> reserve-job 2
        A< RESERVED 2 1
        A< b
        A> bury 2 4
        A< BURIED
        A> kick 1
        A< KICKED 1
        A> reserve
        A< RESERVED 2 1
        A< b
        """,
    )


def test_touch_begins_the_ttr_again(server: Server) -> None:
    with Client(server) as client:
        client.put(b"x", ttr=1000)
        client.ask("reserve")
        time.sleep(2)
        client.send(b"stats-job 1\r\ntouch 1\r\nstats-job 1\r\n")
        before, touched, after = client.reply(), client.reply(), client.reply()
    assert touched.line == b"TOUCHED"
    assert time_left(before) <= 998
    assert time_left(after) >= 999


def time_left(reply: Reply) -> int:
    """The value of ``time-left`` in a reply to ``stats-job``."""
    found = re.search(rb"^time-left: (\d+)$", reply.body or b"", re.MULTILINE)
    assert found
    return int(found[1])


@pytest.mark.parametrize(
    "line",
    [
        "delete ",
        "delete x",
        "delete 1x",
        "delete 1 ",
        "delete 1 2",
        "delete -1",
        "delete +1",
        "delete 18446744073709551616",
        "release 1",
        "release 1 0",
        "release 1 0 ",
        "release 1 0 0 ",
        "release 1 0 0 0",
        "release x 0 0",
        "release 1 4294967296 0",
        "release 1 0 4294967296",
        "release 1 -1 0",
        "bury ",
        "bury 1",
        "bury 1 ",
        "bury 1 x",
        "bury 1 0 ",
        "bury 1 0 0",
        "bury 1 4294967296",
        "touch ",
        "touch x",
        "touch 1 ",
        "touch -1",
    ],
)
def test_badly_formed(shared: Server, line: str) -> None:
    with Client(shared) as client:
        assert client.ask(line).line == b"BAD_FORMAT"


@pytest.mark.parametrize("line", ["delete", "release", "bury", "touch", "Delete 1", "deletes 1", "delete-1"])
def test_not_commands_at_all(shared: Server, line: str) -> None:
    with Client(shared) as client:
        assert client.ask(line).line == b"UNKNOWN_COMMAND"


@pytest.mark.parametrize("line", ["delete 00001", "delete    1"])
def test_an_id_may_have_zeros_and_blanks_before_it(server: Server, line: str) -> None:
    with Client(server) as client:
        client.put(b"x")
        assert client.ask(line).line == b"DELETED"


def test_the_largest_id_is_a_number_too(server: Server) -> None:
    with Client(server) as client:
        assert client.ask("delete 18446744073709551615").line == b"NOT_FOUND"
        assert client.ask("delete 0").line == b"NOT_FOUND"
