"""What clients, tubes and half-sent or never-read things cost in the memory of the server's process.

Measured as the growth of its anonymous memory; the kernel's share of a socket is not in it. Client and server are two
processes.
"""

from __future__ import annotations

import contextlib
import select
from pathlib import Path

import pytest

from patience import PATIENCE_S

from .conftest import Starter
from .daemon import Client, Daemon, fill

KIB = 1024
MIB = 1024 * KIB
CLIENTS = 10_000
TUBES = 100_000
BODY_BYTES = 60_000
MOST_TAKEN_BYTES = 64 * MIB


def connect_many(daemon: Daemon, count: int) -> list[Client]:
    clients = [daemon.connect() for _ in range(count)]
    daemon.settle()
    return clients


def close_all(clients: list[Client]) -> None:
    for client in clients:
        client.close()


def send_until_full(clients: list[Client], data: bytes) -> list[int]:
    """Each client sends `data` again and again until no socket takes more for a while; returns what each has sent."""
    sent = dict.fromkeys((client.sock for client in clients), 0)
    for sock in sent:
        sock.setblocking(False)
    while ready := select.select([], list(sent), [], 0.5)[1]:
        for sock in ready:
            with contextlib.suppress(BlockingIOError):
                sent[sock] += sock.send(data[sent[sock] % len(data) :])
        assert max(sent.values()) < MOST_TAKEN_BYTES, "commands are taken in without an end"
    return list(sent.values())


def test_an_idle_connection_costs_2_kib_at_most(daemon: Daemon, many_descriptors: int) -> None:
    count = min(CLIENTS, many_descriptors - 100)
    assert count >= 1000, "raise the hard limit on open files (ulimit -Hn) for this test"
    close_all(connect_many(daemon, 100))
    before = daemon.resident_bytes()
    clients = connect_many(daemon, count)
    assert (daemon.resident_bytes() - before) / count <= 2 * KIB
    for client in clients:
        assert client.ask(b"list-tube-used\r\n") == b"USING default"
    assert (daemon.resident_bytes() - before) / count <= 2 * KIB, "a client that is idle again costs more than before"
    close_all(clients)


def test_a_tube_costs_1_kib_at_most(daemon: Daemon) -> None:
    client = daemon.connect()
    before = daemon.resident_bytes()
    fill(client, [b"watch tube-%06d\r\n" % number for number in range(TUBES)], b"WATCHING ")
    assert (daemon.resident_bytes() - before) / TUBES <= KIB


def test_a_tube_with_a_job_in_each_state_costs_little_more(daemon: Daemon) -> None:
    client, count = daemon.connect(), 10_000
    fill(client, [b"watch tube-%06d\r\n" % number for number in range(count)], b"WATCHING ")
    before = daemon.resident_bytes()
    for number in range(count):
        client.send(b"use tube-%06d\r\nput 0 0 600 0\r\n\r\nput 0 600 600 0\r\n\r\n" % number)
        assert [client.line()[:5] for _ in range(3)] == [b"USING", b"INSER", b"INSER"]
    assert (daemon.resident_bytes() - before) / count <= KIB


def test_clients_that_never_read_cost_bounded_memory(daemon: Daemon) -> None:
    maintainer = daemon.connect()
    maintainer.send(b"put 0 0 600 %d\r\n%s\r\n" % (BODY_BYTES, b"x" * BODY_BYTES))
    assert maintainer.line() == b"INSERTED 1"
    maintainer.send(b"put 0 0 600 9000\r\n%s\r\n" % (b"x" * 9000))
    assert maintainer.line() == b"INSERTED 2"
    for asked in (b"peek 1\r\n", b"peek 2\r\n", b"stats\r\n"):
        before = daemon.resident_bytes()
        clients = [daemon.connect() for _ in range(10)]
        send_until_full(clients, asked * 1000)
        assert (daemon.resident_bytes() - before) / len(clients) <= MIB
        assert maintainer.ask(b"list-tube-used\r\n") == b"USING default"
        close_all(clients)


@pytest.mark.parametrize("body_bytes", [9_000, BODY_BYTES], ids=["copied bodies", "pinned bodies"])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_client_that_always_lags_behind_costs_bounded_memory(
    start: Starter, tmp_path: Path, kind: str, body_bytes: int
) -> None:
    daemon = start(unix=tmp_path / "socket" if kind == "unix" else None)
    client = daemon.connect(receive_bytes=16 * KIB)
    client.send(b"put 0 0 600 %d\r\n%s\r\n" % (body_bytes, b"x" * body_bytes))
    assert client.line() == b"INSERTED 1"
    before = daemon.resident_bytes()
    commands, sent, read = b"peek 1\r\n" * 1000, 0, 0
    client.sock.setblocking(False)
    while read < 64 * MIB:
        with contextlib.suppress(BlockingIOError):
            sent += client.sock.send(commands[sent % len(commands) :])
        with contextlib.suppress(BlockingIOError):
            read += len(client.sock.recv(16 * KIB))
    assert daemon.resident_bytes() - before <= 4 * MIB


def test_a_thousand_half_jobs_cost_their_bodies(daemon: Daemon, many_descriptors: int) -> None:
    head = b"put 0 0 600 %d\r\n" % BODY_BYTES
    before = daemon.resident_bytes()
    for _ in range(3):
        clients = connect_many(daemon, 1000)
        for client in clients:
            client.send(head + b"x" * (BODY_BYTES // 2))
        daemon.settle()
        assert (daemon.resident_bytes() - before) / 1000 <= BODY_BYTES + 4 * KIB, "half jobs of clients that left stay"
        asking = daemon.connect()
        asking.send(b"stats\r\n")
        assert b"\ncurrent-jobs-ready: 0\n" in asking.text()
        asking.close()
        close_all(clients)
        daemon.settle()


def stats(client: Client) -> dict[str, int]:
    """The statistics that are whole numbers."""
    client.send(b"stats\r\n")
    lines = client.text().decode().splitlines()[1:]
    return {key: int(value) for key, value in (line.split(": ", 1) for line in lines) if value.isdigit()}


def counted(client: Client) -> int:
    """What counts against ``--max-memory``."""
    found = stats(client)
    return found["memory-jobs"] + found["memory-buffers"]


def assert_close(resident: int, counted: int, beside: int) -> None:
    """The count is close to what the process takes: the allocator's share is a quarter, `beside` does not count."""
    assert resident <= counted * 5 / 4 + beside, f"{resident} bytes are taken, {counted} are counted"
    assert counted <= resident * 5 / 4 + beside, f"{counted} bytes are counted, {resident} are taken"


def test_lists_of_tubes_stay_within_the_limit_on_memory(start: Starter) -> None:
    limit, tubes = 32 * MIB, 20_000  # a list has 4 MB
    daemon = start(flags=["--max-memory", str(limit)])
    keeper = daemon.connect()
    fill(keeper, [b"watch %s-%05d\r\n" % (b"t" * 190, number) for number in range(tubes)], b"WATCHING ")
    before_counted, before = counted(keeper), daemon.resident_bytes()
    readers = [daemon.connect(receive_bytes=4 * KIB) for _ in range(50)]
    for reader in readers:
        reader.send(b"list-tubes\r\n")
    while stats(keeper)["cmd-list-tubes"] < 50 or stats(keeper)["max-memory-hits"] < 30:
        daemon.settle()
    grown = counted(keeper) - before_counted
    assert before_counted + grown <= limit + MIB
    assert_close(daemon.resident_bytes() - before, grown, 4 * MIB)
    answers = [reader.line() for reader in readers]
    assert {answer[:3] for answer in answers} == {b"OK ", b"OUT"}
    close_all(readers)


def test_bodies_count_as_they_arrive(start: Starter, many_descriptors: int) -> None:
    daemon = start(flags=["--max-memory", str(64 * MIB)])
    clients = connect_many(daemon, 1100)
    before = daemon.resident_bytes()
    for client in clients:
        client.send(b"put 0 0 600 %d\r\n" % BODY_BYTES)
    daemon.settle()
    other = daemon.connect()
    other.send(b"put 0 0 600 %d\r\n%s\r\n" % (BODY_BYTES, b"x" * BODY_BYTES))
    assert other.line().startswith(b"INSERTED ")
    # The header and the first bytes of each body lie in a page.
    assert_close(daemon.resident_bytes() - before, counted(other), len(clients) * 8 * KIB)
    for client in clients:
        client.send(b"x" * (BODY_BYTES // 2))
    daemon.settle()
    assert counted(other) >= len(clients) * BODY_BYTES // 2
    assert_close(daemon.resident_bytes() - before, counted(other), len(clients) * 8 * KIB)
    close_all(clients)


@pytest.mark.parametrize("body_bytes", [0, 100, 900, 2000, BODY_BYTES])
def test_jobs_and_what_the_binlog_remembers_of_them_count(start: Starter, tmp_path: Path, body_bytes: int) -> None:
    daemon = start(flags=["-b", str(tmp_path), "-F"])
    client, count = daemon.connect(), min(100_000, 48 * MIB // (body_bytes + 120))
    fill(client, [b"put 0 0 600 0\r\n\r\n"] * 100, b"INSERTED ")
    before_counted, before = counted(client), daemon.resident_bytes()
    put = b"put 0 0 600 %d\r\n%s\r\n" % (body_bytes, b"x" * body_bytes)
    fill(client, [put] * count, b"INSERTED ", at_once=max(1, 65536 // len(put)))
    assert_close(daemon.resident_bytes() - before, counted(client) - before_counted, 4 * MIB)


def test_a_gigabyte_line_costs_bounded_memory(daemon: Daemon) -> None:
    client = daemon.connect()
    before = daemon.resident_bytes()
    piece = b"a" * MIB
    for _ in range(1024):
        client.send(piece)
    client.send(b"\r\nlist-tube-used\r\n")
    assert client.line() == b"BAD_FORMAT"
    assert client.line() == b"USING default"
    assert daemon.resident_bytes() - before <= MIB


def test_a_body_that_is_far_too_big_costs_bounded_memory(daemon: Daemon) -> None:
    client = daemon.connect()
    before = daemon.resident_bytes()
    client.send(b"put 0 0 600 %d\r\n" % (256 * MIB))
    piece = b"a" * MIB
    for _ in range(256):
        client.send(piece)
    client.send(b"\r\nlist-tube-used\r\n")
    assert client.line() == b"JOB_TOO_BIG"
    assert client.line() == b"USING default"
    assert daemon.resident_bytes() - before <= MIB


def test_commands_behind_a_blocked_reserve_cost_bounded_memory(daemon: Daemon) -> None:
    producer = daemon.connect()
    before = daemon.resident_bytes()
    clients = [daemon.connect() for _ in range(10)]
    for client in clients:
        client.send(b"reserve\r\n")
    sent = send_until_full(clients, b"list-tube-used\r\n" * 4096)
    assert (daemon.resident_bytes() - before) / len(clients) <= MIB
    assert producer.ask(b"put 0 0 600 1\r\nx\r\n") == b"INSERTED 1"
    clients[0].sock.settimeout(PATIENCE_S)
    assert [clients[0].line(), clients[0].line()] == [b"RESERVED 1 1", b"x"]
    for _ in range(sent[0] // len(b"list-tube-used\r\n")):
        assert clients[0].line() == b"USING default"
