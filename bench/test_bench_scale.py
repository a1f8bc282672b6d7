"""What many connections, tubes and jobs cost: rates beside idle connections, waits beside long commands, memory.

No test asserts a time. Rounds with the additional load and without it alternate, so each ratio is one of measurements
made right after each other. The longest wait is shown as the median of the rounds, and compared with that of a quiet
server, because on a shared machine the highest of all says little.
"""

import sys
import time

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("the load tool needs Linux's epoll", allow_module_level=True)

from fastbean.benchmark.load import Load, cpu_ns

from .contestants import FASTBEAN, start
from .long_commands import (
    JOBS,
    TUBES,
    delays_end,
    kick_buried,
    kick_delayed,
    leave,
    list_all_tubes,
    longest_wait_ms,
    quiet,
    reservations_end,
)
from .rounds import ratios_of, spread
from .scale_tools import (
    Findings,
    anonymous_bytes,
    ask,
    clients_that_never_read,
    connect,
    flood,
    idle_connections,
    many_descriptors,
)

IDLE = 10_000
ROUNDS = 5
WAIT_ROUNDS = 3
POOL = 50
POOL_OPERATIONS = 10_000
SILENT = 10
BODY_BYTES = 60_000

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("own_processor")]


@pytest.fixture(scope="module")
def findings(request):
    collected = Findings()
    request.config.pluginmanager.register(collected)
    return collected


@pytest.fixture
def server(tmp_path):
    """A fastbean for one test."""
    running = start(FASTBEAN, tmp_path)
    yield running
    running.stop()


def pool_round(server):
    """The pool's rate in jobs per second, its 99th percentile in ns, and the server's CPU time per job in ns."""
    with Load(server.address, "cycle", clients=POOL) as load:
        load.run(POOL)
        before_ns = cpu_ns(server.process.pid)
        result = load.run(POOL_OPERATIONS)
        used_ns = cpu_ns(server.process.pid) - before_ns
    assert result.operations == POOL_OPERATIONS
    return result.rate, result.latencies.quantile_ns(0.99), used_ns / POOL_OPERATIONS


def ratios(with_it, without, place):
    """Round by round, the ratio of one figure."""
    return ratios_of([each[place] for each in with_it], [each[place] for each in without])


def test_a_pool_beside_idle_connections(server, findings):
    alone, beside = [], []
    with many_descriptors() as limit:
        count = min(IDLE, limit - 500)
        for _ in range(ROUNDS):
            alone.append(pool_round(server))
            with idle_connections(server.address, count):
                beside.append(pool_round(server))
    findings.add(f"pool of {POOL} beside {count} idle connections: rate", spread(ratios(beside, alone, 0)))
    findings.add("  CPU time for a job", spread(ratios(beside, alone, 2)))
    findings.add("  99th percentile", spread(ratios(beside, alone, 1)))


def test_a_pool_beside_clients_that_never_read(server, findings):
    with connect(server.address) as maintainer:
        assert ask(maintainer, b"use large\r\n") == b"USING large\r\n"
        put = b"put 0 0 600 %d\r\n%s\r\n" % (BODY_BYTES, b"x" * BODY_BYTES)
        assert ask(maintainer, put) == b"INSERTED 1\r\n"
    alone, beside = [], []
    for _ in range(ROUNDS):
        alone.append(pool_round(server))
        with clients_that_never_read(server.address, SILENT, b"peek 1\r\n"):
            beside.append(pool_round(server))
    what = f"pool of {POOL} beside {SILENT} clients that never read: 99th percentile"
    findings.add(what, spread(ratios(beside, alone, 1)))
    findings.add("  rate", spread(ratios(beside, alone, 0)))


def test_idle_cpu(server, findings):
    with many_descriptors() as limit, idle_connections(server.address, min(IDLE, limit - 500)):
        before_ns, began_ns = cpu_ns(server.process.pid), time.monotonic_ns()
        time.sleep(3)
        used = (cpu_ns(server.process.pid) - before_ns) / (time.monotonic_ns() - began_ns)
        with connect(server.address) as client:
            assert ask(client, b"list-tube-used\r\n") == b"USING default\r\n"
    findings.add(f"CPU used with {IDLE} idle connections", f"{used:.4%}")


def test_memory_of_connections(server, findings):
    with many_descriptors() as limit:
        count = min(IDLE, limit - 500)
        with idle_connections(server.address, 100):
            pass
        before = anonymous_bytes(server.process.pid)
        with idle_connections(server.address, count):
            grown = anonymous_bytes(server.process.pid) - before
    assert grown > 0
    findings.add(f"memory of one of {count} idle connections", f"{grown / count:.0f} bytes")


def test_memory_of_tubes_and_jobs(server, findings):
    with connect(server.address) as client:
        before = anonymous_bytes(server.process.pid)
        flood(client, [b"watch tube-%06d\r\n" % number for number in range(TUBES)])
        tubes = anonymous_bytes(server.process.pid)
        flood(client, [b"put 0 0 60 1\r\nx\r\n"] * JOBS)
        jobs = anonymous_bytes(server.process.pid)
    assert before < tubes < jobs
    findings.add(f"memory of one of {TUBES} tubes", f"{(tubes - before) / TUBES:.0f} bytes")
    findings.add(f"memory of one of {JOBS} ready jobs of one byte", f"{(jobs - tubes) / JOBS:.0f} bytes")


@pytest.mark.parametrize(
    "step", [quiet, kick_buried, kick_delayed, leave, delays_end, reservations_end, list_all_tubes]
)
def test_longest_wait_of_another_client(tmp_path, findings, step):
    waits_ms = [longest_wait_ms(FASTBEAN, tmp_path, step) for _ in range(WAIT_ROUNDS)]
    assert min(waits_ms) > 0
    findings.add(f"longest wait of another client: {step.__name__}", spread(waits_ms, "{:.1f}") + " ms")
