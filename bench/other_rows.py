"""The rows of docs/performance.md that the load tool does not measure: restarts, memory, waits, the heap."""

from __future__ import annotations

import os
import shutil
import time

from fastbean.benchmark.load import run as play
from fastbean.benchmark.server import Target

from .binlog_tools import new_directory, restart, write_full_directories
from .compiled import load_compiled
from .contestants import BEANSTALKD, BODY_BYTES, FASTBEAN, KINDS, MissingError, running
from .heaps import (
    BUILDERS,
    CAN_REMOVE,
    CIMPORT,
    CONTENDERS,
    COUNT,
    EXCHANGERS,
    HEAPQ,
    LARGE_COUNT,
    PRIORITY_HEAP,
    PRIORITY_QUEUE,
    PUSHPOP,
    REPLACE,
    Items,
    seconds_in_threads,
    seconds_of,
)
from .long_commands import kick_buried, leave, longest_wait_ms, quiet
from .results import Claim
from .rows import JOBS, PAIR, Row
from .scale_tools import idle_connections

IDLE = 5_000
IDLE_BEFORE = 100
MEMORY_ROUNDS = 2  # rounds hardly differ
SETTLE_S = 3
MOST_THREADS = 4
ONE_THREAD, ALL_THREADS = "one thread", "all threads"


def resident_bytes(server):
    """The resident memory of a server."""
    return Target("{}:{}".format(*server.address), server.process.pid).resident_bytes()


def restarts(run):
    """Seconds until the first reply of a server that was killed with many jobs, and its memory then."""
    folder = new_directory(run.folder / "full")
    kinds = write_full_directories(folder, PAIR, JOBS, run.missing)
    series = {kind: {"s": [], "loading_s": [], "bytes": []} for kind in kinds}
    for _ in range(run.rounds):
        for kind in kinds:
            empty_s, _ = restart(kind, folder, new_directory(folder / "empty"), 0)
            seconds, held = restart(kind, folder, folder / kind, JOBS, resident_bytes)
            series[kind]["s"].append(seconds)
            series[kind]["loading_s"].append(seconds - empty_s)
            series[kind]["bytes"].append(held)
    shutil.rmtree(folder)
    return series


def memory(run):
    """The memory of a server with many jobs, and a few seconds after they are deleted."""
    series = {}
    for _ in range(min(run.rounds, MEMORY_ROUNDS)):
        with running(PAIR, run.folder, run.missing) as servers:
            for kind, server in servers.items():
                found = series.setdefault(kind, {"peak_bytes": [], "left_bytes": [], "left": []})
                play(server.address, "put", clients=16, depth=100, operations=JOBS, body_bytes=BODY_BYTES)
                found["peak_bytes"].append(resident_bytes(server))
                play(server.address, "take", clients=16, depth=100, operations=JOBS)
                # A server that returned memory to the system at once would pay for it when the queue fills again.
                time.sleep(SETTLE_S)
                found["left_bytes"].append(resident_bytes(server))
                found["left"].append(found["left_bytes"][-1] / found["peak_bytes"][-1])
    return series


def idle(run):
    """The memory that each of many idle connections adds to a server."""
    series = {}
    for _ in range(min(run.rounds, MEMORY_ROUNDS)):
        with running(KINDS, run.folder, run.missing) as servers:
            for kind, server in servers.items():
                with idle_connections(server.address, IDLE_BEFORE):
                    pass
                before = resident_bytes(server)
                with idle_connections(server.address, IDLE):
                    grown = resident_bytes(server) - before
                series.setdefault(kind, {"bytes": []})["bytes"].append(grown / IDLE)
    return series


def waits_during(step):
    """Measures the longest wait of another client, on this server and on one that has nothing else to do."""

    def measure(run):
        series = {FASTBEAN: {"ms": []}, "quiet": {"ms": []}}
        for _ in range(run.rounds):
            series["quiet"]["ms"].append(longest_wait_ms(FASTBEAN, run.folder, quiet))
            series[FASTBEAN]["ms"].append(longest_wait_ms(FASTBEAN, run.folder, step))
        return series

    return measure


def heaps(names, remove):
    """Measures the seconds that heaps take from Python."""

    def measure(run):
        given = Items(COUNT)
        series = {name: {"s": []} for name in names}
        for _ in range(run.rounds):
            for name in names:
                series[name]["s"].append(seconds_of(CONTENDERS[name], given, remove))
        return series

    return measure


def built_heaps(run):
    """The seconds in which heaps are built from many entries."""
    given = Items(COUNT)
    series = {name: {"s": []} for name in BUILDERS}
    for _ in range(run.rounds):
        for name, build in BUILDERS.items():
            series[name]["s"].append(seconds_of(build, given))
    return series


def exchanges(operation):
    """Measures the seconds in which heaps exchange their smallest item for another one, again and again."""

    def measure(run):
        given = Items(COUNT)
        heaps = {name: build(given) for name, build in BUILDERS.items()}
        series = {name: {"s": []} for name in heaps}
        for _ in range(run.rounds):
            for name, heap in heaps.items():
                series[name]["s"].append(seconds_of(EXCHANGERS[name], heap, given, operation))
        return series

    return measure


def heaps_from_c(count):
    """Measures the seconds that the heap takes through cimport, and std::priority_queue."""

    def measure(run):
        race = _race(run)
        if race is None:
            return {}
        functions = {CIMPORT: race.through_cimport, PRIORITY_QUEUE: race.through_priority_queue}
        series = {label: {"s": []} for label in functions}
        for _ in range(run.rounds):
            for label, function in functions.items():
                series[label]["s"].append(function(count))
        return series

    return measure


def threads(run):
    """Heaps filled and emptied per second, by one thread and by several."""
    race = _race(run)
    if race is None:
        return {}
    count = min(MOST_THREADS, len(os.sched_getaffinity(0)))
    series = {ONE_THREAD: {"rate": []}, ALL_THREADS: {"rate": []}}
    for _ in range(run.rounds):
        for label, number in ((ONE_THREAD, 1), (ALL_THREADS, count)):
            series[label]["rate"].append(number / seconds_in_threads(race.through_cimport, LARGE_COUNT, number))
    run.notes.append(f"{count} threads")
    return series


def _race(run):
    try:
        return load_compiled("heap_race", run.folder)
    except MissingError as missing:
        run.missing["C++"] = str(missing)
        return None


def times_as_fast(of, than, at_least=None):
    """The claim about the time of one label divided by that of another one."""
    return Claim(f"speed / {than}", "s", than, of, at_least=at_least)


BETTER = tuple(times_as_fast(PRIORITY_HEAP, name, 1) for name in CAN_REMOVE if name != PRIORITY_HEAP)
WAIT = (
    Claim("longest wait of another client, ms", "ms", FASTBEAN, None, at_most=20, form="{:.1f}"),
    Claim("the same with nothing else to do, ms", "ms", "quiet", None, form="{:.1f}"),
)

OTHER_ROWS = (
    Row(
        "restart",
        "restart with 1,000,000 jobs of 64 bytes in the binlog",
        restarts,
        (
            times_as_fast(FASTBEAN, BEANSTALKD, 10),
            Claim("the same, less a start without jobs", "loading_s", BEANSTALKD, FASTBEAN),
        ),
        "12",
        (12, 12),
    ),
    Row(
        "memory",
        "resident memory with 1,000,000 jobs of 64 bytes",
        memory,
        (
            Claim("bytes / beanstalkd", "peak_bytes", FASTBEAN, BEANSTALKD, at_most=0.72),
            Claim("3 s after deletion, of its peak", "left", FASTBEAN, None, at_most=0.2),
        ),
        "1.0",
        required=True,
    ),
    Row(
        "idle",
        f"an idle client (of {IDLE:,})",
        idle,
        (Claim("resident, KiB", "bytes", FASTBEAN, None, at_most=2, scale=1 / 1024),),
    ),
    Row("kick", "500,000 jobs kicked by one command", waits_during(kick_buried), WAIT),
    Row("leave", "500,000 jobs released by a client that disconnects", waits_during(leave), WAIT),
)

HEAP_ROWS = (
    Row(
        "heap-python",
        f"from Python: push and pop {COUNT:,} items",
        heaps(tuple(CONTENDERS), remove=False),
        tuple(
            times_as_fast(PRIORITY_HEAP, name, 4 if name == HEAPQ else 1)
            for name in CONTENDERS
            if name != PRIORITY_HEAP
        ),
    ),
    Row(
        "heap-remove",
        f"from Python: push {COUNT:,}, remove half from the middle, pop the others",
        heaps(CAN_REMOVE, remove=True),
        BETTER,
    ),
    Row(
        "heap-build",
        f"from Python: build from {COUNT:,} entries (heapify)",
        built_heaps,
        (times_as_fast(PRIORITY_HEAP, HEAPQ, 2),),
    ),
    *(
        Row(
            f"heap-{operation}",
            f"from Python: {COUNT:,} times {operation} in a heap of {COUNT:,} items",
            exchanges(operation),
            (times_as_fast(PRIORITY_HEAP, HEAPQ, 2),),
        )
        for operation in (PUSHPOP, REPLACE)
    ),
    Row(
        "heap-cimport-200k",
        f"from C: push and pop {COUNT:,} elements of 24 bytes",
        heaps_from_c(COUNT),
        (times_as_fast(CIMPORT, PRIORITY_QUEUE, 1 / 1.05),),
    ),
    Row(
        "heap-cimport-1m",
        f"from C: push and pop {LARGE_COUNT:,} elements of 24 bytes",
        heaps_from_c(LARGE_COUNT),
        (times_as_fast(CIMPORT, PRIORITY_QUEUE, 1 / 1.15),),
    ),
    Row(
        "heap-threads",
        "from C: several threads, each with a heap of its own, no GIL",
        threads,
        (Claim("rate / one thread", "rate", ALL_THREADS, ONE_THREAD),),
        everywhere=True,
    ),
)
