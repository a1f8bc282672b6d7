"""Clients beside those of the load tool, as processes of their own: short connections, and a client that only asks.

They are compiled from clients.c when needed.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from fastbean.benchmark.load import Load

from .contestants import compile_c

TUBE = "visits"
EMPTY_CLIENTS, EMPTY_DEPTH = 16, 100
COMPUTE = "while True: sum(range(1000))"


@dataclass(frozen=True)
class Outcome:
    """What clients.c prints. longest_ns and the quantiles: of a visit, or of a request."""

    operations: int
    seconds: float
    p50_ns: int
    p99_ns: int
    longest_ns: int

    @property
    def rate(self):
        """Operations per second."""
        return self.operations / self.seconds


def begin(folder, *words):
    """Starts clients.c, which is compiled into the folder when needed; raises MissingError without a compiler."""
    program = compile_c("clients.c", folder, use="no short connections are tried")
    return subprocess.Popen([program, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outcome(process):
    """Waits for the end of clients.c; raises RuntimeError if the server did not do what it should."""
    output, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"clients.c: {errors.strip()}")
    count, seconds, *times_ns = output.split()
    return Outcome(int(count), float(seconds), *map(int, times_ns))


def visit(folder, server, visitors, operations, per_second=0):
    """Starts visits to the server; `per_second` 0: each visitor comes again at once."""
    return begin(folder, "visit", server.address[1], visitors, operations, per_second)


def bursts(folder, server, connections, count):
    """Starts bursts of connections: while they are made the server is stopped, so that it has all of them at once."""
    return begin(folder, "burst", server.address[1], connections, count, server.process.pid)


def take_away(server, jobs):
    """Reserves and deletes the jobs that visitors have put."""
    with Load(server.address, "take", clients=EMPTY_CLIENTS, depth=EMPTY_DEPTH, tube=TUBE) as load:
        load.run(jobs)
