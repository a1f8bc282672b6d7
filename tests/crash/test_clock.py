"""The wall clock is set by an hour, forward and back: under load, and between two runs on one log."""

from __future__ import annotations

import random
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest

from .expected_state import ExpectedState
from .process import Client, Server, WallClock, wait_until
from .writers import Load

HOUR_S = 3600
JUMPS_S = (HOUR_S, -HOUR_S, 0, -HOUR_S, HOUR_S, 0)
BETWEEN_JUMPS_S = 0.4


def test_the_harness_sets_the_clock_of_the_log_and_no_other(memory_path: Path, wall_clock: WallClock) -> None:
    wall_clock.set(-HOUR_S)
    with Server(memory_path, env=wall_clock.env, extra=("-V",)) as server:
        wait_until(lambda: hours_off(server) == -1, "a line of an hour ago")
        wall_clock.set(HOUR_S)
        wait_until(lambda: hours_off(server) == 1, "a line of an hour from now")
        with server.connect() as client:
            assert int(client.stats()["uptime"]) < HOUR_S


def hours_off(server: Server) -> int:
    """How far its log is from the true time, by the line that tells of a new client."""
    with server.connect() as client:
        client.stats()
    last = server.said().splitlines()[-1]
    return round((datetime.fromisoformat(last.split()[0]).timestamp() - time.time()) / HOUR_S)


def put(client: Client, tube: bytes, delay: int, ttr: int) -> int:
    assert client.ask(b"use " + tube).word == "USING"
    return client.ask(b"put 0 %d %d 1" % (delay, ttr), b"x").number


def test_a_clock_that_is_set_under_load_disturbs_nothing(memory_path: Path, wall_clock: WallClock) -> None:
    began = time.monotonic()
    expected = ExpectedState(4)
    load = Load(expected, random.Random(5))
    done = threading.Event()
    with Server(memory_path, ("-f", "50"), env=wall_clock.env) as server, server.connect() as client:
        far, near = put(client, b"far", 1000, 100), put(client, b"near", 2, 100)
        held = put(client, b"held", 0, 1000)
        assert client.ask(b"reserve-job %d" % held).word == "RESERVED"
        assert client.ask(b"pause-tube near 1000").word == "PAUSED"
        setter = threading.Thread(target=set_often, args=(wall_clock, done))
        setter.start()
        load.run(server, lambda: done.is_set() and expected.acknowledged > 100)
        setter.join()
        wait_until(lambda: client.stats(b"stats-job %d" % near)["state"] == "ready", "the end of a delay")
        elapsed = time.monotonic() - began
        stats = client.stats()
        jobs = {id: client.stats(b"stats-job %d" % id) for id in (far, near, held)}
        pause = client.stats(b"stats-tube near")
    assert expected.acknowledged > 100
    assert 0 <= int(stats["uptime"]) <= elapsed
    assert stats["job-timeouts"] == "0"
    assert [0 <= int(job["age"]) <= elapsed for job in jobs.values()] == [True] * 3
    assert (jobs[far]["state"], jobs[held]["state"]) == ("delayed", "reserved")
    assert 999 - elapsed <= int(jobs[far]["time-left"]) <= 1000
    assert 999 - elapsed <= int(jobs[held]["time-left"]) <= 1000
    assert 999 - elapsed <= int(pause["pause-time-left"]) <= 1000


def set_often(wall_clock: WallClock, done: threading.Event) -> None:
    for offset_s in JUMPS_S:
        wall_clock.set(offset_s)
        time.sleep(BETWEEN_JUMPS_S)
    done.set()


@pytest.mark.parametrize("policy", [("-f", "0"), ("-F",)], ids=" ".join)
@pytest.mark.parametrize(
    ("jump_s", "age_s", "state"),
    [(-HOUR_S, 0, "delayed"), (HOUR_S, HOUR_S, "ready")],
    ids=["back", "forward"],
)
def test_a_clock_that_was_set_between_two_runs(
    memory_path: Path, wall_clock: WallClock, policy: tuple[str, ...], jump_s: int, age_s: int, state: str
) -> None:
    """Set back, no job is of the future and no delay longer than it was; set forward, an hour has gone for the log."""
    began = time.monotonic()
    with Server(memory_path, policy) as server, server.connect() as client:
        plain, delayed = put(client, b"a", 0, 100), put(client, b"a", 1000, 100)
        server.kill()
    with Server(memory_path, policy, env=wall_clock.fixed(jump_s)) as server, server.connect() as client:
        age = int(client.stats(b"stats-job %d" % plain)["age"])
        job = client.stats(b"stats-job %d" % delayed)
        uptime = int(client.stats()["uptime"])
    elapsed = time.monotonic() - began
    assert age_s <= age <= age_s + elapsed + 1
    assert job["state"] == state
    assert 0 <= int(job["time-left"]) <= 1000
    assert 0 <= uptime <= elapsed
