"""PriorityHeap compared with heapq; marked long: with sortedcontainers, pqdict, std::priority_queue; in threads."""

import os

import pytest

from .compiled import load_compiled
from .contestants import MissingError
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
    SHORT_COUNT,
    Items,
    seconds_in_threads,
)

ROUNDS = 3


@pytest.fixture(scope="module")
def given():
    return Items(COUNT)


@pytest.fixture(scope="module")
def few():
    return Items(SHORT_COUNT)


@pytest.fixture(scope="module")
def race(tmp_path_factory):
    try:
        return load_compiled("heap_race", tmp_path_factory.mktemp("heap_race"))
    except MissingError as missing:
        pytest.skip(str(missing))


@pytest.mark.benchmark(group=f"heap: push and pop {SHORT_COUNT:,} items")
@pytest.mark.parametrize("name", [PRIORITY_HEAP, HEAPQ])
def test_push_and_pop_beside_heapq(benchmark, few, name):
    benchmark.pedantic(CONTENDERS[name], args=(few, False), rounds=ROUNDS, warmup_rounds=1)
    assert benchmark.stats.stats.min > 0


@pytest.mark.benchmark(group=f"heap: build from {SHORT_COUNT:,} entries")
@pytest.mark.parametrize("name", BUILDERS)
def test_build(benchmark, few, name):
    heap = benchmark.pedantic(BUILDERS[name], args=(few,), rounds=ROUNDS, warmup_rounds=1)
    assert len(heap) == SHORT_COUNT


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(name, marks=pytest.mark.benchmark(group=f"heap: {SHORT_COUNT:,} times {name}"))
        for name in (PUSHPOP, REPLACE)
    ],
)
@pytest.mark.parametrize("name", EXCHANGERS)
def test_exchange(benchmark, few, name, operation):
    heap = BUILDERS[name](few)
    benchmark.pedantic(EXCHANGERS[name], args=(heap, few, operation), rounds=ROUNDS, warmup_rounds=1)
    assert len(heap) == SHORT_COUNT


@pytest.mark.long
@pytest.mark.benchmark(group=f"heap: push and pop {COUNT:,} items")
@pytest.mark.parametrize("name", CONTENDERS)
def test_push_and_pop(benchmark, given, name):
    benchmark.pedantic(CONTENDERS[name], args=(given, False), rounds=ROUNDS, warmup_rounds=1)
    assert benchmark.stats.stats.min > 0


@pytest.mark.long
@pytest.mark.benchmark(group=f"heap: push {COUNT:,} items, remove half of them from the middle, pop the others")
@pytest.mark.parametrize("name", CAN_REMOVE)
def test_remove(benchmark, given, name):
    benchmark.pedantic(CONTENDERS[name], args=(given, True), rounds=ROUNDS, warmup_rounds=1)
    assert benchmark.stats.stats.min > 0


@pytest.mark.long
@pytest.mark.parametrize(
    "count",
    [
        pytest.param(count, marks=pytest.mark.benchmark(group=f"heap from C: push and pop {count:,} elements"))
        for count in (COUNT, LARGE_COUNT)
    ],
)
@pytest.mark.parametrize("name", [CIMPORT, PRIORITY_QUEUE])
def test_from_c(benchmark, race, name, count):
    function = race.through_cimport if name == CIMPORT else race.through_priority_queue
    taken_s = benchmark.pedantic(function, args=(count,), rounds=ROUNDS, warmup_rounds=1)
    assert taken_s > 0


@pytest.mark.long
@pytest.mark.benchmark(group=f"heap from C: threads with heaps of their own, push and pop {LARGE_COUNT:,} elements")
@pytest.mark.parametrize("threads", sorted({1, min(4, os.cpu_count() or 1)}))
def test_threads(benchmark, race, threads):
    taken_s = benchmark.pedantic(
        seconds_in_threads, args=(race.through_cimport, LARGE_COUNT, threads), rounds=ROUNDS, warmup_rounds=1
    )
    assert taken_s > 0
