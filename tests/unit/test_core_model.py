"""PriorityHeap against a sorted list that knows nothing of heaps, under any sequence of calls."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from fastbean._core import PriorityHeap

# Few values, so that equal priorities are the rule, and the ends of the range.
PRIORITIES = st.one_of(st.integers(0, 5), st.integers(0, 2**64 - 1), st.sampled_from([2**63 - 1, 2**63, 2**64 - 1]))


class HeapMachine(RuleBasedStateMachine):
    """The model maps each item, numbered in the order in which the heap got them, to its priority."""

    handles = Bundle("handles")
    gone = Bundle("gone")

    def __init__(self):
        super().__init__()
        self.heap = PriorityHeap()
        self.other = PriorityHeap()
        self.model = {}
        self.pushed = 0

    def expected(self):
        return sorted(self.model, key=lambda item: (self.model[item], item))

    def numbered(self, priority):
        """The number of an item that the heap is about to get."""
        item = self.pushed
        self.pushed += 1
        self.model[item] = priority
        return item

    def new(self, priority):
        item = self.numbered(priority)
        return self.heap.push(item, priority), item

    @initialize(priorities=st.lists(PRIORITIES, max_size=60))
    def begin_with_entries(self, priorities):
        self.heap = PriorityHeap((self.numbered(priority), priority) for priority in priorities)

    @rule(target=handles, priority=PRIORITIES)
    def push(self, priority):
        return self.new(priority)

    @rule(target=handles, priorities=st.lists(PRIORITIES, max_size=60))
    def push_many(self, priorities):
        return multiple(*(self.new(priority) for priority in priorities))

    @rule(target=handles, priorities=st.lists(PRIORITIES, max_size=60))
    def extend(self, priorities):
        items = [self.numbered(priority) for priority in priorities]
        handles = self.heap.extend(zip(items, priorities, strict=True))
        return multiple(*zip(handles, items, strict=True))

    @rule(priorities=st.lists(PRIORITIES, max_size=60))
    def extend_by_something_wrong(self, priorities):
        with pytest.raises(OverflowError):
            self.heap.extend([*((None, priority) for priority in priorities), (None, -1)])

    @rule(priority=PRIORITIES)
    def pushpop(self, priority):
        item = self.numbered(priority)
        first = self.expected()[0]
        assert self.heap.pushpop(item, priority) == first
        del self.model[first]

    @rule(priority=PRIORITIES)
    def replace(self, priority):
        if not self.model:
            with pytest.raises(IndexError):
                self.heap.replace(None, priority)
            return
        first = self.expected()[0]
        del self.model[first]
        item = self.numbered(priority)
        assert self.heap.replace(item, priority) == first

    @rule()
    def pop(self):
        if not self.model:
            with pytest.raises(IndexError):
                self.heap.pop()
            return
        item = self.heap.pop()
        assert item == self.expected()[0]
        del self.model[item]

    @rule(count=st.integers(1, 60))
    def pop_many(self, count):
        expected = self.expected()[:count]
        assert [self.heap.pop() for _ in expected] == expected
        for item in expected:
            del self.model[item]

    @rule(target=gone, handle=consumes(handles))
    def remove(self, handle):
        handle, item = handle
        if item in self.model:
            assert self.heap.remove(handle) == item
            del self.model[item]
        return handle

    @rule(handle=handles, priority=PRIORITIES)
    def update(self, handle, priority):
        handle, item = handle
        if item in self.model:
            self.heap.update(handle, priority)
            self.model[item] = priority
        else:
            with pytest.raises(ValueError, match="in no heap any more"):
                self.heap.update(handle, priority)

    @rule(handle=gone)
    def use_a_handle_that_is_gone(self, handle):
        assert handle not in self.heap
        with pytest.raises(ValueError, match="in no heap any more"):
            self.heap.remove(handle)

    @rule(priority=PRIORITIES)
    def use_a_handle_of_another_heap(self, priority):
        handle = self.other.push("other", priority)
        assert handle not in self.heap
        with pytest.raises(ValueError, match="another heap"):
            self.heap.update(handle, priority)
        assert self.other.pop() == "other"

    @rule()
    def clear(self):
        self.heap.clear()
        self.model.clear()

    @rule(handle=handles)
    def contains(self, handle):
        handle, item = handle
        assert (handle in self.heap) == (item in self.model)

    @invariant()
    def same_order(self):
        assert list(self.heap) == self.expected()

    @invariant()
    def same_length_and_top(self):
        assert len(self.heap) == len(self.model)
        assert bool(self.heap) == bool(self.model)
        if self.model:
            assert self.heap.peek() == self.expected()[0]


test_heap_against_model = HeapMachine.TestCase
