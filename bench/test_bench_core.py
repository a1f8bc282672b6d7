"""PriorityHeap beside heapq, sortedcontainers, pqdict and C++'s std::priority_queue; heaps of several threads."""

import os

import pytest

from .compiled import load_compiled
from .contestants import MissingError
from .heaps import CAN_REMOVE, CIMPORT, CONTENDERS, COUNT, LARGE_COUNT, PRIORITY_QUEUE, Items, seconds_in_threads

ROUNDS = 3


@pytest.fixture(scope="module")
def given():
    return Items(COUNT)


@pytest.fixture(scope="module")
def race(tmp_path_factory):
    try:
        return load_compiled("heap_race", tmp_path_factory.mktemp("heap_race"))
    except MissingError as missing:
        pytest.skip(str(missing))


@pytest.mark.benchmark(group=f"heap: push and pop {COUNT:,} items")
@pytest.mark.parametrize("name", CONTENDERS)
def test_push_and_pop(benchmark, given, name):
    benchmark.pedantic(CONTENDERS[name], args=(given, False), rounds=ROUNDS, warmup_rounds=1)
    assert benchmark.stats.stats.min > 0


@pytest.mark.benchmark(group=f"heap: push {COUNT:,} items, remove half of them from the middle, pop the others")
@pytest.mark.parametrize("name", CAN_REMOVE)
def test_remove(benchmark, given, name):
    benchmark.pedantic(CONTENDERS[name], args=(given, True), rounds=ROUNDS, warmup_rounds=1)
    assert benchmark.stats.stats.min > 0


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


@pytest.mark.benchmark(group=f"heap from C: threads with heaps of their own, push and pop {LARGE_COUNT:,} elements")
@pytest.mark.parametrize("threads", sorted({1, min(4, os.cpu_count() or 1)}))
def test_threads(benchmark, race, threads):
    taken_s = benchmark.pedantic(
        seconds_in_threads, args=(race.through_cimport, LARGE_COUNT, threads), rounds=ROUNDS, warmup_rounds=1
    )
    assert taken_s > 0
