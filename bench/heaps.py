"""The heap as a library beside other priority queues, from Python and through cimport.

From Python each one does the same: it gets items with random priorities and returns them in order, equal priorities
first-in first-out. Those that can remove from the middle lose half of the items before. Beside heapq, the heap is also
built from many entries, and exchanges its smallest item for another one.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time

from fastbean.heap import PriorityHeap

COUNT = 200_000
LARGE_COUNT = 1_000_000
SHORT_COUNT = 50_000  # of `make bench`, which has little time
PRIORITY_HEAP, HEAPQ, SORTED, PQDICT = "PriorityHeap", "heapq", "SortedList", "pqdict"
CIMPORT, PRIORITY_QUEUE = "cimport", "std::priority_queue"
PUSHPOP, REPLACE = "pushpop", "replace"


class Items:
    """`count` items with their priorities, the half of their indexes that is removed first, and other priorities."""

    def __init__(self, count):
        dice = random.Random(1)
        self.priorities = dice.choices(range(2**32), k=count)
        self.items = [object() for _ in range(count)]
        self.removed = dice.sample(range(count), count // 2)
        self.later = dice.choices(range(2**32), k=count)


def priority_heap(given, remove):
    heap = PriorityHeap()
    handles = [heap.push(item, priority) for item, priority in zip(given.items, given.priorities, strict=True)]
    if remove:
        for place in given.removed:
            heap.remove(handles[place])
    while heap:
        heap.pop()


def with_heapq(given, _remove):
    heap = []
    counter = itertools.count()
    for item, priority in zip(given.items, given.priorities, strict=True):
        heapq.heappush(heap, (priority, next(counter), item))
    while heap:
        heapq.heappop(heap)


def sorted_list(given, remove):
    from sortedcontainers import SortedList

    heap = SortedList()
    entries = list(zip(given.priorities, itertools.count(), given.items, strict=False))
    for entry in entries:
        heap.add(entry)
    if remove:
        for place in given.removed:
            heap.remove(entries[place])
    while heap:
        heap.pop(0)


def with_pqdict(given, remove):
    from pqdict import pqdict

    heap = pqdict()
    for place, entry in enumerate(zip(given.priorities, itertools.count(), strict=False)):
        heap.additem(given.items[place], entry)
    if remove:
        for place in given.removed:
            heap.pop(given.items[place])
    while heap:
        heap.pop()


CONTENDERS = {PRIORITY_HEAP: priority_heap, HEAPQ: with_heapq, SORTED: sorted_list, PQDICT: with_pqdict}
CAN_REMOVE = (PRIORITY_HEAP, SORTED, PQDICT)


def build_priority_heap(given):
    return PriorityHeap(zip(given.items, given.priorities, strict=True))


def build_with_heapq(given):
    heap = list(zip(given.priorities, itertools.count(), given.items, strict=False))
    heapq.heapify(heap)
    return heap


BUILDERS = {PRIORITY_HEAP: build_priority_heap, HEAPQ: build_with_heapq}


def exchange_in_priority_heap(heap, given, operation):
    exchange = {PUSHPOP: heap.pushpop, REPLACE: heap.replace}[operation]
    for item, priority in zip(given.items, given.later, strict=True):
        exchange(item, priority)


def exchange_with_heapq(heap, given, operation):
    exchange = {PUSHPOP: heapq.heappushpop, REPLACE: heapq.heapreplace}[operation]
    counter = itertools.count(len(heap))
    for item, priority in zip(given.items, given.later, strict=True):
        exchange(heap, (priority, next(counter), item))


EXCHANGERS = {PRIORITY_HEAP: exchange_in_priority_heap, HEAPQ: exchange_with_heapq}


def seconds_of(function, *arguments):
    """The seconds that one call takes."""
    begun_s = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begun_s


def seconds_in_threads(function, count, threads):
    """The seconds in which `threads` threads, started together, each call function(count) once."""
    barrier = threading.Barrier(threads + 1)

    def work():
        barrier.wait()
        function(count)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for each in workers:
        each.start()
    barrier.wait()
    begun_s = time.perf_counter()
    for each in workers:
        each.join()
    return time.perf_counter() - begun_s
