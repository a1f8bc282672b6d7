"""Commands with a lot of work, and how long another client waits meanwhile.

A step is a generator: it prepares and yields, then sends the command and waits until its work is done. From the yield
to the end another client, the Bystander, runs a closed loop; its longest wait is measured.
"""

from __future__ import annotations

import re
import signal
import threading
import time

from fastbean.benchmark.load import Load

from .contestants import start
from .scale_tools import ask, connect, flood

JOBS = 500_000
TUBES = 100_000
SLICE_OPERATIONS = 200


def longest_wait_ms(kind, folder, step):
    """Starts a server, runs the step, and returns the longest time another client waited for a reply."""
    server = start(kind, folder)
    try:
        with connect(server.address) as client:
            flood(client, [b"use big\r\n", b"watch big\r\n", b"ignore default\r\n"])
            playing = step(server, client)
            next(playing)
            with Bystander(server.address) as bystander:
                for _ in playing:
                    raise RuntimeError(f"{step.__name__} yields twice")
    finally:
        server.stop()
    return bystander.longest_ns / 1e6


class Bystander:
    """A client that puts, reserves and deletes in a closed loop, in a thread; records its longest wait."""

    def __init__(self, address):
        self.longest_ns = 0
        self.operations = 0
        self._stopping = False
        self._load = Load(address, "cycle")
        self._thread = threading.Thread(target=self._work)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopping = True
        self._thread.join()
        self._load.close()

    def _work(self):
        while not self._stopping:
            result = self._load.run(SLICE_OPERATIONS)
            self.operations += result.operations
            self.longest_ns = max(self.longest_ns, result.latencies.max_ns)


def take_all(client):
    """Reserves the jobs 1 to JOBS."""
    flood(client, [b"reserve-job %d\r\n" % number for number in range(1, JOBS + 1)], lines_each=2)


def until_ready(server, count):
    """Polls until `count` jobs of the tube big are ready."""
    with connect(server.address) as client:
        while int(re.search(rb"jobs-ready: (\d+)", ask(client, b"stats-tube big\r\n"))[1]) < count:
            time.sleep(0.02)


def quiet(_server, _client):
    yield
    time.sleep(0.5)


def kick_all(client):
    reply = ask(client, b"kick %d\r\n" % JOBS)
    if reply != b"KICKED %d\r\n" % JOBS:
        raise RuntimeError(f"a kick of {JOBS} jobs was answered {reply!r}")


def kick_buried(_server, client):
    flood(client, [b"put 0 0 3600 1\r\nx\r\n"] * JOBS)
    take_all(client)
    flood(client, [b"bury %d 0\r\n" % number for number in range(1, JOBS + 1)])
    yield
    kick_all(client)


def kick_delayed(_server, client):
    flood(client, [b"put 0 3600 3600 1\r\nx\r\n"] * JOBS)
    yield
    kick_all(client)


def leave(server, client):
    flood(client, [b"put 0 0 3600 1\r\nx\r\n"] * JOBS)
    take_all(client)
    yield
    client.close()
    until_ready(server, JOBS)


def delays_end(server, client):
    flood(client, [b"put 0 5 3600 1\r\nx\r\n"] * JOBS)
    yield from while_stopped(server, 5.5)
    until_ready(server, JOBS)


def reservations_end(server, client):
    flood(client, [b"put 0 0 9 1\r\nx\r\n"] * JOBS)
    take_all(client)
    yield from while_stopped(server, 9.5, lambda: client.sendall(b"reserve-with-timeout 0\r\n"))
    until_ready(server, JOBS - 1)


def while_stopped(server, seconds, act=lambda: None):
    """Yields when the server has been stopped for `seconds`, so that everything is due at once when it continues."""
    server.process.send_signal(signal.SIGSTOP)
    act()
    time.sleep(seconds)
    yield
    server.process.send_signal(signal.SIGCONT)


def list_all_tubes(_server, client):
    flood(client, [b"watch %s-%06d\r\n" % (b"tube" * 40, number) for number in range(TUBES)])
    yield
    client.sendall(b"list-tubes\r\n")
    missing = TUBES + 5  # the head, "---", default, big and the empty line at the end
    while missing > 0:
        missing -= client.recv(1 << 18).count(b"\n")
