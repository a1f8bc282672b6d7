"""What the benches of the binlog share: servers on directories of their own, their statistics, the table."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import statistics
import time
from dataclasses import dataclass, field

from fastbean.benchmark.load import run

from .contestants import BEANSTALKD, BODY_BYTES, FASTBEAN, connect_to, running, slow_sync, spawn
from .rounds import ROUNDS, Scenario, ratio_of

KINDS = (FASTBEAN, BEANSTALKD)
LIMIT_S = 60
SYNCS = 1_000
BLOCK_BYTES = 512  # the unit of st_blocks


@dataclass(frozen=True)
class BinlogScenario:
    """A scenario, the sync policy, the shortest time of a sync (0: the disk's own), and the ratio to reach.

    rounds: more where a disk that others use too makes them differ much.
    """

    scenario: Scenario
    policy: str
    sync_us: int = 0
    wanted: str = ""
    rounds: int = ROUNDS

    @property
    def name(self):
        disk = f", sync of {self.sync_us / 1000:g} ms" if self.sync_us else ""
        return f"{self.policy}{disk}: {self.scenario.name}"


@dataclass
class Row:
    """One number per round for each server. form: its format; wanted: the ratio to reach; beside: text at the end."""

    values: dict[str, list[float]]
    form: str
    wanted: str = ""
    beside: str = ""

    def cell(self, kind):
        values = self.values.get(kind)
        return self.form.format(statistics.median(values)) if values else "-"


@dataclass
class BinlogTable:
    """rounds: all rows by name. missing: why a server is not in it. notes: lines below the table."""

    rounds: dict[str, Row] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def lines(self):
        """The rows of the table as text."""
        yield f"{'':48}{'fastbean/beanstalkd':^24}{'wanted':10}" + "".join(f"{kind:>15}" for kind in KINDS)
        yield f"{'':48}{'median (min - max)':^24}{'':10}" + 2 * f"{'median':>15}"
        for name, row in self.rounds.items():
            cells = f"{ratio_of(*(row.values.get(kind) for kind in KINDS)):^24}{row.wanted:10}"
            cells += "".join(f"{row.cell(kind):>15}" for kind in KINDS)
            yield f"{name:48}{cells}  {row.beside}".rstrip()
        yield from self.notes
        yield from self.missing.values()


@contextlib.contextmanager
def servers(folder, missing, flags=(), sync_us=0, kinds=KINDS):
    """The servers that can run here, by kind, each with the flags and an empty directory, which is removed at the end.

    The floor may be among them; it stores nothing.
    """
    environment = slow_sync(folder, sync_us) if sync_us else None

    def flags_of(kind):
        return with_binlog(folder / kind, flags) if kind in KINDS else ()

    try:
        with running(kinds, folder, missing, flags_of, environment) as started:
            yield started
    finally:
        for kind in KINDS:
            shutil.rmtree(folder / kind, ignore_errors=True)


def with_binlog(directory, flags=()):
    """The flags for a binlog in a new directory."""
    return ["-b", str(new_directory(directory)), *flags]


def sync_times_us(folder, body_bytes):
    """The times of syncs after writes like a server's: body_bytes each, into an allocated file."""
    times_us = []
    with (folder / "synced").open("w+b") as file:
        os.posix_fallocate(file.fileno(), 0, SYNCS * body_bytes)
        os.fsync(file.fileno())
        for number in range(SYNCS):
            os.pwrite(file.fileno(), b"x" * body_bytes, number * body_bytes)
            begun_ns = time.perf_counter_ns()
            os.fdatasync(file.fileno())
            times_us.append((time.perf_counter_ns() - begun_ns) / 1000)
    return times_us


def new_directory(path):
    """An empty directory; an existing one is removed first."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


def first_reply(server, folder, request):
    """Waits for the first reply of a server that is starting; returns it, and when it came (time.monotonic)."""
    with connect_to(server, folder, pause_s=0.001) as sock, sock.makefile("rb") as replies:
        sock.settimeout(LIMIT_S)
        sock.sendall(request)
        return replies.readline(), time.monotonic()


def write_full_directories(folder, kinds, jobs, missing):
    """Has each server that can run here put `jobs` jobs into a directory of its own, and kills it.

    The directories are in the folder, by kind; returns the kinds.
    """
    with running(kinds, folder, missing, lambda kind: with_binlog(folder / kind)) as started:
        for server in started.values():
            run(server.address, "put", clients=16, depth=100, operations=jobs, body_bytes=BODY_BYTES)
            server.kill()
        return list(started)


def restart(kind, folder, directory, jobs, look=lambda _server: None):
    """Starts a server on a directory with `jobs` jobs, and kills it.

    Returns the seconds until the first reply, and what `look` finds in the server before it is killed.
    """
    os.sync()  # so that writes of another server do not slow this one down
    begun_s = time.monotonic()
    server = spawn(kind, folder, ["-b", str(directory)])
    try:
        reply, ended_s = first_reply(server, folder, b"peek 1\r\n")
        if reply.split()[:1] != ([b"FOUND"] if jobs else [b"NOT_FOUND"]):
            raise RuntimeError(f"{kind} answered {reply!r} to peek 1 after a restart with {jobs} jobs")
        found = statistics_of(server.address)["current-jobs-ready"]
        if found != jobs:
            raise RuntimeError(f"{kind} has {found} jobs after a restart with {jobs}")
        seen = look(server)
    finally:
        server.kill()
    return ended_s - begun_s, seen


def record_bytes(directory):
    """The bytes of each file up to the last one that is not zero: what was written, without what is allocated ahead."""
    return sum(len(path.read_bytes().rstrip(b"\0")) for path in directory.iterdir())


def allocated_bytes(directory):
    """The disk space of the files."""
    return sum(path.stat().st_blocks * BLOCK_BYTES for path in directory.iterdir())


def statistics_of(address):
    """The server's statistics that are whole numbers."""
    with socket.create_connection(address, LIMIT_S) as sock, sock.makefile("rb") as replies:
        sock.sendall(b"stats\r\n")
        text = replies.read(int(replies.readline().split()[1]))
    return {name.decode(): int(value) for name, value in re.findall(rb"^([a-z-]+): (\d+)$", text, re.MULTILINE)}
