"""Long steps, few descriptors and idleness, over real sockets."""

from __future__ import annotations

import os
import re
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from builds import fewer_if_slow

from .conftest import Starter
from .daemon import Client, Daemon, fill, wait_for

JOBS = fewer_if_slow(500_000, 100_000)
ASKED = JOBS // 1250


def buried_counts(client: Client, count: int) -> list[int]:
    """How many jobs were buried, or delayed, or reserved, as `count` texts of ``stats-tube`` tell one after another."""
    texts = [client.text() for _ in range(count)]
    pattern = rb"current-jobs-(?:reserved|delayed|buried): (\d+)"
    return [sum(int(number) for number in re.findall(pattern, text)) for text in texts]


def kick_delayed(client: Client) -> None:
    client.send(b"kick %d\r\n" % JOBS)


def leave(client: Client) -> None:
    client.close()


@pytest.mark.parametrize("act", [kick_delayed, pytest.param(leave, marks=pytest.mark.slow)])
def test_others_are_served_within_a_long_command(daemon: Daemon, act: Callable[[Client], None]) -> None:
    big, other = daemon.connect(), daemon.connect()
    fill(big, [b"put 0 %d 1000 1\r\nx\r\n" % (1000 if act is kick_delayed else 0)] * JOBS, b"INSERTED ", 5000)
    if act is leave:
        for start in range(1, JOBS + 1, 5000):
            big.send(b"".join(b"reserve-job %d\r\n" % number for number in range(start, start + 5000)))
            for _ in range(5000):
                assert big.line().startswith(b"RESERVED ")
                big.line()
    # Both requests wait in their sockets while the server is stopped: it then finds them at the same time.
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        act(big)
        other.send(b"stats-tube default\r\n" * ASKED)
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    left = buried_counts(other, ASKED)
    assert left[-1] > JOBS // 2, "the other client was answered only when the long command was over"
    assert left == sorted(left, reverse=True)
    if act is kick_delayed:
        assert big.line() == b"KICKED %d" % JOBS
    wait_for(lambda: "done" if tube_is_ready(other) else None, "all jobs to be ready")


def tube_is_ready(client: Client) -> bool:
    client.send(b"stats-tube default\r\n")
    return b"\ncurrent-jobs-ready: %d\n" % JOBS in client.text()


def limited(soft: int, hard: int) -> list[str]:
    """The words that start a program with these limits on descriptors."""
    return ["/bin/sh", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"', "sh"]


def answered(clients: list[Client], at_least: int = 1) -> list[Client]:
    """The clients that have received something, once there are at least ``at_least`` of them."""
    found: list[Client] = []

    def look() -> str | None:
        ready = select.select([client.sock for client in clients], [], [], 0)[0]
        found[:] = [client for client in clients if client.sock in ready]
        return "enough" if len(found) >= at_least else None

    wait_for(look, f"replies to {at_least} of {len(clients)} clients")
    return found


def test_the_soft_limit_on_descriptors_is_raised_to_the_hard_one(start: Starter) -> None:
    daemon = start(before=limited(32, 48))
    assert daemon.soft_limit() == 48
    clients = [daemon.connect() for _ in range(36)]
    assert [client.ask(b"list-tube-used\r\n") for client in clients] == [b"USING default"] * 36


def test_out_of_descriptors_the_server_rests_and_serves_on_when_there_are_some_again(start: Starter) -> None:
    daemon = start(before=limited(64, 64))
    clients = [daemon.connect() for _ in range(150)]
    for client in clients:
        client.send(b"list-tube-used\r\n")
    wait_for(lambda: "yes" if "not-accepting" in daemon.log() else None, "the server to run out of descriptors")
    served = answered(clients, 40)
    began_s, cpu_ticks, wake_ups = time.monotonic(), daemon.cpu_ticks(), daemon.wake_ups()
    time.sleep(1)
    cpu_ticks, wake_ups = daemon.cpu_ticks() - cpu_ticks, daemon.wake_ups() - wake_ups
    seconds = time.monotonic() - began_s
    assert cpu_ticks <= 20 * seconds, "the server is busy with nothing"
    assert wake_ups <= 20 * seconds
    served = answered(clients)
    assert len(served) < 64
    assert served[0].line() == b"USING default"
    assert served[0].ask(b"list-tube-used\r\n") == b"USING default"
    waiting = [client for client in clients if client not in served]
    while waiting:
        for client in served:
            client.close()
        served = answered(waiting)
        assert [client.line() for client in served] == [b"USING default"] * len(served)
        waiting = [client for client in waiting if client not in served]
    assert daemon.log().count("not-accepting") == 1


@pytest.mark.parametrize("limit", [64, 200])
def test_idle_clients_leave_the_binlog_the_descriptors_that_it_needs(
    start: Starter, tmp_path: Path, limit: int
) -> None:
    daemon = start(before=limited(limit, limit), flags=["-b", str(tmp_path), "-s", "65536"])
    producer = daemon.connect()
    put = b"put 0 0 60 4000\r\n" + bytes(4000) + b"\r\n"
    idle = [daemon.connect() for _ in range(limit + 20)]
    for client in idle:
        client.send(b"list-tube-used\r\n")
    served = answered(idle, limit // 3)
    assert len(served) < limit
    # Each seventeen or so need another file.
    assert {producer.ask(put).split()[0] for _ in range(300)} == {b"INSERTED"}
    waiting = [client for client in idle if client not in served]
    while waiting:
        for client in served:
            client.close()
        served = answered(waiting)
        assert served, f"{len(waiting)} clients are never served"
        waiting = [client for client in waiting if client not in served]
    assert daemon.log().count("not-accepting reason='Too many open files' connections=") == 1


def test_a_server_without_work_is_not_woken(daemon: Daemon, many_descriptors: int) -> None:
    clients = [daemon.connect() for _ in range(1000)]
    for client in clients[:100]:
        client.send(b"watch other\r\nignore default\r\nreserve\r\n")
    for client in clients[100:200]:
        client.send(b"watch other\r\nignore default\r\nreserve-with-timeout 4294967295\r\n")
    far = daemon.connect()
    far.send(b"put 0 4294967295 1 0\r\n\r\nput 0 1000 1 0\r\n\r\nput 0 0 4294967295 0\r\n\r\n")
    far.send(b"reserve\r\npause-tube default 1000\r\n")
    assert [far.line().split()[0] for _ in range(4)] == [b"INSERTED", b"INSERTED", b"INSERTED", b"RESERVED"]
    assert far.exactly(2) == b"\r\n"
    assert far.line() == b"PAUSED"
    daemon.settle()
    assert select.select([client.sock for client in clients[200:]], [], [], 0)[0] == []
    cpu_ticks, wake_ups = daemon.cpu_ticks(), daemon.wake_ups()
    time.sleep(3)
    assert daemon.cpu_ticks() - cpu_ticks <= 2
    assert daemon.wake_ups() - wake_ups <= 3
    assert clients[500].ask(b"list-tube-used\r\n") == b"USING default"
