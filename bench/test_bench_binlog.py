"""The log on disk beside beanstalkd's: rates under the sync policies, a restart, room on the disk, rotations.

The directories are pytest's, so `--basetemp` chooses the disk; both servers use the same one. Rows "sync of 1 ms" tell
what becomes of a fast disk's figures on a slower one: in both servers each fsync and fdatasync then returns after a
millisecond at the soonest.

A restart is that of a server that was killed, on the files that it had written by itself and that are on the disk and
in the page cache; the time goes from its start to its first reply. It starts from the same directory each round.
Room on the disk: both servers allocate segments ahead and fill them with zeros, so a record's bytes are those up to
the last byte of each file that is not zero, headers included; what the files take with all that is allocated ahead for
deletes is told too. Rotations: segments are so small that one is full after a few hundred puts; the longest of all puts
until the hundredth rotation counts.
"""

import os
import sys
import time

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("the load tool needs Linux's epoll", allow_module_level=True)

from fastbean._benchmark import Load, run

from .binlog_tools import (
    KINDS,
    LogScenario,
    Row,
    allocated_bytes,
    first_reply,
    new_directory,
    record_bytes,
    servers,
    statistics_of,
    sync_times_us,
)
from .contestants import BODY_BYTES, FASTBEAN, MissingError, spawn
from .rounds import ROUNDS, Scenario, alternate, cpu
from .scale_tools import spread

SYNC_EACH = "-f 0"
DISK_ROUNDS = 15
LEAST_OPERATIONS = 128
SYNC_OPERATIONS = 4_096
JOBS = 1_000_000
ROTATIONS = 100
SMALL_SEGMENT_BYTES = 65_536
SLICE_OPERATIONS = 1_000

ONE = Scenario("put, 1 client", "put", 1, 1, 0)
MANY = Scenario("put, 64 clients", "put", 64, 1, 0)
SCENARIOS = (
    LogScenario(ONE, SYNC_EACH, wanted=">= 0.95", rounds=DISK_ROUNDS),
    LogScenario(MANY, SYNC_EACH, wanted=">= 10", rounds=DISK_ROUNDS),
    LogScenario(ONE, SYNC_EACH, sync_us=1000),
    LogScenario(MANY, SYNC_EACH, sync_us=1000),
    LogScenario(Scenario("put, 50 clients", "put", 50, 1, 0), "-f 50"),
    LogScenario(Scenario("put+reserve+delete, 50 clients", "cycle", 50, 1, 0), "-f 50"),
    LogScenario(Scenario("put, 16 clients, 100 in flight each", "put", 16, 100, 0), "-f 50", wanted=">= 8"),
)


def test_syncs_of_the_disk(tmp_path, log_table):
    times_us = sync_times_us(tmp_path, BODY_BYTES)
    assert len(times_us) > 0
    log_table.notes.append(f"syncs of this disk take, in us: {spread(times_us, '{:.0f}')}")


@pytest.mark.usefixtures("own_processor")
@pytest.mark.parametrize("wanted", SCENARIOS, ids=lambda each: each.name)
def test_rates(tmp_path, log_table, wanted):
    try:
        with servers(tmp_path, log_table, wanted.policy.split(), wanted.sync_us) as running:
            rounds = alternate(list(running.values()), wanted.scenario, wanted.rounds, LEAST_OPERATIONS)
            beside = cpu_of(rounds)
            if wanted.policy == SYNC_EACH:
                beside += f"; {puts_a_sync(running[FASTBEAN], wanted.scenario):.1f} puts a sync of fastbean"
    except MissingError as missing:
        pytest.skip(str(missing))
    rates = {kind: [each.rate for each in measured] for kind, measured in rounds.items()}
    log_table.rounds[wanted.name] = Row(rates, "{:,.0f}/s", wanted.wanted, beside)
    assert {kind: len(measured) for kind, measured in rates.items()} == dict.fromkeys(rates, wanted.rounds)


def cpu_of(rounds):
    """What an operation costs each server's processor."""
    return "CPU " + ", ".join(f"{cpu(rounds.get(kind))}" for kind in KINDS) + " us"


def puts_a_sync(server, scenario):
    """How many puts shared a sync of fastbean's, in a round beside the measured ones."""
    before = statistics_of(server.address)["binlog-syncs"]
    run(
        server.address,
        "put",
        clients=scenario.clients,
        depth=scenario.depth,
        operations=SYNC_OPERATIONS,
        body_bytes=BODY_BYTES,
    )
    return SYNC_OPERATIONS / (statistics_of(server.address)["binlog-syncs"] - before)


@pytest.fixture(scope="module")
def full_directories(tmp_path_factory, log_table):
    """The folder with a directory of JOBS jobs for each server that can run here, written by it until it was killed."""
    folder = tmp_path_factory.mktemp("full")
    with servers(folder, log_table) as running:
        for server in running.values():
            run(server.address, "put", clients=16, depth=100, operations=JOBS, body_bytes=BODY_BYTES)
            server.kill()
        yield folder, list(running)


def test_room_on_disk(full_directories, log_table):
    folder, kinds = full_directories
    for name, of, wanted in (
        ("records", record_bytes, "<= 0.67"),
        ("all that is allocated", allocated_bytes, ""),
    ):
        bytes_each = {kind: [of(folder / kind) / JOBS] for kind in kinds}
        log_table.rounds[f"bytes on disk, job of {BODY_BYTES}: {name}"] = Row(bytes_each, "{:.1f}", wanted)
        assert min(min(values) for values in bytes_each.values()) > BODY_BYTES


@pytest.mark.usefixtures("own_processor")
def test_restart(full_directories, log_table):
    folder, kinds = full_directories
    restarts_s = {kind: [] for kind in kinds}
    rates = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind in kinds:
            empty_s = restart(kind, folder, new_directory(folder / "empty"), 0)
            full_s = restart(kind, folder, folder / kind, JOBS)
            restarts_s[kind].append(full_s)
            rates[kind].append(JOBS / (full_s - empty_s))
    log_table.rounds[f"restart with {JOBS:,} jobs"] = Row(restarts_s, "{:.3f} s", "<= 0.125")
    log_table.rounds["the same, less a start without jobs"] = Row(rates, "{:,.0f}/s", "", "2,000,000/s are wanted")
    assert [len(each) for each in restarts_s.values()] == [ROUNDS] * len(kinds)


def restart(kind, folder, directory, jobs):
    """Starts a server on a directory with so many jobs, and kills it. Returns the seconds until the first reply."""
    os.sync()  # what another server has left to be written is not to disturb this one
    begun_s = time.monotonic()
    server = spawn(kind, folder, ["-b", str(directory)])
    try:
        reply, ended_s = first_reply(server, folder, b"peek 1\r\n")
        assert reply.split()[:1] == ([b"FOUND"] if jobs else [b"NOT_FOUND"])
        assert statistics_of(server.address)["current-jobs-ready"] == jobs
    finally:
        server.kill()
    return ended_s - begun_s


@pytest.mark.usefixtures("own_processor")
@pytest.mark.parametrize("clients", [1, 16])
def test_longest_put_of_many_rotations(tmp_path, log_table, clients):
    longest_ms = {}
    for _ in range(ROUNDS):
        with servers(tmp_path, log_table, ["-s", str(SMALL_SEGMENT_BYTES)]) as running:
            for kind, server in running.items():
                longest_ms.setdefault(kind, []).append(longest_put_ns(server.address, clients) / 1e6)
    name = f"longest put of {ROTATIONS} rotations, {clients} clients".replace(" 1 clients", " 1 client")
    log_table.rounds[name] = Row(longest_ms, "{:.2f} ms")
    assert [len(each) for each in longest_ms.values()] == [ROUNDS] * len(longest_ms)


def longest_put_ns(address, clients):
    """Puts until so many segments have been begun; how long the longest of them took."""
    last = statistics_of(address)["binlog-current-index"] + ROTATIONS
    longest_ns = 0
    with Load(address, "put", clients=clients, body_bytes=BODY_BYTES) as load:
        while statistics_of(address)["binlog-current-index"] < last:
            longest_ns = max(longest_ns, load.run(SLICE_OPERATIONS).latencies.max_ns)
    return longest_ns
