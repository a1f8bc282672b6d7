"""Faults that the world causes: clients that vanish behind a full buffer, and memory that has been used once."""

import mmap
import platform
import socket
import struct

import pytest

from .conftest import wait_until

# More than the server takes in behind a command that is not answered, and no more than the kernel keeps: behind data
# that finds no room, the end of the connection would not arrive either.
BEHIND = b"use elsewhere\r\n" * 6_000


@pytest.fixture
def daemon(start):
    return start()


def _fill(daemon):
    """A client whose reserve waits, with so much behind it that the server reads no more."""
    client = daemon.connect()
    client.sock.sendall(b"reserve\r\n" + BEHIND)
    return client


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_vanishes_behind_a_full_buffer_is_noticed(daemon, how):
    keeper = daemon.connect()
    gone = [_fill(daemon) for _ in range(3)]
    wait_until(lambda: keeper.stats()["current-waiting"] == "3", "three waiting clients")
    for client in gone:
        if how == "reset":
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    wait_until(lambda: keeper.stats()["current-connections"] == "1", "the end of the clients that are gone")


def test_a_client_that_half_closes_behind_a_full_buffer_is_told_that_its_time_is_up(daemon):
    client = _fill(daemon)
    client.sock.shutdown(socket.SHUT_WR)
    assert client.lines.readline() == b"TIMED_OUT\r\n"
    assert client.lines.readline() == b"USING elsewhere\r\n"


def test_memory_goes_back_to_the_system_when_the_jobs_are_gone(daemon):
    client = daemon.connect()
    body = b"x" * 20_000
    before = _resident_kib(daemon)
    for _ in range(4_000):
        client.ask(b"put 0 0 60 20000\r\n" + body + b"\r\n")
    peak = _resident_kib(daemon)
    for id in range(1, 4_001):
        assert client.ask(b"delete %d\r\n" % id) == b"DELETED\r\n"
    assert peak - before > 70_000
    # Not at once: a queue that fills again at once would only have to ask for it again.
    wait_until(lambda: _resident_kib(daemon) - before < (peak - before) // 5, "the memory to go back")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have ways of their own")
@pytest.mark.parametrize(("count", "size"), [(500, 60_000), (100, 300_000)])
def test_a_queue_that_fills_again_at_once_finds_its_memory_there(start, count, size):
    daemon = start("-z", "300000")
    client = daemon.connect()
    jobs = range(count)

    def fill_and_empty():
        before = _page_faults(daemon)
        client.sock.sendall(b"".join(b"put 0 0 60 %d\r\n" % size + b"x" * size + b"\r\n" for _ in jobs))
        ids = [client.lines.readline().split()[1] for _ in jobs]
        faults = _page_faults(daemon) - before
        client.sock.sendall(b"".join(b"delete %s\r\n" % id for id in ids))
        assert [client.lines.readline() for _ in jobs] == [b"DELETED\r\n" for _ in jobs]
        return faults

    first = fill_and_empty()
    assert first > count * size // mmap.PAGESIZE // 2
    # On a busy machine a second may pass in between, after which memory goes back.
    wait_until(lambda: fill_and_empty() < first // 10, "a queue that needs no new memory")


def _page_faults(daemon):
    with open(f"/proc/{daemon.process.pid}/stat") as status:  # noqa: PTH123
        return int(status.read().rsplit(")")[1].split()[7])


def _resident_kib(daemon):
    with open(f"/proc/{daemon.process.pid}/status") as status:  # noqa: PTH123
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
