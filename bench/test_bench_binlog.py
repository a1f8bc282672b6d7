"""The binlog compared with beanstalkd's: rates under the sync policies, restarts, disk space, rotations.

The directories are pytest's, so `--basetemp` chooses the disk; both servers use the same one. The rows "sync of 1 ms"
imitate a slower disk: in both servers each fsync and fdatasync then takes a millisecond or longer.

A restart is timed from the start of a server to its first reply. The server was killed before; its files are on the
disk and in the page cache, and each round starts from the same ones. Disk space: both servers allocate segments ahead
and fill them with zeros, so the bytes of the records are those up to the last byte of each file that is not zero,
headers included; the allocated space is a row of its own. Rotations: segments are so small that one is full after a few
hundred puts; the longest put up to the hundredth rotation is measured.
"""

import shutil
import sys

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("the load tool needs Linux's epoll", allow_module_level=True)

from fastbean.benchmark.load import Load, run

from .binlog_tools import (
    KINDS,
    BinlogScenario,
    Row,
    allocated_bytes,
    new_directory,
    record_bytes,
    restart,
    servers,
    statistics_of,
    sync_times_us,
    write_full_directories,
)
from .contestants import BODY_BYTES, FASTBEAN, MissingError
from .rounds import CYCLE_50, PUT_1, PUT_16_PIPELINED, PUT_50, PUT_64, ROUNDS, alternate, cpu, spread

pytestmark = pytest.mark.long

SYNC_EACH = "-f 0"
DISK_ROUNDS = 15
LEAST_OPERATIONS = 128
SYNC_OPERATIONS = 4_096
JOBS = 1_000_000
ROTATIONS = 100
SMALL_SEGMENT_BYTES = 65_536
SLICE_OPERATIONS = 1_000

SCENARIOS = (
    BinlogScenario(PUT_1, SYNC_EACH, wanted=">= 0.95", rounds=DISK_ROUNDS),
    BinlogScenario(PUT_64, SYNC_EACH, wanted=">= 10", rounds=DISK_ROUNDS),
    BinlogScenario(PUT_1, SYNC_EACH, sync_us=1000),
    BinlogScenario(PUT_64, SYNC_EACH, sync_us=1000),
    BinlogScenario(PUT_50, "-f 50"),
    BinlogScenario(CYCLE_50, "-f 50"),
    BinlogScenario(PUT_16_PIPELINED, "-f 50", wanted=">= 8"),
)


def test_syncs_of_the_disk(tmp_path, binlog_table):
    times_us = sync_times_us(tmp_path, BODY_BYTES)
    assert len(times_us) > 0
    binlog_table.notes.append(f"syncs of this disk take, in us: {spread(times_us, '{:.0f}')}")


@pytest.mark.usefixtures("own_processor")
@pytest.mark.parametrize("wanted", SCENARIOS, ids=lambda each: each.name)
def test_rates(tmp_path, binlog_table, wanted):
    try:
        with servers(tmp_path, binlog_table.missing, wanted.policy.split(), wanted.sync_us) as running:
            rounds = alternate(list(running.values()), wanted.scenario, wanted.rounds, LEAST_OPERATIONS)
            beside = cpu_of(rounds)
            if wanted.policy == SYNC_EACH:
                beside += f"; {puts_a_sync(running[FASTBEAN], wanted.scenario):.1f} puts a sync of fastbean"
    except MissingError as missing:
        pytest.skip(str(missing))
    rates = {kind: [each.rate for each in measured] for kind, measured in rounds.items()}
    binlog_table.rounds[wanted.name] = Row(rates, "{:,.0f}/s", wanted.wanted, beside)
    assert {kind: len(measured) for kind, measured in rates.items()} == dict.fromkeys(rates, wanted.rounds)


def cpu_of(rounds):
    """The CPU time of each server per operation."""
    return "CPU " + ", ".join(f"{cpu(rounds.get(kind))}" for kind in KINDS) + " us"


def puts_a_sync(server, scenario):
    """The puts per sync of fastbean, in an additional round."""
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
def full_directories(tmp_path_factory, binlog_table):
    """A folder with a directory of JOBS jobs for each server that can run here; see write_full_directories."""
    folder = tmp_path_factory.mktemp("full")
    yield folder, write_full_directories(folder, KINDS, JOBS, binlog_table.missing)
    shutil.rmtree(folder)


def test_room_on_disk(full_directories, binlog_table):
    folder, kinds = full_directories
    for name, of, wanted in (
        ("records", record_bytes, "<= 0.67"),
        ("all that is allocated", allocated_bytes, ""),
    ):
        bytes_each = {kind: [of(folder / kind) / JOBS] for kind in kinds}
        binlog_table.rounds[f"bytes on disk, job of {BODY_BYTES}: {name}"] = Row(bytes_each, "{:.1f}", wanted)
        assert min(min(values) for values in bytes_each.values()) > BODY_BYTES


@pytest.mark.usefixtures("own_processor")
def test_restart(full_directories, binlog_table):
    folder, kinds = full_directories
    restarts_s = {kind: [] for kind in kinds}
    rates = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind in kinds:
            empty_s, _ = restart(kind, folder, new_directory(folder / "empty"), 0)
            full_s, _ = restart(kind, folder, folder / kind, JOBS)
            restarts_s[kind].append(full_s)
            rates[kind].append(JOBS / (full_s - empty_s))
    binlog_table.rounds[f"restart with {JOBS:,} jobs"] = Row(restarts_s, "{:.3f} s", "<= 0.125")
    binlog_table.rounds["the same, less a start without jobs"] = Row(rates, "{:,.0f}/s", "", "2,000,000/s are wanted")
    assert [len(each) for each in restarts_s.values()] == [ROUNDS] * len(kinds)


@pytest.mark.usefixtures("own_processor")
@pytest.mark.parametrize("clients", [1, 16])
def test_longest_put_of_many_rotations(tmp_path, binlog_table, clients):
    longest_ms = {}
    for _ in range(ROUNDS):
        with servers(tmp_path, binlog_table.missing, ["-s", str(SMALL_SEGMENT_BYTES)]) as running:
            for kind, server in running.items():
                longest_ms.setdefault(kind, []).append(longest_put_ns(server.address, clients) / 1e6)
    name = f"longest put of {ROTATIONS} rotations, {clients} clients".replace(" 1 clients", " 1 client")
    binlog_table.rounds[name] = Row(longest_ms, "{:.2f} ms")
    assert [len(each) for each in longest_ms.values()] == [ROUNDS] * len(longest_ms)


def longest_put_ns(address, clients):
    """Puts until ROTATIONS segments have been started; returns the time of the longest put."""
    last = statistics_of(address)["binlog-current-index"] + ROTATIONS
    longest_ns = 0
    with Load(address, "put", clients=clients, body_bytes=BODY_BYTES) as load:
        while statistics_of(address)["binlog-current-index"] < last:
            longest_ns = max(longest_ns, load.run(SLICE_OPERATIONS).latencies.max_ns)
    return longest_ns
