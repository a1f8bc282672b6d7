"""The heap when an allocation fails, each in turn: the call raises MemoryError, and nothing has changed."""

from __future__ import annotations

import pytest

from allocations import Allocations
from fastbean._core import PriorityHeap
from heap_tools import drained

OLD = [(f"old {number}", 2 * number) for number in range(4)]  # a full array: the next entry needs a larger one
NEW = [(f"new {number}", 40 - number) for number in range(40)]


def test_a_heap_is_as_it_was_when_extend_fails(allocations: Allocations) -> None:
    refusals = 0
    for outage in allocations.in_turn():
        heap: PriorityHeap[str] = PriorityHeap()
        handles = [heap.push(item, priority) for item, priority in OLD]
        try:
            with outage:
                handles += heap.extend(NEW)
        except MemoryError:
            refusals += 1
        kept = [*OLD, *NEW] if len(handles) > len(OLD) else OLD
        assert all(handle in heap for handle in handles)
        assert drained(heap) == [item for item, _ in sorted(kept, key=lambda entry: entry[1])]
    assert refusals > 4


def test_a_heap_of_entries_is_made_whole_or_not_at_all(allocations: Allocations) -> None:
    refusals = 0
    for outage in allocations.in_turn():
        heap = None
        try:
            with outage:
                heap = PriorityHeap(NEW)
        except MemoryError:
            refusals += 1
        assert heap is None or drained(heap) == [item for item, _ in reversed(NEW)]
    assert refusals > 3


def test_exchanging_the_top_needs_no_larger_array(allocations: Allocations) -> None:
    heap = PriorityHeap(OLD)
    with allocations.failing():
        assert heap.pushpop("a", 1) == "old 0"
        assert heap.replace("b", 3) == "a"
    assert drained(heap) == ["old 1", "b", "old 2", "old 3"]


@pytest.mark.parametrize("entries", [[("item", -1)], [("item", 1), ("item",)]])
def test_a_wrong_entry_is_reported_without_memory(allocations: Allocations, entries: list[tuple[str, int]]) -> None:
    heap: PriorityHeap[str] = PriorityHeap()
    with allocations.failing(), pytest.raises((MemoryError, OverflowError, ValueError)):
        heap.extend(entries)
    assert len(heap) == 0
