"""Long commands against the model: after the last slice, the result must be that of doing everything at once."""

from __future__ import annotations

import pytest

from .pair import Pair
from .reference_state import SECOND_NS

MANY = 1100  # one iteration does a thousand steps at most


@pytest.fixture
def pair() -> Pair:
    return Pair()


def put_many(pair: Pair, number: int, delay_s: int, ttr_s: int) -> None:
    """All in one piece: more commands than one iteration runs."""
    pair.send(number, b"".join(b"put %d %d %d 1\r\nx\r\n" % (at % 7, delay_s, ttr_s) for at in range(MANY)))
    pair.settle()
    assert pair.hear(number).count(b"INSERTED ") == MANY


def reserve_many(pair: Pair, number: int) -> None:
    pair.send(number, b"reserve-with-timeout 0\r\n" * MANY)
    pair.settle()
    assert pair.hear(number).count(b"RESERVED ") == MANY


def test_many_delays_end_at_once(pair: Pair) -> None:
    client = pair.connect()
    put_many(pair, client, 1, 60)
    pair.now_ns += 2 * SECOND_NS
    pair.settle()
    assert pair.engine.counters()["ready"] == MANY


def test_many_reservations_end_at_once_and_workers_get_the_first(pair: Pair) -> None:
    client, worker = pair.connect(), pair.connect()
    put_many(pair, client, 0, 5)
    reserve_many(pair, client)
    pair.send(worker, b"reserve\r\ndelete 1\r\nreserve\r\n")
    pair.settle()
    pair.now_ns += 6 * SECOND_NS
    pair.settle()
    assert pair.engine.counters()["timeouts"] == MANY
    assert pair.hear(worker).count(b"RESERVED ") == 2


def test_a_client_leaves_with_many_reservations(pair: Pair) -> None:
    client, worker = pair.connect(), pair.connect()
    put_many(pair, client, 0, 5)
    reserve_many(pair, client)
    pair.send(worker, b"reserve\r\n")
    pair.close(client)
    pair.settle()
    assert pair.hear(worker).startswith(b"RESERVED 1 1\r\n")
    assert pair.engine.counters()["ready"] == MANY - 1


@pytest.mark.parametrize("bury", [True, False], ids=["buried", "delayed"])
def test_kick_of_many(pair: Pair, bury: bool) -> None:
    client, worker = pair.connect(), pair.connect()
    put_many(pair, client, 0, 5)
    reserve_many(pair, client)
    parting = b"bury %d 3\r\n" if bury else b"release %d 3 60\r\n"
    pair.send(client, b"".join(parting % number for number in range(MANY, 0, -1)))
    pair.settle()
    pair.send(worker, b"reserve\r\n")
    pair.send(client, b"kick %d\r\nstats-tube default\r\nkick 4294967295\r\n" % (MANY - 2))
    pair.settle()
    told = pair.hear(client)
    assert b"KICKED %d\r\n" % (MANY - 2) in told
    assert told.endswith(b"KICKED 2\r\n")
    # The first that was buried or released goes out first.
    assert pair.hear(worker).startswith(b"RESERVED %d 1\r\n" % MANY)


def test_a_client_leaves_while_its_kick_goes_on(pair: Pair) -> None:
    client = pair.connect()
    put_many(pair, client, 9, 5)
    pair.connections[client].feed(b"kick 4294967295\r\nkick 1\r\n", pair.now_ns)
    pair.connections[client].close(pair.now_ns)
    while pair.hub.end_iteration(pair.now_ns) == 0:
        pass
    counters = pair.engine.counters()
    assert counters["clients"] == 0
    assert counters["jobs"] == counters["ready"] + counters["delayed"] == MANY


def test_many_tubes(pair: Pair) -> None:
    client, other = pair.connect(), pair.connect()
    pair.send(client, b"".join(b"watch tube-%d\r\n" % number for number in range(MANY)))
    pair.settle()
    pair.send(client, b"list-tubes\r\nignore default\r\nignore tube-7\r\nlist-tubes-watched\r\nreserve\r\n")
    pair.settle()
    pair.send(other, b"use tube-%d\r\nput 0 0 1 1\r\nx\r\nlist-tubes\r\n" % (MANY - 1))
    pair.settle()
    assert pair.hear(client).endswith(b"RESERVED 1 1\r\nx\r\n")
    # The tubes of these jobs stay when the client goes; the order shows how the others went.
    pair.send(other, b"".join(b"use tube-%d\r\nput 0 0 1 0\r\n\r\n" % number for number in range(3, MANY, 97)))
    pair.close(client)
    pair.settle()
    pair.hear(other)
    pair.send(other, b"list-tubes\r\n")
    pair.settle()
    assert pair.hear(other).count(b"\n- ") == 2 + len(range(3, MANY, 97))
