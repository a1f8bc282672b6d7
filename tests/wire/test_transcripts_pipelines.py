"""Several commands at once, commands behind a reserve that waits, and clients that leave."""

from __future__ import annotations

import random

import pytest

from .client import Client, settle
from .servers import Server
from .transcript import play


def test_a_hundred_puts_in_one_segment_are_answered_in_order(server: Server) -> None:
    with Client(server) as client:
        client.send(b"".join(b"put 0 0 60 %d\r\n%d\r\n" % (len(b"%d" % i), i) for i in range(100)))
        assert [client.reply().id for _ in range(100)] == list(range(1, 101))
        client.send(100 * b"reserve\r\n")
        assert [client.reply().body for _ in range(100)] == [b"%d" % i for i in range(100)]


def test_commands_of_all_kinds_are_answered_in_order(server: Server) -> None:
    play(
        server,
        r"""
        A> use t1\r\nwatch t1\r\nput 0 0 60 2\r\nab\r\nbogus\r\nreserve\r\ndelete 1\r\npeek x\r\nlist-tube-used
        A< USING t1
        A< WATCHING 2
        A< INSERTED 1
        A< UNKNOWN_COMMAND
        A< RESERVED 1 2
        A< ab
        A< DELETED
        A< BAD_FORMAT
        A< USING t1
        """,
    )


@pytest.mark.parametrize("seed", range(3))
def test_it_does_not_matter_where_a_pipeline_is_cut(server: Server, seed: int) -> None:
    choice = random.Random(seed)
    data = b"".join(
        b"put %d 0 60 %d\r\n%s\r\nreserve\r\nrelease %d 5 0\r\npeek-ready\r\ndelete %d\r\n" % (i, len(body), body, i, i)
        for i, body in ((i, choice.randbytes(choice.choice((0, 3, 250, 5000)))) for i in range(1, 31))
    )
    cuts = sorted(choice.sample(range(len(data)), 60))
    words = []
    with Client(server) as client:
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            client.send(data[start:end])
        words = [client.reply().word for _ in range(150)]
    assert words == 30 * ["INSERTED", "RESERVED", "RELEASED", "FOUND", "DELETED"]


def test_commands_behind_a_reserve_wait_for_it(server: Server) -> None:
    play(
        server,
        r"""
        A> reserve\r\nuse t1\r\nput 0 0 60 1\r\na\r\nlist-tube-used
        A waits
        B> list-tubes
        B< OK 14
        B: ---
        B: - default
        B<
        B> put 0 0 60 1\r\nb
        B< INSERTED 1
        A< RESERVED 1 1
        A< b
        A< USING t1
        A< INSERTED 2
        A< USING t1
        """,
    )


def test_commands_behind_a_reserve_wait_until_it_times_out(server: Server) -> None:
    play(
        server,
        r"""
        A> reserve-with-timeout 1\r\nlist-tube-used\r\nreserve-with-timeout 0
        A waits 1 second
        A< TIMED_OUT
        A< USING default
        A< TIMED_OUT
        """,
    )


def test_one_put_may_serve_two_reserves_of_one_client_in_turn(server: Server) -> None:
    play(
        server,
        r"""
        A> reserve\r\nreserve\r\nlist-tube-used
        A waits
        B> put 0 0 60 1\r\na
        B< INSERTED 1
        A< RESERVED 1 1
        A< a
        A waits
        B> put 0 0 60 1\r\nb
        B< INSERTED 2
        A< RESERVED 2 1
        A< b
        A< USING default
        """,
    )


def test_many_commands_behind_a_reserve_are_kept(server: Server) -> None:
    with Client(server) as client, Client(server) as other:
        client.send(b"reserve\r\n" + 20000 * b"list-tube-used\r\n")
        settle(server)
        assert client.received_now() == b""
        other.put(b"x")
        assert client.reply().id == 1
        assert [client.reply().line for _ in range(20000)] == 20000 * [b"USING default"]


def test_half_closing_while_waiting_is_answered_with_timed_out(server: Server) -> None:
    play(
        server,
        r"""
        A> reserve
        A waits
        A half-closes
        A< TIMED_OUT
        A is closed
        B> reserve-with-timeout 1000
        B waits
        B half-closes
        B< TIMED_OUT
        B is closed
        """,
    )


def test_after_half_closing_complete_commands_are_still_answered(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 1\r\na\r\nreserve\r\ndelete 1\r\nreserve\r\nreserve-with-timeout 100\r\nlist-tube-used
        A half-closes
        A< INSERTED 1
        A< RESERVED 1 1
        A< a
        A< DELETED
        A< TIMED_OUT
        A< TIMED_OUT
        A< USING default
        A is closed
        """,
    )


def test_commands_behind_a_reserve_are_answered_after_half_closing(server: Server) -> None:
    play(
        server,
        r"""
        A> reserve\r\nput 0 0 60 1\r\na\r\nreserve
        A waits
        A half-closes
        A< TIMED_OUT
        A< INSERTED 1
        A< RESERVED 1 1
        A< a
        A is closed
        """,
    )


def test_an_incomplete_command_at_the_end_is_dropped(server: Server) -> None:
    play(
        server,
        r"""
        A>> list-tube-used\r\nput 0 0 60 5\r\nhel
        A half-closes
        A< USING default
        A is closed
        B>> delete 1
        B half-closes
        B is closed
        C> peek 1
        C< NOT_FOUND
        # The put had its id.
        C> put 0 0 60 1\r\nx
        C< INSERTED 2
        """,
    )


def test_who_leaves_lets_go_of_its_reservations(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 1\r\na\r\nput 0 0 60 1\r\nb
        A< INSERTED 1
        A< INSERTED 2
        A> reserve\r\nreserve
        A< RESERVED 1 1
        A< a
        A< RESERVED 2 1
        A< b
        B> reserve
        B waits
        A leaves
        B< RESERVED 1 1
        B< a
        B> reserve
        B< RESERVED 2 1
        B< b
        """,
    )


def test_who_leaves_lets_go_in_the_order_of_its_reserves(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 50 1\r\na\r\nput 9 0 60 1\r\nb
        A< INSERTED 1
        A< INSERTED 2
        # The second has longer to run and is less urgent, but was reserved first.
        A> reserve-job 2\r\nreserve-job 1
        A< RESERVED 2 1
        A< b
        A< RESERVED 1 1
        A< a
        B> reserve
        B waits
        A leaves
        B< RESERVED 2 1
        B< b
        """,
    )


def test_quitting_lets_go_of_reservations_too(server: Server) -> None:
    play(
        server,
        r"""
        A> put 0 0 60 1\r\na
        A< INSERTED 1
        A> reserve
        A< RESERVED 1 1
        A< a
        A> quit
        A is closed
        B> reserve-with-timeout 100
        B< RESERVED 1 1
        B< a
        """,
    )


def test_who_left_while_waiting_gets_nothing(server: Server) -> None:
    play(
        server,
        r"""
        A> reserve
        A waits
        B> reserve
        B waits
        A leaves
        C> put 0 0 60 1\r\na
        C< INSERTED 1
        B< RESERVED 1 1
        B< a
        """,
    )


def test_a_job_of_which_half_has_come_goes_with_its_client(server: Server) -> None:
    play(
        server,
        r"""
        A> use t1
        A< USING t1
        A> put 0 0 60 100
        A>> half
        A leaves
        B> peek 1\r\nstats-tube t1
        B< NOT_FOUND
        B< NOT_FOUND
        """,
    )
