"""Long times on a made-up clock: a year passes quickly, and the longest delays, ttrs and timeouts do not overflow."""

from __future__ import annotations

import pytest

from .pair import Pair
from .reference_state import SECOND_NS

DAY_S = 86_400
U31 = 2**31 - 1
U32 = 2**32 - 1


def test_a_year_passes_quickly() -> None:
    """Each day three jobs are put; of four reservations, one is left to time out."""
    pair = Pair()
    producer, worker = pair.connect(), pair.connect()
    for day in range(365):
        for delay_s in (0, 3600, 6 * DAY_S):
            pair.send(producer, b"put %d %d %d 3\r\nday\r\n" % (day % 5, delay_s, 600 + day))
        pair.send(worker, b"reserve-with-timeout 43200\r\n" * 3)
        pair.settle()
        pair.pass_time(pair.now_ns + DAY_S * SECOND_NS // 2)
        pair.send(worker, b"reserve-with-timeout 0\r\n" * 4)
        pair.settle()
        for job in pair.model.reserved_by(pair.model.clients[worker])[1:]:
            pair.send(worker, b"delete %d\r\n" % job.id)
        pair.pass_time(pair.now_ns + DAY_S * SECOND_NS // 2)
    pair.send(worker, b"stats\r\n")
    pair.settle()
    assert b"uptime: %d\n" % (365 * DAY_S) in pair.hear(worker)
    assert pair.model.counts["timeouts"] > 365
    assert pair.model.counts["delete"] > 2 * 365
    pair.check_everything()


@pytest.mark.parametrize("start_s", [0, 10 * 365 * DAY_S], ids=["at the start", "after ten years"])
def test_the_longest_delay_and_ttr(start_s: int) -> None:
    pair = Pair()
    pair.now_ns += start_s * SECOND_NS
    client = pair.connect()
    pair.send(client, b"put 4294967295 %d %d 1\r\na\r\nput 0 0 %d 1\r\nb\r\nreserve\r\n" % (U32, U32, U32))
    pair.send(client, b"stats-job 1\r\nstats-job 2\r\npause-tube default %d\r\nstats-tube default\r\n" % U32)
    pair.settle()
    told = pair.hear(client)
    assert told.count(b"\ntime-left: %d\n" % U32) == 2
    assert b"pause-time-left: %d\n" % U32 in told
    pair.pass_time(pair.now_ns + U32 * SECOND_NS - 1)
    pair.send(client, b"stats-job 1\r\nstats-job 2\r\nreserve\r\n")
    pair.settle()
    told = pair.hear(client)
    assert b"state: delayed" in told
    assert b"state: reserved" in told
    assert told.endswith(b"DEADLINE_SOON\r\n")
    # In one iteration the ttr began behind the delay, which is to say a nanosecond later.
    pair.pass_time(pair.now_ns + 2)
    pair.send(client, b"stats-job 1\r\nreserve\r\nreserve\r\nrelease 2 0 %d\r\n" % U32)
    pair.settle()
    told = pair.hear(client)
    assert b"state: ready" in told
    assert told.endswith(b"RESERVED 2 1\r\nb\r\nRESERVED 1 1\r\na\r\nRELEASED\r\n")
    pair.check_everything()


def test_the_longest_timeout() -> None:
    pair = Pair()
    client = pair.connect()
    pair.send(client, b"reserve-with-timeout %d\r\n" % U31)
    pair.settle()
    pair.pass_time(pair.now_ns + U31 * SECOND_NS - 1)
    assert pair.hear(client) == b""
    pair.pass_time(pair.now_ns + 1)
    assert pair.hear(client) == b"TIMED_OUT\r\n"


def test_centuries_in_one_iteration() -> None:
    pair = Pair()
    producer, worker = pair.connect(), pair.connect()
    pair.send(producer, b"put 0 %d 1 1\r\na\r\nput 0 1 %d 1\r\nb\r\nput 0 0 1 1\r\nc\r\n" % (U32, U32))
    pair.send(worker, b"reserve\r\nreserve\r\nreserve\r\n")
    pair.settle()
    pair.now_ns += 200 * 365 * DAY_S * SECOND_NS
    pair.settle()
    assert pair.hear(worker).startswith(b"RESERVED ")
    pair.check_everything()
