"""kill -9 in a loop under load: nothing that was acknowledged is lost, nothing comes back, all states are right."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from .expected_state import UNOWNED, ExpectedState, Job, Op, put
from .process import Client, Server, segment_numbers
from .writers import Load

WRITERS = 5
MOST_TIMES = 5  # as many kills as asked for
MAX_JOB_SIZE = 300_000  # larger than a segment
POLICIES = {"synced": ("-f", "0"), "within-50-ms": ("-f", "50"), "never-synced": ("-F",)}


@dataclass
class Log:
    """What happened to the log's files while it was used."""

    newest: int = 0
    oldest: int = 0
    rotations: int = 0
    removals: int = 0

    def look(self, directory: Path) -> None:
        """Counts what happened since the last look. The first segment goes only once the oldest jobs are copied."""
        numbers = segment_numbers(directory)
        if self.newest:
            self.rotations += max(0, numbers[-1] - self.newest)
            self.removals += max(0, numbers[0] - self.oldest)
        self.newest, self.oldest = numbers[-1], numbers[0]


def put_the_oldest(expected: ExpectedState, client: Client) -> None:
    """Jobs that are never touched again: no segment can go unless compaction copies them."""
    expected.do(client, 0, Op("use", b"use oldest\r\n"))
    for place in range(6):
        token = b"oldest%d" % place
        job = Job(token, UNOWNED, "oldest", token + b"|" + bytes(range(256)) * place, place, 5000 * (place % 2), 500)
        expected.do(client, 0, put(job))


def kick_half(expected: ExpectedState, client: Client) -> None:
    """Takes the first of the buried jobs, by which their order is seen."""
    for number in range(len(expected.writers)):
        tube = f"work{number}"
        buried = sum(job.state == "buried" and job.tube == tube for job in expected.jobs.values())
        expected.do(client, number, Op("use", b"use %s\r\n" % tube.encode()))
        for _ in range(buried // 2):
            expected.do(client, number, Op("kick", b"kick 1\r\n", tube=tube, count=1))


def run_and_kill(server: Server, load: Load, expected: ExpectedState, rng: random.Random) -> None:
    """Works on the server until it is killed, at a random moment after a random number of commands."""
    killer = threading.Timer(rng.uniform(0, 0.02), server.process.kill)
    goal = expected.acknowledged + rng.randrange(20, 2000)

    def start_the_killer() -> bool:
        if expected.acknowledged >= goal and killer.ident is None:
            killer.start()
        return False

    load.run(server, start_the_killer)
    killer.join()
    assert server.wait() == -9, server.said()


def kill_in_a_loop(directory: Path, policy: Sequence[str], kills: int) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    rng = random.Random(seed)
    expected = ExpectedState(WRITERS)
    load = Load(expected, rng, largest=MAX_JOB_SIZE)
    log = Log()
    # A run in which no segment is removed would prove less than it should.
    for round_number in range(MOST_TIMES * kills + 1):
        with Server(directory, policy, extra=("-z", str(MAX_JOB_SIZE))) as server:
            with server.connect() as client:
                expected.check(client)
                expected.restarted(client)
                if round_number == 0:
                    put_the_oldest(expected, client)
                kick_half(expected, client)
                log.look(directory)
            if round_number >= kills and log.removals:
                break
            run_and_kill(server, load, expected, rng)
    print(f"{expected.acknowledged} acknowledged, {log}")  # noqa: T201
    assert expected.acknowledged > 20 * kills
    assert log.rotations > 0
    assert log.removals > 0


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_kills_under_load_lose_nothing(tmp_path: Path, policy: Sequence[str]) -> None:
    kill_in_a_loop(tmp_path, policy, kills=7)


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_two_hundred_kills_under_load_lose_nothing(tmp_path: Path, policy: Sequence[str]) -> None:
    kill_in_a_loop(tmp_path, policy, kills=67)
