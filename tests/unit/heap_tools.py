"""What the tests of PriorityHeap share."""

import random

from fastbean._core import PriorityHeap

LARGEST = 2**64 - 1


class Thing:
    """An item that can be weakly referenced and can hold anything."""


def drained(heap):
    return [heap.pop() for _ in range(len(heap))]


def shuffled(count, seed=1):
    return random.Random(seed).sample(range(count), count)


def filled(priorities):
    heap = PriorityHeap()
    handles = [heap.push(priority, priority) for priority in priorities]
    return heap, handles
