"""PriorityHeap beside heapq with (priority, counter, item) tuples: the same 20,000 items in, and out again."""

import heapq
import itertools
import random

import pytest

from fastbean._core import PriorityHeap

COUNT = 20_000
PRIORITIES = random.Random(1).choices(range(2**32), k=COUNT)
ITEMS = [object() for _ in range(COUNT)]


def through_priority_heap():
    heap = PriorityHeap()
    for priority, item in zip(PRIORITIES, ITEMS, strict=True):
        heap.push(item, priority)
    while heap:
        item = heap.pop()
    return item


def through_heapq():
    heap = []
    counter = itertools.count()
    for priority, item in zip(PRIORITIES, ITEMS, strict=True):
        heapq.heappush(heap, (priority, next(counter), item))
    while heap:
        item = heapq.heappop(heap)[2]
    return item


@pytest.mark.benchmark(group=f"heap: push and pop {COUNT} items")
@pytest.mark.parametrize("run", [through_priority_heap, through_heapq], ids=["PriorityHeap", "heapq"])
def test_push_and_pop(benchmark, run):
    last = benchmark.pedantic(run, rounds=10, warmup_rounds=1)
    assert last is ITEMS[max(range(COUNT), key=lambda index: (PRIORITIES[index], index))]
