"""The heap as a library beside other ways to a priority queue, from Python and through cimport.

From Python each one does the same: items in with random priorities, and out again in order, equal priorities first in,
first out; those that can also lose half of them from the middle before. Each function returns seconds.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time

from fastbean._core import PriorityHeap

COUNT = 200_000
LARGE_COUNT = 1_000_000
PRIORITY_HEAP, HEAPQ, SORTED, PQDICT = "PriorityHeap", "heapq", "SortedList", "pqdict"
CIMPORT, PRIORITY_QUEUE = "cimport", "std::priority_queue"


class Items:
    """So many priorities and items, and the same items in the order of a third of them that is taken out first."""

    def __init__(self, count):
        dice = random.Random(1)
        self.priorities = dice.choices(range(2**32), k=count)
        self.items = [object() for _ in range(count)]
        self.removed = dice.sample(range(count), count // 2)


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


def seconds_of(function, *arguments):
    """How long one call takes."""
    begun_s = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begun_s


def seconds_in_threads(function, count, threads):
    """How long `threads` threads take that call function(count) once each, all at the same time."""
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
