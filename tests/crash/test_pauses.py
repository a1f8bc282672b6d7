"""Pauses survive a restart: kills, stops, compaction, and a wall clock that is set in between."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from .faults import Faults
from .powercut import Disk, write_image
from .process import Client, Server, WallClock, segment_numbers, wait_until
from .replay import started

HOUR_S = 3600
SEGMENT_BYTES = 8192
POLICIES = pytest.mark.parametrize("policy", [("-f", "0"), ("-f", "50"), ("-F",)], ids=" ".join)


def pause(client: Client, tube: bytes, seconds: int) -> None:
    """Uses a tube and pauses it."""
    assert client.ask(b"use " + tube).word == "USING"
    assert client.ask(b"pause-tube %s %d" % (tube, seconds)).word == "PAUSED"


def rest_of(client: Client, tube: bytes) -> int | None:
    """The seconds that are left of a tube's pause, 0 if it is not paused; None if there is no such tube."""
    if client.ask(b"stats-tube " + tube).word == "NOT_FOUND":
        return None
    return int(client.stats(b"stats-tube " + tube)["pause-time-left"])


@pytest.mark.parametrize("stop", [Server.kill, Server.stop], ids=["killed", "stopped"])
@POLICIES
def test_a_pause_survives_a_restart(memory_path: Path, policy: tuple[str, ...], stop: object) -> None:
    with Server(memory_path, policy) as server, server.connect() as client:
        pause(client, b"empty", 1000)
        pause(client, b"longest", 4294967295)
        pause(client, b"jobs", 2000)
        assert client.ask(b"put 0 0 60 1", b"x").word == "INSERTED"
        began = time.monotonic()
        stop(server)  # type: ignore[operator]
    for _ in range(2):
        with Server(memory_path, policy) as server, server.connect() as client:
            rests = {tube: rest_of(client, tube) for tube in (b"empty", b"longest", b"jobs")}
            elapsed = time.monotonic() - began
            for tube, seconds in ((b"empty", 1000), (b"longest", 4294967295), (b"jobs", 2000)):
                rest = rests[tube]
                assert rest is not None
                assert seconds - elapsed - 2 <= rest <= seconds
            assert client.stats(b"stats-tube jobs")["pause"] == "2000"
            assert client.ask(b"watch jobs").word == "WATCHING"
            assert client.ask(b"reserve-with-timeout 0").word == "TIMED_OUT"
            server.kill()


@POLICIES
def test_a_pause_that_was_ended_stays_ended(memory_path: Path, policy: tuple[str, ...]) -> None:
    with Server(memory_path, policy) as server, server.connect() as client:
        pause(client, b"a", 1000)
        pause(client, b"a", 2000)
        pause(client, b"b", 2000)
        pause(client, b"a", 0)
        pause(client, b"b", 1000)
        server.kill()
    with Server(memory_path, policy) as server, server.connect() as client:
        assert rest_of(client, b"a") is None
        rest = rest_of(client, b"b")
        assert rest is not None
        assert rest <= 1000


def test_a_restored_pause_ends_by_itself(memory_path: Path) -> None:
    with Server(memory_path) as server, server.connect() as client:
        pause(client, b"jobs", 2)
        assert client.ask(b"put 0 0 60 1", b"x").word == "INSERTED"
        pause(client, b"empty", 2)
        server.kill()
    with Server(memory_path) as server, server.connect() as worker, server.connect() as client:
        assert worker.ask(b"watch jobs").word == "WATCHING"
        assert worker.ask(b"reserve").body == b"x"
        wait_until(lambda: rest_of(client, b"empty") is None, "the end of the tube")
        assert b"empty" not in client.ask(b"list-tubes").body  # type: ignore[operator]


def test_an_ended_pause_needs_no_record(memory_path: Path) -> None:
    with Server(memory_path) as server, server.connect() as client:
        pause(client, b"a", 1)
        assert client.ask(b"use default").word == "USING"
        wait_until(lambda: rest_of(client, b"a") is None, "the end of the tube")
        server.kill()
    with Server(memory_path) as server, server.connect() as client:
        assert rest_of(client, b"a") is None


@pytest.mark.parametrize("policy", [("-f", "0"), ("-F",)], ids=" ".join)
@pytest.mark.parametrize(
    ("jump_s", "least_s", "most_s"),
    [(-HOUR_S, 10_000, 10_000), (HOUR_S, 10_000 - HOUR_S, 10_000 - HOUR_S), (4 * HOUR_S, -1, -1)],
    ids=["back", "forward", "beyond its end"],
)
def test_a_clock_that_was_set_between_two_runs(
    memory_path: Path, wall_clock: WallClock, policy: tuple[str, ...], jump_s: int, least_s: int, most_s: int
) -> None:
    began = time.monotonic()
    with Server(memory_path, policy) as server, server.connect() as client:
        pause(client, b"a", 10_000)
        server.kill()
    with Server(memory_path, policy, env=wall_clock.fixed(jump_s)) as server, server.connect() as client:
        rest = rest_of(client, b"a")
    elapsed = time.monotonic() - began
    if most_s < 0:
        assert rest is None
    else:
        assert rest is not None
        assert least_s - elapsed - 2 <= rest <= most_s


def test_after_a_power_cut_every_acknowledged_pause_is_there(shim: Path, tmp_path: Path, memory_path: Path) -> None:
    """The reply to pause-tube waits for the sync under -f 0, also one that ends a pause."""
    directory = tmp_path / "log"
    directory.mkdir()
    faults = Faults(shim, tmp_path, directory)
    state: dict[bytes, int] = {}
    steps: list[tuple[int, dict[bytes, int]]] = []
    with Server(directory, segment_bytes=SEGMENT_BYTES, env=faults.env) as server, server.connect() as client:
        for step in range(24):
            tube, seconds = b"t%d" % (step % 5), 0 if step % 3 == 2 else 10_000 * (step + 1)
            pause(client, tube, seconds)
            state = {**state, tube: seconds}
            steps.append((faults.records, state))
        server.kill()
    disk, events = Disk(directory), faults.events()
    done = 0
    for place, expected in steps:
        for event in events[done:place]:
            disk.step(event)
        done = place
        write_image(disk.synced(), memory_path)
        with started(memory_path, SEGMENT_BYTES) as (client, warnings):
            rests = {tube: rest_of(client, tube) or 0 for tube in expected}
        assert not warnings
        assert all(wanted - 1000 <= rests[tube] <= wanted for tube, wanted in expected.items()), (rests, expected)


@POLICIES
def test_compaction_keeps_the_pauses_that_still_last(memory_path: Path, policy: tuple[str, ...]) -> None:
    tubes = [b"%s%d" % (b"t" * 100, number) for number in range(60)]  # more than a segment of records
    with Server(memory_path, policy, segment_bytes=SEGMENT_BYTES) as server, server.connect() as client:
        for tube in tubes:
            pause(client, tube, 10_000)
        for tube in tubes[::2]:
            pause(client, tube, 0)
        assert client.ask(b"use default").word == "USING"
        last = segment_numbers(memory_path)[-1]
        while segment_numbers(memory_path)[0] <= 2 * last:
            id = client.ask(b"put 0 0 60 2000", b"x" * 2000).number
            assert client.ask(b"delete %d" % id).word == "DELETED"
        assert int(client.stats()["binlog-records-migrated"]) >= len(tubes) // 2
        server.kill()
    for _ in range(2):
        with Server(memory_path, policy, segment_bytes=SEGMENT_BYTES) as server, server.connect() as client:
            listed = client.ask(b"list-tubes").body
            assert listed is not None
            assert sorted(listed.split()[2::2]) == sorted([b"default", *tubes[1::2]])
            assert all(rest_of(client, tube) for tube in tubes[1::2])
            server.kill()


def test_pauses_alone_do_not_make_a_binlog_grow(memory_path: Path) -> None:
    """Records of pauses that were replaced are dead, and compaction wins their room back."""
    with Server(memory_path, ("-F",), segment_bytes=SEGMENT_BYTES) as server, server.connect() as client:
        for tube in (b"a" * 200, b"b" * 200):
            assert client.ask(b"use " + tube).word == "USING"
            for _ in range(1000):
                client.send(b"pause-tube %s 1000\r\npause-tube %s 0\r\npause-tube %s 2000\r\n" % (tube, tube, tube))
                assert [client.reply().word for _ in range(3)] == ["PAUSED"] * 3
        wait_until(lambda: len(segment_numbers(memory_path)) < 8, "old segments to go")
        assert segment_numbers(memory_path)[0] > 100
        server.kill()
    with Server(memory_path, segment_bytes=SEGMENT_BYTES) as server, server.connect() as client:
        assert [(rest_of(client, tube * 200) or 0) > 1900 for tube in (b"a", b"b")] == [True, True]


@pytest.mark.parametrize("policy", [("-f", "0"), ("-F",)], ids=" ".join)
def test_a_full_binlog_takes_pauses_of_tubes_that_are_paused(memory_path: Path, policy: tuple[str, ...]) -> None:
    """They replace a record; only the first pause of a tube needs more room."""
    extra = ("--binlog-max-bytes", str(12 * SEGMENT_BYTES))
    tubes = [b"%d" % number + b"t" * 190 for number in range(20)]
    with Server(memory_path, policy, segment_bytes=SEGMENT_BYTES, extra=extra) as server, server.connect() as client:
        for tube in tubes:
            pause(client, tube, 1000)
        ids = []
        while (reply := client.ask(b"put 0 0 60 300", b"x" * 300)).word == "INSERTED":
            ids.append(reply.number)
        assert reply.word == "OUT_OF_MEMORY"
        for seconds in (2000, 3000, 4000) * 10:
            for tube in tubes:
                pause(client, tube, seconds)
        client.ask(b"use another")
        assert client.ask(b"pause-tube another 9").word == "OUT_OF_MEMORY"
        for id in ids:
            assert client.ask(b"delete %d" % id).word == "DELETED"
        for tube in tubes[1:]:
            pause(client, tube, 0)
        server.kill()
    with Server(memory_path, policy, segment_bytes=SEGMENT_BYTES, extra=extra) as server, server.connect() as client:
        rests = [rest_of(client, tube) for tube in tubes]
        assert client.stats()["total-jobs"] == "0"
        assert client.stats()["current-jobs-ready"] == "0"
    assert rests[1:] == [None] * 19
    assert rests[0] is not None
    assert rests[0] > 3000
