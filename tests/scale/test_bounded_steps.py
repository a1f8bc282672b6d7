"""No step of the server is long, however much one client asks for; the others are served between the steps.

The server runs in memory under made-up time. A step is weighed by what it changes, and between any two steps another
client puts, reserves and deletes a job of its own and must be answered at once.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from builds import fewer_if_slow

from .world import SECOND_NS, STEP_LIMIT, Client, World, watched_steps

LONGER_THAN_10_NS = 10 * SECOND_NS + 10**6  # what begins in one iteration ends a nanosecond apart
# A step moves as many of them in any build. The tests call the whole number half a million.
JOBS = fewer_if_slow(500_000, 50_000)
WATCHES = 20_000
WAITERS = 20_000


class Other:
    """Another client, with a tube of its own; it counts how often it was served."""

    def __init__(self, world: World) -> None:
        self.client = world.client()
        self.client.ask(b"use other\r\nwatch other\r\nignore default\r\n")
        self.served = 0

    def work(self) -> None:
        """One job put, reserved and deleted: each must be answered in its own step."""
        inserted = self.client.ask(b"put 0 0 60 2\r\nhi\r\n").split()
        assert inserted[0] == b"INSERTED"
        assert self.client.ask(b"reserve\r\n") == b"RESERVED %s 2\r\nhi\r\n" % inserted[1]
        assert self.client.ask(b"delete %s\r\n" % inserted[1]) == b"DELETED\r\n"
        self.served += 1


@pytest.fixture
def world() -> World:
    return World()


def run_watched(world: World, counter: str, first: Callable[[], None], goal: int, amount: int) -> None:
    """Runs `first` to its end; no step of it may be long, and `amount` changes take as many steps as they must."""
    other = Other(world)
    largest = 0
    for moved in watched_steps(world, counter, first, goal):
        largest = max(largest, moved)
        other.work()
    assert largest <= STEP_LIMIT, f"one step moved {largest} of {amount}, and nobody else was served meanwhile"
    assert other.served >= amount // STEP_LIMIT


def test_half_a_million_buried_jobs_are_kicked_in_steps(world: World) -> None:
    maintainer = world.client()
    world.put(maintainer, JOBS)
    world.reserve_all(maintainer, JOBS)
    world.bury_all(maintainer, JOBS)
    run_watched(world, "buried", lambda: maintainer.send(b"kick %d\r\nkick 7\r\n" % JOBS), 0, JOBS)
    world.settle()
    assert maintainer.replies() == b"KICKED %d\r\nKICKED 0\r\n" % JOBS
    assert world.counted("ready") == JOBS


def test_half_a_million_delayed_jobs_are_kicked_in_steps(world: World) -> None:
    maintainer = world.client()
    world.put(maintainer, JOBS, delay_s=1000)
    run_watched(world, "delayed", lambda: maintainer.send(b"kick %d\r\n" % JOBS), 0, JOBS)
    world.settle()
    assert maintainer.replies() == b"KICKED %d\r\n" % JOBS
    assert world.counted("ready") == JOBS


def test_a_kick_takes_no_more_jobs_than_there_were_at_its_start(world: World) -> None:
    maintainer, producer = world.client(), world.client()
    world.put(maintainer, 10_000, delay_s=1000)
    maintainer.send(b"kick 50000\r\n")
    while not (replies := maintainer.replies()):
        producer.call(b"put 0 1 60 1\r\nx\r\n")
    assert replies == b"KICKED 10000\r\n"
    assert world.counted("delayed") > 0


def test_half_a_million_reservations_of_a_client_that_leaves_come_back_in_steps(world: World) -> None:
    worker, next_worker = world.client(), world.client()
    world.put(worker, JOBS)
    world.reserve_all(worker, JOBS)
    run_watched(world, "reserved", worker.leave, 0, JOBS)
    assert world.counted("ready") == JOBS
    assert next_worker.call(b"reserve\r\n") == b"RESERVED 1 1\r\nx\r\n"


def test_half_a_million_reservations_that_end_together_come_back_in_steps(world: World) -> None:
    worker = world.client()
    world.put(worker, JOBS, ttr_s=10)
    world.reserve_all(worker, JOBS)
    world.now_ns += LONGER_THAN_10_NS
    run_watched(world, "reserved", lambda: None, 0, JOBS)
    assert world.counted("ready") == world.counted("timeouts") == JOBS


def test_a_reserve_behind_half_a_million_ended_reservations_is_a_short_step_too(world: World) -> None:
    worker = world.client()
    world.put(worker, JOBS, ttr_s=10)
    world.reserve_all(worker, JOBS)
    world.now_ns += LONGER_THAN_10_NS
    run_watched(world, "timeouts", lambda: worker.send(b"reserve\r\n"), JOBS, JOBS)
    world.settle()
    assert worker.replies() == b"RESERVED 1 1\r\nx\r\n"
    assert (world.counted("ready"), world.counted("reserved")) == (JOBS - 1, 1)


def test_half_a_million_delays_that_end_together_take_steps(world: World) -> None:
    producer = world.client()
    world.put(producer, JOBS, delay_s=10)
    world.now_ns += LONGER_THAN_10_NS
    run_watched(world, "delayed", lambda: None, 0, JOBS)
    assert world.counted("ready") == JOBS


def test_a_client_that_watched_20000_tubes_leaves_in_steps(world: World) -> None:
    worker = world.client()
    world.fill(worker, (b"watch tube-%d\r\n" % number for number in range(WATCHES)))
    assert world.counted("tubes") == 1 + WATCHES
    run_watched(world, "tubes", worker.leave, 2, WATCHES)
    assert world.counted("clients") == 1


def test_the_end_of_a_pause_wakes_20000_waiting_clients_in_steps(world: World) -> None:
    producer = world.client()
    world.put(producer, WAITERS)
    producer.call(b"pause-tube default 10\r\n")
    workers = [world.client() for _ in range(WAITERS)]
    for worker in workers:
        worker.send(b"reserve\r\n")
    world.settle()
    assert world.counted("waiting") == WAITERS
    world.now_ns += LONGER_THAN_10_NS
    run_watched(world, "waiting", lambda: None, 0, WAITERS)
    world.settle()
    assert [worker.replies() for worker in workers] == [b"RESERVED %d 1\r\nx\r\n" % (n + 1) for n in range(WAITERS)]


def test_a_client_with_ever_more_commands_does_not_keep_the_others_waiting(world: World) -> None:
    greedy, other = world.client(), world.client()
    greedy.send(b"put 0 0 60 0\r\n\r\n" * 4000)
    steps = 0
    while world.counted("total_jobs") < 4000:
        before = world.counted("total_jobs")
        assert other.ask(b"list-tube-used\r\n") == b"USING default\r\n"
        world.end_iteration()
        assert world.counted("total_jobs") - before <= STEP_LIMIT
        steps += 1
    assert steps > 1
    assert greedy.replies().count(b"INSERTED") == 4000


def test_commands_behind_a_long_one_wait_for_it(world: World) -> None:
    maintainer = world.client()
    world.put(maintainer, 10_000, delay_s=1000)
    assert maintainer.ask(b"kick 10000\r\nput 0 0 60 1\r\ny\r\nlist-tube-used\r\n") == b""
    world.settle()
    assert maintainer.replies() == b"KICKED 10000\r\nINSERTED 10001\r\nUSING default\r\n"


def test_a_client_that_leaves_within_its_own_long_command_takes_it_along(world: World) -> None:
    maintainer, other = world.client(), world.client()
    world.put(maintainer, 50_000, delay_s=1000)
    maintainer.send(b"kick 50000\r\n")
    world.end_iteration()
    maintainer.leave()
    world.settle()
    assert world.counted("clients") == 1
    assert 0 < world.counted("ready") < 50_000
    kicked = world.counted("ready")
    assert other.call(b"kick 50000\r\n") == b"KICKED %d\r\n" % (50_000 - kicked)


def test_two_long_commands_share_the_steps(world: World) -> None:
    first, second = world.client(), world.client()
    second.call(b"use second\r\n")
    world.put(first, 100_000, delay_s=1000)
    world.put(second, 10_000, delay_s=1000)
    first.send(b"kick 100000\r\n")
    second.send(b"kick 10000\r\n")
    while not (done := second.replies()):
        assert world.end_iteration() == 0
    assert done == b"KICKED 10000\r\n"
    assert first.replies() == b""
    assert world.counted("delayed") > 50_000
    world.settle()
    assert first.replies() == b"KICKED 100000\r\n"


def lists(client: Client) -> list[bytes]:
    """The names in the reply that the client has got, checked against its length."""
    reply = client.replies()
    head, text = reply.split(b"\r\n", 1)
    assert head == b"OK %d" % (len(text) - 2)
    assert text.startswith(b"---\n- ")
    assert text.endswith(b"\n\r\n")
    return text[6:-3].split(b"\n- ")


TUBES = 100_000


@pytest.fixture
def crowded(world: World) -> tuple[World, Client]:
    """A server with 100,000 tubes more than default, and the client that keeps them by watching them."""
    keeper = world.client()
    world.fill(keeper, (b"watch tube-%d\r\n" % number for number in range(TUBES)))
    return world, keeper


def test_a_hundred_thousand_tubes_are_listed_in_steps(crowded: tuple[World, Client]) -> None:
    world, keeper = crowded
    other, reader = Other(world), world.client()
    for ask in (b"list-tubes\r\n", b"list-tubes-watched\r\n"):
        client = reader if ask == b"list-tubes\r\n" else keeper
        other.served = 0
        client.send(ask)
        while world.end_iteration() == 0:
            other.work()
        assert other.served >= TUBES // STEP_LIMIT
        names = lists(client)
        assert names[0] == b"default"
        assert names[1 : TUBES + 1] == [b"tube-%d" % number for number in range(TUBES)]
        assert names[TUBES + 1 :] == ([b"other"] if client is reader else [])


@pytest.mark.parametrize("stride", [1, 997])
def test_a_list_is_right_while_tubes_come_and_go(crowded: tuple[World, Client], stride: int) -> None:
    world, keeper = crowded
    reader, maker = world.client(), world.client()
    reader.send(b"list-tubes\r\n")
    turn, gone, come = 0, set(), set()
    while world.end_iteration() == 0:
        for number in range(20):
            name = b"tube-%d" % ((turn * 20 + number) * stride % TUBES)
            keeper.send(b"ignore %s\r\n" % name)
            gone.add(name)
            come.add(b"new-%d" % (turn * 20 + number))
            maker.send(b"watch new-%d\r\n" % (turn * 20 + number))
        turn += 1
    names = lists(reader)
    stayed = {b"default"} | {b"tube-%d" % number for number in range(TUBES)} - gone
    assert turn >= TUBES // STEP_LIMIT
    assert stayed <= set(names) <= stayed | gone | come
    assert len(names) == len(set(names)), "a tube is listed twice"


def test_nothing_to_do_is_nothing_done(crowded: tuple[World, Client]) -> None:
    world, keeper = crowded
    keeper.call(b"put 0 100 60 1\r\nx\r\n")
    assert world.end_iteration() == 100 * SECOND_NS
    keeper.call(b"delete 1\r\n")
    world.now_ns += 100 * SECOND_NS
    world.settle()
    assert world.end_iteration() == -1
