"""The log stays below twice the live data plus two segments, whatever is done over and over again to the same jobs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .all_commands_session import Session
from .expected_state import ExpectedState
from .process import Server, files_bytes, wait_until

SEGMENT_BYTES = 16384
JOBS = 100
BODY_BYTES = 2000
ROUNDS = 120
PREPARED_SEGMENTS = 2  # empty ones, which are allocated ahead


def release(session: Session, round_number: int) -> None:
    for number in range(JOBS):
        session.reserve_job(f"job{number}")
        session.release(f"job{number}", pri=round_number)


def release_with_delay(session: Session, round_number: int) -> None:
    for number in range(JOBS):
        session.reserve_job(f"job{number}")
        session.release(f"job{number}", pri=round_number, delay=5000)


def bury_and_kick(session: Session, round_number: int) -> None:
    for number in range(JOBS):
        session.reserve_job(f"job{number}")
        session.bury(f"job{number}", pri=round_number)
    session.kick()


def put_and_delete(session: Session, round_number: int) -> None:
    for number in range(JOBS):
        session.put(f"short{round_number}-{number}", 400)
        session.delete(f"short{round_number}-{number}")


@pytest.mark.parametrize(
    "loop", [release, release_with_delay, bury_and_kick, put_and_delete], ids=lambda loop: loop.__name__
)
def test_the_log_stays_small_under(memory_path: Path, loop: Callable[[Session, int], None]) -> None:
    expected = ExpectedState(1)
    with Server(memory_path, ("-F",), segment_bytes=SEGMENT_BYTES) as server, server.connect() as client:
        session = Session(expected, client)
        for number in range(JOBS):
            session.put(f"job{number}", BODY_BYTES)
        for round_number in range(ROUNDS):
            loop(session, round_number)
            stats = client.stats()
            live = int(stats["binlog-bytes-live"])
            assert JOBS * BODY_BYTES < live < 1.1 * JOBS * BODY_BYTES
            files = files_bytes(memory_path)
            most = 2 * live + (2 + PREPARED_SEGMENTS) * SEGMENT_BYTES
            assert files <= most, f"{files} bytes for {live} in round {round_number}, {most} are allowed"
        assert int(stats["binlog-oldest-index"]) > 1, "there was nothing to compact"
        wait_until(
            lambda: int(client.stats()["binlog-bytes-on-disk"]) == files_bytes(memory_path),
            "the statistics to tell what the files take",
        )
        server.kill()
    with Server(memory_path, segment_bytes=SEGMENT_BYTES) as server, server.connect() as client:
        expected.check(client)
