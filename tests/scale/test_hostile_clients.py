"""Clients that mean ill, or might as well: each costs what it costs, and the others are served meanwhile.

What one of them does to the transcript of replies is in tests/wire; here there are many, and what they hold of the
process (memory, descriptors, its attention) is looked at.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import struct
import threading
import time

import pytest

from .conftest import Starter
from .daemon import Client, Daemon, wait_for

MIB = 1 << 20
GROWTH_BYTES = 8 * MIB  # of an allocator that keeps what it had
RESET = struct.pack("ii", 1, 0)


def descriptors(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))  # noqa: PTH208 - names are all that is wanted


def stats(client: Client) -> dict[str, str]:
    client.send(b"stats\r\n")
    return dict(line.split(": ", 1) for line in client.text().decode().splitlines()[1:])


def works(client: Client) -> bool:
    """One job put, reserved and deleted."""
    number = client.ask(b"put 0 0 60 3\r\njob\r\n").removeprefix(b"INSERTED ")
    assert client.ask(b"reserve-job %s\r\n" % number) == b"RESERVED %s 3" % number
    assert client.line() == b"job"
    return client.ask(b"delete %s\r\n" % number) == b"DELETED"


class Baseline:
    """What a process held before: it must hold no more descriptors, and little more memory, in the end."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        daemon.settle()
        self.descriptors = descriptors(daemon)
        self.resident_bytes = daemon.resident_bytes()

    def check(self) -> None:
        wait_for(lambda: "yes" if descriptors(self.daemon) <= self.descriptors else None, "the descriptors to go back")
        grown = self.daemon.resident_bytes() - self.resident_bytes
        assert grown < GROWTH_BYTES, f"the process grew by {grown} bytes"


def test_slow_loris(daemon: Daemon, many_descriptors: int) -> None:
    """500 clients that send a byte now and then: they hold a connection each, and no more, and are answered at last."""
    request = b"put 0 0 60 20\r\n" + b"x" * 20 + b"\r\n"
    worker = daemon.connect()
    before = Baseline(daemon)
    loris = [daemon.connect() for _ in range(min(500, many_descriptors - 100))]
    for place in range(len(request)):
        for client in loris:
            client.send(request[place : place + 1])
        assert works(worker)
    ids = {client.line() for client in loris}
    assert len(ids) == len(loris)
    assert all(line.startswith(b"INSERTED ") for line in ids)
    for client in loris:
        client.close()
    before.check()


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (
            b"list-tube-used\r\nput 0 0 60 2\r\nhi\r\nreserve\r\n",
            b"USING default\r\nINSERTED 1\r\nRESERVED 1 2\r\nhi\r\n",
        ),
        (b"reserve\r\nlist-tube-used\r\n", b"TIMED_OUT\r\nUSING default\r\n"),
        (b"list-tube-used\r\nlist-tube-u", b"USING default\r\n"),
        (b"put 0 0 60 10\r\nhalf", b""),
        (b"put 0 0 60 2\r\nhi\r", b""),
        (b"", b""),
    ],
    ids=["behind replies", "behind a reserve", "in mid-line", "in mid-body", "in the CRLF", "at once"],
)
def test_half_close(daemon: Daemon, sent: bytes, answered: bytes) -> None:
    """What was complete is answered, what was not never happened, and the connection ends."""
    before = Baseline(daemon)
    client = daemon.connect()
    client.send(sent)
    client.sock.shutdown(socket.SHUT_WR)
    received = b""
    while data := client.sock.recv(1 << 16):
        received += data
    assert received == answered
    client.close()
    before.check()
    assert stats(daemon.connect())["current-jobs-ready"] == ("1" if b"RESERVED" in answered else "0")


def test_reset_in_mid_body(start: Starter) -> None:
    """Half a body of a megabyte each, and a reset: neither the job nor its memory stays."""
    daemon = start(flags=["-z", str(2 * MIB)])
    worker = daemon.connect()
    before = Baseline(daemon)
    half = b"put 0 0 60 %d\r\n" % (2 * MIB) + b"x" * MIB
    for _ in range(40):
        client = daemon.connect()
        client.send(half)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()
    assert works(worker)
    before.check()
    assert stats(worker)["total-jobs"] == "1"


def test_sockets_that_stop_reading(daemon: Daemon) -> None:
    """50 clients ask for a hundred megabytes and take nothing: they hold a little each, and get it all at last."""
    body = bytes(60_000)
    questions = 35
    worker = daemon.connect()
    worker.send(b"put 0 0 60 60000\r\n" + body + b"\r\n")
    assert worker.line() == b"INSERTED 1"
    resident_bytes = daemon.resident_bytes()
    lazy = [daemon.connect(receive_bytes=4096) for _ in range(50)]
    for client in lazy:
        client.send(b"peek 1\r\n" * questions)
    daemon.settle()
    assert works(worker)
    # A reply of a large job is sent from the job itself, so 50 clients hold far less than 50 times their bound.
    assert daemon.resident_bytes() - resident_bytes < 50 * (1 << 19)
    for client in lazy:
        for _ in range(questions):
            assert client.line() == b"FOUND 1 60000"
            assert client.exactly(60_002) == body + b"\r\n"
    assert works(worker)


def test_a_thousand_connections_that_come_and_go_each_second(daemon: Daemon) -> None:
    """In each second so many come, half of them with a command or half of one, and go, some by reset."""
    worker = daemon.connect()
    before = Baseline(daemon)
    seconds, each_second = 3, 1000
    for second in range(seconds):
        began = time.monotonic()
        for number in range(each_second):
            client = socket.create_connection(daemon.address)
            if number % 2:
                client.send(b"watch t%d\r\n" % number if number % 4 == 1 else b"put 0 0 60 9\r\nhal")
            if number % 3 == 0:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
            if number % 50 == 0:
                assert works(worker)
        # On a slow machine they come more slowly; they never come faster than that.
        time.sleep(max(0.0, began + 1 - time.monotonic()) if second < seconds - 1 else 0)
    # A connection that was reset before it was accepted may never be seen.
    wait_for(lambda: "yes" if stats(worker)["current-connections"] == "1" else None, "the connections to be gone")
    before.check()
    assert int(stats(worker)["total-connections"]) > each_second * seconds // 2
    assert stats(worker)["current-tubes"] == "1"


@pytest.mark.parametrize("limit", [0, 1, 100, 65_535, 70_000])
def test_bodies_at_below_and_above_the_limit(start: Starter, limit: int) -> None:
    client = start(flags=["-z", str(limit)]).connect()
    for size in (limit - 1, limit, limit + 1, 10 * limit + 10):
        if size < 0:
            continue
        body = b"\r\n" * (size // 2) + b"x" * (size % 2)
        client.send(b"put 0 0 60 %d\r\n%s\r\nlist-tube-used\r\n" % (size, body))
        if size > limit:
            assert client.line() == b"JOB_TOO_BIG"
        else:
            number = client.line().removeprefix(b"INSERTED ")
            client.send(b"peek %s\r\n" % number)
        assert client.line() == b"USING default"
        if size <= limit:
            assert client.line() == b"FOUND %s %d" % (number, size)
            assert client.exactly(size + 2) == body + b"\r\n"
    # One byte more than was announced is no CRLF, and costs no more than the job.
    assert client.ask(b"put 0 0 60 %d\r\n%s\r\n" % (limit, b"y" * (limit + 1))).startswith(b"EXPECTED_CRLF")


def test_web_pages_that_post_commands(daemon: Daemon) -> None:
    """Many pages have their visitors' browsers post a put: not one job is made, and the log has one line of it."""
    worker = daemon.connect()
    before = Baseline(daemon)
    body = b"put 0 0 60 5\r\nhello\r\n" * 1000
    for number in range(200):
        target = b"a" * (number * 10)
        request = b"POST /%s HTTP/1.1\r\nHost: queue:11300\r\nContent-Length: %d\r\n\r\n" % (target, len(body))
        with socket.create_connection(daemon.address) as page, contextlib.suppress(ConnectionError):
            page.sendall(request + body)
            assert page.recv(1) == b""
    before.check()
    assert stats(worker)["total-jobs"] == "0"
    assert works(worker)
    assert daemon.log().count("WARNING http-refused requests=1 advice=") == 1


def test_a_flood_from_one_client_does_not_starve_the_others(daemon: Daemon) -> None:
    """Two clients' commands wait in their sockets; the flood is megabytes, and the other one is served within it."""
    flood, other = daemon.connect(), daemon.connect()
    command = b"watch default\r\n"
    asked = 200
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        flood.sock.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 64 * MIB:
                sent += flood.sock.send(command * 5000)
        other.send(b"stats\r\n" * asked)
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    flood.sock.setblocking(True)
    reader = threading.Thread(target=read_away, args=(flood.sock,))
    reader.start()
    done = [int(re.findall(rb"cmd-watch: (\d+)", other.text())[0]) for _ in range(asked)]
    flood.sock.shutdown(socket.SHUT_RDWR)
    reader.join()
    waiting = sent // len(command)
    assert waiting > 20_000, "the flood was none"
    assert done[0] < 5_000, f"{done[0]} commands of the flood came first"
    assert done[-1] < waiting, "the other one was served only when the flood was over"


def read_away(sock: socket.socket) -> None:
    """Takes whatever comes, until nothing more does."""
    with contextlib.suppress(OSError):
        while select.select([sock], [], [], 60)[0] and sock.recv(1 << 18):
            pass


def test_a_flood_of_connections_that_never_speak_does_not_starve_a_client(
    daemon: Daemon, many_descriptors: int
) -> None:
    worker = daemon.connect()
    silent = []
    for _ in range(min(2000, many_descriptors - 200)):
        silent.append(daemon.connect())
        if len(silent) % 100 == 0:
            assert works(worker)
    assert int(stats(worker)["current-connections"]) == len(silent) + 1
