"""Odd and hostile clients: whatever they send, or do not read, costs bounded memory and no one else's service."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .client import Client, NoAnswerError, settle
from .conftest import Starter
from .servers import FASTBEAN, KINDS, Server

MEBIBYTE = 1 << 20
# What a server may grow by for a single client's mischief: its buffers, and what the allocator keeps.
GROWTH_KIB = 8192


@contextmanager
def bounded_memory(server: Server, growth_kib: int = GROWTH_KIB) -> Iterator[None]:
    """What is done within must not make the server hold much more memory."""
    settle(server)
    before_kib = server.resident_kib()
    yield
    settle(server)
    grown_kib = server.resident_kib() - before_kib
    assert grown_kib <= growth_kib, f"{server.kind} grew by {grown_kib} KiB"


def serves_others(server: Server) -> bool:
    """True when a job can go once through the server."""
    with Client(server) as client:
        client.ask("use elsewhere")
        client.ask("watch elsewhere")
        client.ask("ignore default")
        number = client.put(b"job")
        job = client.ask("reserve")
        return (job.id, job.body) == (number, b"job") and client.ask(f"delete {number}").line == b"DELETED"


def send_until_it_blocks(client: Client, data: bytes, most: int) -> int:
    """Sends the same bytes again and again until the server takes no more, or most are sent; returns how many were."""
    client.sock.settimeout(0.5)
    sent = 0
    try:
        while sent < most:
            sent += client.sock.send(data[sent % len(data) :])
    except TimeoutError:
        pass
    return sent


def test_a_byte_at_a_time(server: Server) -> None:
    with Client(server) as client:
        client.send_bytewise(b"use t1\r\nput 0 0 60 300\r\n" + 300 * b"x" + b"\r\nbogus\r\n" + 300 * b"y" + b"\r\n")
        assert client.read_line() == b"USING t1"
        assert client.read_line() == b"INSERTED 1"
        assert client.read_line() == b"UNKNOWN_COMMAND"
        assert client.read_line() == b"BAD_FORMAT"


def test_a_line_without_an_end(server: Server) -> None:
    with Client(server) as client, bounded_memory(server):
        for _ in range(8):
            client.send(MEBIBYTE * b"x")
        assert serves_others(server)
        assert client.received_now() == b""
        client.send(b"\r\nlist-tube-used\r\n")
        assert client.reply().line == b"BAD_FORMAT"
        assert client.reply().line == b"USING default"


def test_many_lines_without_an_end(fastbean: Server) -> None:
    clients = [Client(fastbean) for _ in range(20)]
    try:
        with bounded_memory(fastbean):
            for _ in range(16):
                for client in clients:
                    client.send(65536 * b"stats ")
            assert serves_others(fastbean)
    finally:
        for client in clients:
            client.close()


def test_crs_without_end(fastbean: Server) -> None:
    with Client(fastbean) as client, bounded_memory(fastbean):
        client.send(MEBIBYTE * b"\r")
        client.send(b"\r\n")
        assert client.reply().line == b"BAD_FORMAT"


@pytest.mark.parametrize("seed", range(5))
def test_garbage(server: Server, seed: int) -> None:
    choice = random.Random(seed)
    with Client(server) as client, bounded_memory(server):
        for _ in range(50):
            client.send(choice.randbytes(choice.randint(1, 5000)).replace(b"\r", b"r") + b"\r\n")
            assert client.reply().line in (b"BAD_FORMAT", b"UNKNOWN_COMMAND")
        assert serves_others(server)


def test_empty_lines_without_end(server: Server) -> None:
    with Client(server) as client:
        for _ in range(20):
            client.send(5000 * b"\r\n")
            assert client.read_exactly(5000 * 17) == 5000 * b"UNKNOWN_COMMAND\r\n"


def test_half_a_job_and_gone(server: Server) -> None:
    with bounded_memory(server):
        for _ in range(100):
            with Client(server) as client:
                client.send(b"put 0 0 60 65535\r\n" + 40000 * b"x")
        assert serves_others(server)
    with Client(server) as client:
        assert client.ask("peek-ready").line == b"NOT_FOUND"


def test_jobs_whose_bodies_never_come_cost_what_has_come(fastbean: Server) -> None:
    clients = [Client(fastbean) for _ in range(100)]
    try:
        # Each announces 64 KiB; memory that nobody writes to is not counted as resident.
        with bounded_memory(fastbean):
            for client in clients:
                client.send(b"put 0 0 60 65535\r\nonly this")
            settle(fastbean)
        assert serves_others(fastbean)
    finally:
        for client in clients:
            client.close()


def test_the_greatest_size_of_all_is_swallowed_and_not_kept(server: Server) -> None:
    with Client(server) as client, bounded_memory(server):
        client.send(b"put 0 0 60 4294967295\r\n")
        for _ in range(8):
            client.send(MEBIBYTE * b"x")
        assert serves_others(server)
        assert client.received_now() == b""


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_of_many_megabytes(launch: Starter, kind: str) -> None:
    server = launch(kind, ["-z", str(32 * MEBIBYTE)])
    body = random.Random(1).randbytes(20 * MEBIBYTE)
    with Client(server) as client:
        assert client.put(body) == 1
        assert client.ask("reserve").body == body
        assert client.ask("delete 1").line == b"DELETED"
        assert client.ask("list-tube-used").line == b"USING default"


def test_a_reset_in_mid_body(server: Server) -> None:
    for _ in range(20):
        client = Client(server)
        client.send(b"put 0 0 60 1000\r\nhalf")
        client.reset()
    assert serves_others(server)


def test_a_reset_while_waiting(server: Server) -> None:
    client = Client(server)
    client.send(b"reserve\r\n")
    settle(server)
    client.reset()
    settle(server, rounds=8)
    with Client(server) as other:
        other.put(b"x")
        assert other.ask("reserve-with-timeout 100").id == 1


def test_a_reset_with_reservations(server: Server) -> None:
    client = Client(server)
    client.put(b"x")
    client.ask("reserve")
    client.reset()
    with Client(server) as other:
        assert other.ask("reserve-with-timeout 100").id == 1


def test_a_reset_with_replies_unread(server: Server) -> None:
    client = Client(server)
    client.put(60000 * b"x")
    client.send(500 * b"peek 1\r\n")
    settle(server)
    client.reset()
    assert serves_others(server)


def test_replies_that_are_not_read(server: Server) -> None:
    # Up to 3 MiB may lie in the sockets of the kernel, which are not the server's memory.
    with Client(server) as client, bounded_memory(server):
        client.put(60000 * b"x")
        questions = send_until_it_blocks(client, b"peek 1\r\n", most=16 * MEBIBYTE)
        assert questions < 16 * MEBIBYTE, "the server took questions without end, though no answer was read"
        assert serves_others(server)


def test_replies_that_are_not_read_for_long_come_all_the_same(server: Server) -> None:
    body = random.Random(2).randbytes(60000)
    with Client(server) as client:
        client.put(body)
        client.send(300 * b"peek 1\r\n")
        settle(server)
        for _ in range(300):
            assert client.reply().body == body
        assert client.ask("list-tube-used").line == b"USING default"


def test_small_replies_that_are_not_read(fastbean: Server) -> None:
    with Client(fastbean) as client, bounded_memory(fastbean):
        questions = send_until_it_blocks(client, 1000 * b"stats\r\n", most=64 * MEBIBYTE)
        assert questions < 64 * MEBIBYTE, "the server took questions without end, though no answer was read"
        assert serves_others(fastbean)


def test_commands_behind_a_reserve_that_waits_are_not_hoarded(server: Server) -> None:
    with Client(server) as client, bounded_memory(server):
        client.send(b"reserve\r\n")
        sent = send_until_it_blocks(client, 1000 * b"list-tube-used\r\n", most=64 * MEBIBYTE)
        assert sent < 64 * MEBIBYTE, "the server took commands without end, though it may not carry them out yet"
        assert serves_others(server)


def test_a_job_that_is_deleted_while_it_is_sent_is_sent_whole(fastbean: Server) -> None:
    # The real one sends from memory that it has freed: the copy that it makes for a peek still points to the old body.
    body = random.Random(3).randbytes(60000)
    with Client(fastbean) as client, Client(fastbean) as other:
        client.put(body)
        client.send(200 * b"peek 1\r\n")
        settle(fastbean)
        assert other.ask("delete 1").line == b"DELETED"
        found = []
        client.send(b"list-tube-used\r\n")
        while (reply := client.reply()).word != "USING":
            found.append(reply)
        assert len(found) == 200
        assert {reply.word for reply in found} <= {"FOUND", "NOT_FOUND"}
        assert found[0].word == "FOUND"
        assert all(reply.body == body for reply in found if reply.word == "FOUND")


def test_clients_that_come_and_go(server: Server) -> None:
    with bounded_memory(server):
        for _ in range(500):
            with Client(server) as client:
                client.send(b"use t%d\r\n" % client.sock.fileno())
        assert serves_others(server)


def test_a_client_that_only_connects_is_left_alone(fastbean: Server) -> None:
    with Client(fastbean, limit_s=0.5) as client:
        with pytest.raises(NoAnswerError):
            client.reply()
        assert serves_others(fastbean)


@pytest.mark.parametrize("kind", [FASTBEAN])
def test_the_largest_limit_takes_no_memory_by_itself(launch: Starter, kind: str) -> None:
    server = launch(kind, ["-z", str(1 << 30)])
    with Client(server) as client, bounded_memory(server):
        client.send(b"put 0 0 60 1073741824\r\nonly this")
        assert serves_others(server)
