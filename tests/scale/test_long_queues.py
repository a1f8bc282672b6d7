"""Queues with very many clients in them: leaving one costs the same wherever the client is, and no iteration is long.

The server runs in memory under made-up time. An iteration is weighed by its effort: commands run, jobs moved, watches
looked at, entries listed. What is not weighed (a walk along a queue) shows in that the tests come to an end: with a
million clients that leave, a walk for each of them would take hours.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from builds import fewer_if_slow
from fastbean.binlog import segment_files
from fastbean.binlog.binlog import Binlog
from fastbean.daemon import stderr_log
from fastbean.engine.restore import EngineJobs

from .world import SECOND_NS, STEP_LIMIT, Client, World

EFFORT_PER_ITERATION = 20_000
# Sockets, what was left over, expiries and the slices of unfinished commands have an allowance each. Beside it, one
# client may run one command that looks at all of its watches.
MOST_EFFORT = 4 * EFFORT_PER_ITERATION
TUBES = 2000  # more than one slice of a list
SEGMENT_BYTES = 65536

MANY = [
    pytest.param(fewer_if_slow(100_000, 10_000), id="100,000"),
    pytest.param(fewer_if_slow(1_000_000, 10_000), id="a million", marks=pytest.mark.slow),
]


def use_up_the_effort(world: World) -> Client:
    """A client whose command uses up the allowance of this iteration, so that whatever can wait does."""
    client = world.client()
    world.fill(client, (b"watch effort-%d\r\n" % number for number in range(EFFORT_PER_ITERATION)))
    client.send(b"reserve-with-timeout 0\r\n")
    return client


def keep_tubes(world: World, count: int = TUBES) -> Client:
    keeper = world.client()
    world.fill(keeper, (b"watch tube-%d\r\n" % number for number in range(count)))
    return keeper


def ask_all(world: World, count: int, command: bytes) -> list[Client]:
    clients = [world.client() for _ in range(count)]
    for client in clients:
        client.send(command)
    return clients


def wait_for_jobs(world: World, count: int) -> list[Client]:
    return ask_all(world, count, b"reserve\r\n")


def wait_until_a_time(world: World, count: int) -> list[Client]:
    return ask_all(world, count, b"reserve-with-timeout 1000\r\n")


def wait_for_lists(world: World, count: int) -> list[Client]:
    keep_tubes(world)
    return ask_all(world, count, b"list-tubes\r\n")


def wait_for_kicks(world: World, count: int) -> list[Client]:
    world.put(world.client(), 10, delay_s=1000)
    use_up_the_effort(world)
    return ask_all(world, count, b"kick 1\r\n")


def wait_for_ages(world: World, count: int) -> list[Client]:
    world.put(world.client(), 10)
    use_up_the_effort(world)
    return ask_all(world, count, b"stats-tube default\r\n")


QUEUES = [wait_for_jobs, wait_until_a_time, wait_for_lists, wait_for_kicks, wait_for_ages]


def weigh(world: World) -> int:
    """The effort of one iteration."""
    before = world.hub.state.effort
    world.end_iteration()
    return world.hub.state.effort - before


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("count", MANY)
@pytest.mark.parametrize("youngest_first", [False, True], ids=["oldest first", "youngest first"])
@pytest.mark.parametrize("fill", QUEUES)
def test_very_many_clients_leave_a_queue(
    world: World, fill: Callable[[World, int], list[Client]], youngest_first: bool, count: int
) -> None:
    clients = fill(world, count)
    others = world.counted("clients") - count
    assert world.counted("clients") == count + others
    for client in reversed(clients) if youngest_first else clients:
        client.leave()
    world.settle()
    assert (world.counted("clients"), world.counted("waiting")) == (others, 0)
    assert world.client().call(b"list-tube-used\r\n") == b"USING default\r\n"


def test_clients_that_stay_in_a_queue_are_answered(world: World) -> None:
    clients = wait_for_kicks(world, 1000)
    stay = {0: clients[0], 500: clients[500], 501: clients[501], 999: clients[999]}
    for number, client in enumerate(clients):
        if number not in stay:
            client.leave()
    world.settle()
    assert [client.replies() for client in stay.values()] == [b"KICKED 1\r\n"] * 4
    assert world.counted("ready") == 4


@pytest.mark.parametrize("count", MANY)
def test_tubes_end_while_very_many_clients_wait_for_lists(world: World, count: int) -> None:
    keeper = keep_tubes(world)
    clients = ask_all(world, count, b"list-tubes\r\n")
    keeper.send(b"".join(b"ignore tube-%d\r\n" % number for number in range(0, TUBES, 2)))
    while world.counted("tubes") > 1 + TUBES // 2:
        assert weigh(world) <= MOST_EFFORT
    for client in clients[2:]:
        client.leave()
    world.settle()
    for client in clients[:2]:
        names = client.replies().removesuffix(b"\n\r\n").split(b"\n- ")[1:]
        assert len(names) == len(set(names))
        assert {b"tube-%d" % number for number in range(1, TUBES, 2)} <= set(names)


@pytest.mark.parametrize("count", MANY)
def test_very_many_puts_that_wait_for_room_are_taken_in_steps(
    world: World, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_files.SegmentWorker, "create", lambda *_words: None)
    log = Binlog(
        str(tmp_path),
        EngineJobs(world.hub.state),
        segment_bytes=SEGMENT_BYTES,
        fsync_ms=None,
        max_bytes=0,
        log=stderr_log.silent,
    )
    log.open(lambda _text: None)
    try:
        clients = ask_all(world, count, b"put 0 0 60 1\r\nx\r\n")
        for client in clients[1::2]:
            client.leave()
        world.settle()
        assert world.counted("total_jobs") == 0, "there is room before any was made"
        size = SEGMENT_BYTES + 256 * count
        segment_files.create(str(tmp_path), 2, size).hand_over(log.journal.room.add_spare, 2, size)
        taken = largest = 0
        while taken < len(clients[::2]):
            world.end_iteration()
            largest = max(largest, world.counted("total_jobs") - taken)
            assert world.counted("total_jobs") > taken, "there is room, and no put is taken"
            taken = world.counted("total_jobs")
        assert largest <= STEP_LIMIT
        assert clients[0].replies() == b"INSERTED 1\r\n"
        assert clients[2].replies() == b"INSERTED 3\r\n"
    finally:
        log.close()


def test_the_end_of_waits_for_very_many_tubes_takes_iterations(world: World) -> None:
    keep_tubes(world)
    watch = b"".join(b"watch tube-%d\r\n" % number for number in range(TUBES))
    workers = [world.client() for _ in range(200)]
    for worker in workers:
        worker.call(watch)
        worker.call(b"reserve-with-timeout 5\r\n")
    assert world.counted("waiting") == 200
    world.now_ns += 6 * SECOND_NS
    assert max(weigh(world) for _ in range(100)) <= MOST_EFFORT
    assert world.counted("waiting") == 0
    assert {worker.replies()[-11:] for worker in workers} == {b"TIMED_OUT\r\n"}


def test_reserves_that_look_at_very_many_tubes_take_iterations_and_do_not_delay_short_commands(world: World) -> None:
    keep_tubes(world)
    watch = b"".join(b"watch tube-%d\r\n" % number for number in range(TUBES))
    workers = [world.client() for _ in range(200)]
    other = world.client()
    for worker in workers:
        worker.call(watch)
    before = world.hub.state.effort
    for worker in workers:
        worker.send(b"reserve-with-timeout 0\r\n")
    assert world.hub.state.effort - before <= MOST_EFFORT
    assert other.ask(b"list-tube-used\r\n") == b"USING default\r\n"
    assert max(weigh(world) for _ in range(100)) <= MOST_EFFORT
    assert {worker.replies()[-11:] for worker in workers} == {b"TIMED_OUT\r\n"}


@pytest.mark.parametrize("count", MANY)
def test_very_many_clients_with_commands_left_over_take_iterations(world: World, count: int) -> None:
    use_up_the_effort(world)
    clients = ask_all(world, count, b"list-tube-used\r\n" * 4)
    efforts = []
    while world.end_iteration() == 0:
        efforts.append(weigh(world))
    assert len(efforts) >= 3 * count // MOST_EFFORT
    assert max(efforts) <= MOST_EFFORT
    assert {client.replies() for client in clients} == {b"USING default\r\n" * 4}
