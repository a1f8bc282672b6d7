"""The rows of docs/performance.md about connections that come and go, growing queues, slow disks and busy programs."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass

from fastbean.benchmark.load import Load, cpu_ns

from .binlog_tools import new_directory, with_binlog
from .contestants import (
    BEANSTALKD,
    FASTBEAN,
    SERVER_PROCESSOR,
    Contestant,
    MissingError,
    connect_to,
    free_port,
    on_processor,
    running,
    slow_sync,
    start,
)
from .results import Claim, cpu, rate
from .rounds import LEAST_OPERATIONS, LEAST_ROUNDS
from .rows import LARGE_BODY_BYTES, PAIR, PLAYED_ROWS, Row
from .visits import begin, bursts, outcome, take_away, visit

VISITORS = 50
VISITS_OF_A_SECOND = 15_000  # about as many as there are
BURST = 1_000  # both servers' backlogs are a little longer
MOST_VISITORS = 400  # at a fixed rate; a stall of a tenth of a second needs 300
VISITS_PER_S = 3_000
WORKERS = 50
WARM_UP = 500
GROWING_JOBS = 4_000
EMBEDDED_CLIENTS = 10
SLOW_SYNC_US = 200_000
SLOW_S = 3.0  # under -F, the puts of this time use up many more ids than the server makes safe at once
MOST_WAIT_MS = 5
FLOOD_CLIENTS, FLOOD_DEPTH = 1, 500
IN_A_THREAD, IN_A_PROCESS = "beside a thread", "beside a process"


def add(series, label, **figures):
    """Adds one round to the series."""
    found = series.setdefault(label, {})
    for measure, value in figures.items():
        found.setdefault(measure, []).append(value)


def add_result(series, label, result, used_ns):
    """Adds a round of the load tool."""
    quantile = result.latencies.quantile_ns
    add(series, label, rate=result.rate, cpu_us=used_ns / 1000 / result.operations)
    add(series, label, p50_us=quantile(0.5) / 1000, p99_us=quantile(0.99) / 1000)


@dataclass(frozen=True)
class Measure:
    """Alternating rounds of `play(run, server)` on the servers. The members are those of `Played`."""

    kinds: tuple[str, ...] = PAIR
    least: int = LEAST_OPERATIONS
    rounds: int = 1

    def __call__(self, run):
        series = {}
        begun_s = time.monotonic()
        with self.prepared(run) as servers:
            for number in range(run.rounds * self.rounds + 1):
                is_late = run.budget_s is not None and time.monotonic() - begun_s > run.budget_s
                if is_late and number > LEAST_ROUNDS:
                    break
                for kind in self.kinds_of(run, servers):
                    found = {} if number == 0 else series  # the first round warms up
                    self.play(run, kind, servers, found)
        return series

    def prepared(self, run):
        """The servers of all rounds."""
        return running(self.kinds, run.folder, run.missing)

    def kinds_of(self, _run, servers):
        """The servers that can run here."""
        return tuple(servers)


class Visits(Measure):
    """Short connections, one after the other."""

    def play(self, run, kind, servers, series):
        server = servers[kind]
        used_ns = -cpu_ns(server.process.pid)
        found = outcome(self.begin(run, server))
        used_ns += cpu_ns(server.process.pid)
        take_away(server, found.operations)
        add(series, kind, rate=found.rate, cpu_us=used_ns / 1000 / found.operations)
        add(series, kind, p50_us=found.p50_ns / 1000, p99_us=found.p99_ns / 1000)

    def begin(self, run, server):
        """Starts the clients of a round."""
        return visit(run.folder, server, VISITORS, max(self.least, int(run.round_s * VISITS_OF_A_SECOND)))


class Bursts(Visits):
    """Short connections that all wait for the server at once."""

    def begin(self, run, server):
        return bursts(run.folder, server, BURST, max(1, int(run.round_s * VISITS_OF_A_SECOND / BURST)))


class WorkersBesideVisits(Measure):
    """Workers in a closed loop, while short connections come at a fixed rate."""

    def play(self, run, kind, servers, series):
        server = servers[kind]
        seconds = max(run.round_s, 0.5)
        visits = int(VISITS_PER_S * seconds * 1.2)
        with Load(server.address, "cycle", clients=WORKERS) as load:
            load.run(WARM_UP)
            visiting = visit(run.folder, server, MOST_VISITORS, visits, VISITS_PER_S)
            used_ns = -cpu_ns(server.process.pid)
            result = load.run(seconds=seconds)
            used_ns += cpu_ns(server.process.pid)
        found = outcome(visiting)
        take_away(server, visits)
        add_result(series, kind, result, used_ns)
        if series:
            add(series, kind, visits=found.rate, visit_p99_us=found.p99_ns / 1000)


class Growing(Measure):
    """Large jobs put into a server that is new in each round: its queue, and its memory, only grow."""

    def prepared(self, _run):
        return contextlib.nullcontext(self.kinds)

    def play(self, run, kind, _servers, series):
        try:
            server = start(kind, run.folder)
        except MissingError as error:
            run.missing[kind] = str(error)
            return
        try:
            with Load(server.address, "put", clients=50, body_bytes=LARGE_BODY_BYTES) as load:
                load.run(50)
                used_ns = -cpu_ns(server.process.pid)
                result = load.run(GROWING_JOBS)
                used_ns += cpu_ns(server.process.pid)
        finally:
            server.kill()
        add_result(series, kind, result, used_ns)


def embedded(run):
    """A server in a program that computes in another thread, and in one where another process computes."""
    series = {}
    for _ in range(run.rounds):
        for label, where in ((IN_A_THREAD, "thread"), (IN_A_PROCESS, "process")):
            with program(run.folder, where) as server, Load(server.address, "cycle", clients=EMBEDDED_CLIENTS) as load:
                load.run(EMBEDDED_CLIENTS)
                result = load.run(seconds=run.round_s)
            add(series, label, rate=result.rate, p50_us=result.latencies.quantile_ns(0.5) / 1000)
            add(series, label, p99_us=result.latencies.quantile_ns(0.99) / 1000)
    return series


@contextlib.contextmanager
def program(folder, where):
    """Runs bench/embedded.py."""
    port = free_port()
    words = [sys.executable, "-m", "bench.embedded", str(port), where]
    with (folder / f"{FASTBEAN}.log").open("wb") as errors, on_processor(SERVER_PROCESSOR):
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=errors, stderr=errors)
    with process:
        server = Contestant(FASTBEAN, ("127.0.0.1", port), process)
        connect_to(server, folder).close()
        try:
            yield server
        finally:
            process.stdin.close()


def waits_on_a_slow_disk(*flags):
    """Measures the longest wait of a client that only asks, while another one puts and each sync takes 200 ms."""

    def measure(run):
        series = {}
        for _ in range(run.rounds):
            for label, sync_us in (("quiet", 0), (FASTBEAN, SLOW_SYNC_US)):
                add(series, label, ms=longest_wait_ms(run, flags, sync_us))
        return series

    return measure


def longest_wait_ms(run, flags, sync_us):
    """The longest wait of the asker; with a `sync_us` of 0 nothing is put."""
    directory = new_directory(run.folder / FASTBEAN)
    environment = slow_sync(run.folder, sync_us) if sync_us else None
    server = start(FASTBEAN, run.folder, with_binlog(directory, flags), environment)
    try:
        with Load(server.address, "put", clients=FLOOD_CLIENTS, depth=FLOOD_DEPTH, limit_s=60) as load:
            load.run(1)  # a server accepts connections before it has opened its binlog
            asking = begin(run.folder, "ask", server.address[1], SLOW_S)
            if sync_us:
                load.run(seconds=SLOW_S)
            return outcome(asking).longest_ns / 1e6
    finally:
        server.stop()
        shutil.rmtree(directory)


def _slow_disk(name, *flags):
    flag = " ".join(flags)
    return Row(
        f"slow-disk-{name}",
        f"`-b {flag}`, each sync takes 200 ms, one client puts: a client that asks `list-tube-used`",
        waits_on_a_slow_disk(*flags),
        (
            Claim("longest wait, ms", "ms", FASTBEAN, None, at_most=MOST_WAIT_MS, form="{:.1f}"),
            Claim("the same with nothing else to do, ms", "ms", "quiet", None, form="{:.1f}"),
        ),
    )


CONNECTION_ROWS = (
    Row(
        "visits",
        f"{VISITORS} clients: connect, use, put, quit",
        Visits(),
        (rate(BEANSTALKD), cpu(BEANSTALKD, 0.9)),
    ),
    Row(
        "visits-burst",
        f"{BURST:,} clients at once: connect, use, put, quit",
        Bursts(),
        (rate(BEANSTALKD, 1.2), cpu(BEANSTALKD, 0.9)),
    ),
    Row(
        "workers-visits",
        f"{WORKERS} clients beside {VISITS_PER_S:,} short connections a second",
        WorkersBesideVisits(),
        (
            rate(BEANSTALKD),
            Claim(f"99th percentile / {BEANSTALKD}", "p99_us", FASTBEAN, BEANSTALKD),
            cpu(BEANSTALKD),
            Claim("short connections a second", "visits", FASTBEAN, None, form="{:,.0f}"),
        ),
    ),
    Row(
        "put-60k-growing",
        "50 clients: put, bodies of 60 KB, into a new server",
        Growing(),
        (rate(BEANSTALKD, 1.0), cpu(BEANSTALKD)),
    ),
)
SERVER_ROWS = (*PLAYED_ROWS, *CONNECTION_ROWS)

PROGRAM_ROWS = (
    Row(
        "embedded",
        f"a server in a program that computes in another thread, {EMBEDDED_CLIENTS} clients: put, reserve, delete",
        embedded,
        (
            Claim("rate / computing in another process", "rate", IN_A_THREAD, IN_A_PROCESS, at_least=0.9),
            Claim("99th percentile / the same", "p99_us", IN_A_THREAD, IN_A_PROCESS, at_most=1.5),
        ),
    ),
    _slow_disk("F", "-F"),
    _slow_disk("f50", "-f", "50"),
    _slow_disk("f0", "-f", "0"),
)
