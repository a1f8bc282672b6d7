"""`oldest-ready-age`: exact whatever happens to the jobs, also where it has to be looked for over many iterations."""

import random

import pytest

from memory_client import MemoryClient, MemoryServer

MANY = 6000  # more entries than a heap may have to be looked through at once


def age(client: MemoryClient, tube: bytes = b"default") -> int:
    return int(client.stats(b"stats-tube %s" % tube)["oldest-ready-age"])


def fill(client: MemoryClient, count: int, pri: int) -> None:
    for _ in range(0, count, 200):
        client(b"put %d 0 100000 0\r\n\r\n" % pri * 200)


def test_without_a_ready_job_it_is_0(server: MemoryServer, client: MemoryClient) -> None:
    assert age(client) == 0
    client.put(b"", delay=100)
    client.put(b"")
    client(b"reserve\r\n")
    server.advance(7)
    assert age(client) == 0


def test_it_is_the_age_of_the_job_that_was_put_first(server: MemoryServer, client: MemoryClient) -> None:
    client.put(b"", pri=9)
    server.advance(5)
    client.put(b"", pri=1)
    server.advance(5)
    assert age(client) == 10
    client(b"delete 1\r\n")
    assert age(client) == 5
    client(b"delete 2\r\n")
    assert age(client) == 0


def test_a_job_that_comes_back_is_as_old_as_it_is(server: MemoryServer, client: MemoryClient) -> None:
    client.put(b"")
    server.advance(5)
    client.put(b"")
    server.advance(5)
    client(b"reserve-job 1\r\n")
    assert age(client) == 5
    client(b"release 1 100 0\r\n")
    assert age(client) == 10


def test_each_tube_has_its_own(server: MemoryServer, client: MemoryClient) -> None:
    client.put(b"")
    server.advance(5)
    client(b"use t\r\n")
    client.put(b"")
    server.advance(5)
    assert (age(client), age(client, b"t")) == (10, 5)


def test_a_queue_that_was_empty_does_not_remember(server: MemoryServer, client: MemoryClient) -> None:
    client.put(b"")
    assert age(client) == 0
    client(b"delete 1\r\n")
    server.advance(100)
    client.put(b"")
    server.advance(1)
    assert age(client) == 1


def test_in_a_long_queue_of_one_priority(server: MemoryServer, client: MemoryClient) -> None:
    fill(client, MANY, 5)
    server.advance(3)
    fill(client, MANY, 5)
    server.advance(3)
    assert age(client) == 6
    for id in range(1, MANY + 1):
        client(b"delete %d\r\n" % id)
    assert age(client) == 3


def test_it_takes_many_iterations_and_nobody_else_waits(server: MemoryServer, client: MemoryClient) -> None:
    fill(client, MANY, 5)
    server.advance(3)
    fill(client, MANY, 9)
    server.advance(3)
    assert age(client) == 6
    # Ids 1 to MANY are there, but not ready: they have to be passed.
    client(*[b"reserve-job %d\r\n" % id for id in range(1, MANY + 1)])
    asker = server.client()
    asker.connection.feed(b"stats-tube default\r\nuse t\r\n", server.now_ns)
    assert asker.connection.take_output() == b""
    assert server.client()(b"list-tube-used\r\n") == b"USING default\r\n"
    output = asker()
    assert b"oldest-ready-age: 3\n\r\nUSING t\r\n" in output


def slow_search(server: MemoryServer, client: MemoryClient) -> MemoryClient:
    """A client whose question is not answered in its first step: ids 1 to MANY are reserved, twice as many ready."""
    fill(client, MANY, 5)
    server.advance(3)
    fill(client, MANY, 9)
    server.advance(3)
    client(*[b"reserve-job %d\r\n" % id for id in range(1, MANY + 1)])
    asker = server.client()
    asker.connection.feed(b"stats-tube default\r\n", server.now_ns)
    assert asker.connection.take_output() == b""
    return asker


def test_a_job_that_comes_back_behind_the_search_is_found(server: MemoryServer, client: MemoryClient) -> None:
    asker = slow_search(server, client)
    client.connection.feed(b"release 1 5 0\r\n", server.now_ns)
    assert b"oldest-ready-age: 6\n" in asker()


def test_a_job_that_comes_back_and_is_taken_again_does_not_hold_the_search_up(
    server: MemoryServer, client: MemoryClient
) -> None:
    asker = slow_search(server, client)
    output = b""
    for _ in range(3):
        client.connection.feed(b"release 1 5 0\r\nreserve-job 1\r\n", server.now_ns)
        server.hub.end_iteration(server.now_ns)
        output += asker.connection.take_output()
    # It was the oldest one when it was there.
    assert b"oldest-ready-age: 6\n" in output


def test_a_job_that_comes_back_and_is_deleted_does_not_end_the_search(
    server: MemoryServer, client: MemoryClient
) -> None:
    asker = slow_search(server, client)
    client.connection.feed(b"release 1 5 0\r\ndelete 1\r\n", server.now_ns)
    assert b"oldest-ready-age: 3\n" in asker()


def test_a_tube_that_ends_during_the_search_has_no_oldest_job(server: MemoryServer, client: MemoryClient) -> None:
    client(b"use t\r\nwatch t\r\n")
    asker = slow_search_in(server, client)
    client.close()
    worker = server.client()
    put = server.engine.counters()["total_jobs"]
    for id in range(1, put + 1):
        worker.connection.feed(b"delete %d\r\n" % id, server.now_ns)
    assert worker.connection.take_output().count(b"DELETED") == 2 * MANY
    assert put > 2 * MANY
    assert worker(b"stats-tube t\r\n") == b"NOT_FOUND\r\n"
    assert b"oldest-ready-age: 0\n" in asker()


def slow_search_in(server: MemoryServer, client: MemoryClient) -> MemoryClient:
    """The same in the tube t, where jobs are delayed and not reserved, so that anybody can delete them."""
    for _ in range(0, MANY, 200):
        client(b"put 5 0 60 0\r\n\r\n" + b"put 5 1000 60 0\r\n\r\n" * 199)
    for _ in range(0, MANY, 200):
        client(b"put 9 0 60 0\r\n\r\n" * 200)
    client(*[b"delete %d\r\nput 9 0 60 0\r\n\r\n" % id for id in range(1, MANY + 1, 200)])
    asker = server.client()
    asker.connection.feed(b"stats-tube t\r\n", server.now_ns)
    assert asker.connection.take_output() == b""
    return asker


def test_who_asks_may_leave_during_the_search(server: MemoryServer, client: MemoryClient) -> None:
    asker = slow_search(server, client)
    asker.close()
    assert age(client) == 3
    assert server.engine.counters()["clients"] == 1


def test_two_who_ask_get_the_same(server: MemoryServer, client: MemoryClient) -> None:
    asker = slow_search(server, client)
    assert age(client) == 3
    assert b"oldest-ready-age: 3\n" in asker()


@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_a_look_at_every_job_tells(seed: int) -> None:
    rng = random.Random(seed)
    server = MemoryServer()
    client = server.client()
    put_at: dict[int, int] = {}
    ready: set[int] = set()
    fill(client, MANY, 7)
    for id in range(1, MANY + 1):
        put_at[id] = 0
        ready.add(id)
    for _ in range(300):
        server.advance(1)
        for _ in range(rng.randrange(4)):
            id = client.put(b"", pri=rng.randrange(12), ttr=100000)
            put_at[id] = server.now_ns // 10**9
            ready.add(id)
        for id in rng.sample(sorted(put_at), 10):
            if id in ready:
                client(b"reserve-job %d\r\n" % id + (b"bury %d 3\r\n" % id if rng.random() < 0.5 else b""))
                ready.discard(id)
            else:
                assert client(b"kick-job %d\r\nrelease %d 5 0\r\n" % (id, id)).count(b"NOT_FOUND") == 1
                ready.add(id)
        oldest = min(ready)
        if rng.random() < 0.5:
            client(b"delete %d\r\n" % oldest)
            ready.discard(oldest)
            del put_at[oldest]
        assert age(client) == server.now_ns // 10**9 - put_at[min(ready)]
