"""PriorityHeap from Python: many entries at once, push-then-pop, and pop-then-push."""

import gc
import sys
import weakref

import pytest

from fastbean._core import PriorityHeap
from heap_tools import LARGEST, Thing, drained, filled, shuffled

# ---- many entries at once ----


@pytest.mark.parametrize("count", [*range(24), 1000])
def test_a_heap_of_entries_pops_them_in_order(count):
    priorities = shuffled(count)
    assert drained(PriorityHeap((str(priority), priority) for priority in priorities)) == [*map(str, range(count))]


@pytest.mark.parametrize("before", [*range(8), 50, 1000])
@pytest.mark.parametrize("count", [*range(8), 50, 1000])
def test_extend_adds_to_what_is_there(before, count):
    priorities = shuffled(before + count, seed=before)
    heap, _ = filled(priorities[:before])
    handles = heap.extend((priority, priority) for priority in priorities[before:])
    assert [heap.remove(handle) for handle in handles[::2]] == priorities[before::2]
    assert drained(heap) == sorted(priorities[:before] + priorities[before + 1 :: 2])


def test_equal_priorities_of_many_entries_are_first_in_first_out():
    heap = PriorityHeap((index, index % 2) for index in range(100))
    heap.push(100, 0)
    heap.extend((index, index % 2) for index in range(101, 200))
    heap.push(200, 0)
    assert drained(heap) == [*range(0, 201, 2), *range(1, 200, 2)]


def test_entries_may_be_any_iterable_of_pairs():
    heap = PriorityHeap({"a": 3, "b": 1}.items())
    heap.extend([("c", 2), ["d", 0]])
    heap.extend(zip("ef", [5, 4], strict=True))
    heap.extend(())
    assert drained(heap) == ["d", "b", "c", "a", "f", "e"]
    assert drained(PriorityHeap(entries=[("one", 1)])) == ["one"]


def test_extend_returns_handles_that_move_and_remove():
    heap = PriorityHeap([("old", 5)])
    handles = heap.extend([("a", 1), ("b", 2), ("c", 3)])
    heap.update(handles[0], 9)
    assert heap.remove(handles[1]) == "b"
    assert [handle in heap for handle in handles] == [True, False, True]
    assert drained(heap) == ["c", "old", "a"]


def broken_entries(heap, at):
    for number in range(10):
        if number == at:
            yield ("wrong", -1)
        if number == at + 1:
            raise AssertionError("the iteration went on")
        yield (number, number)


@pytest.mark.parametrize(
    ("entries", "error"),
    [
        (None, TypeError),
        ([("a", 1), 5], TypeError),
        ([("a", 1), ("b",)], ValueError),
        ([("a", 1), ("b", 2, 3)], ValueError),
        ([("a", 1), ("b", "2")], TypeError),
        ([("a", 1), ("b", LARGEST + 1)], OverflowError),
        (broken_entries(None, 7), OverflowError),
        ((1 / number for number in (1, 0)), TypeError),
        (((number, 1 // number) for number in (2, 1, 0)), ZeroDivisionError),
    ],
    ids=["None", "no pair", "one", "three", "str", "too large", "late", "float", "generator raises"],
)
def test_wrong_entries_change_nothing(entries, error):
    heap, (handle, *_) = filled([3, 1, 2])
    with pytest.raises(error):
        heap.extend(entries)
    assert handle in heap
    assert drained(heap) == [1, 2, 3]


def test_a_second_call_of_init_adds_its_entries_to_the_others():
    heap = PriorityHeap([("b", 2)])
    heap.__init__([("a", 1)])
    assert list(heap) == ["a", "b"]


def test_wrong_entries_make_no_heap():
    item = Thing()
    before = sys.getrefcount(item)
    with pytest.raises(OverflowError, match="is negative"):
        PriorityHeap([(item, 1), (item, 2), (item, -1)])
    assert sys.getrefcount(item) == before


def test_entries_that_fail_are_released():
    heap = PriorityHeap()
    item = Thing()
    before = sys.getrefcount(item)
    with pytest.raises(TypeError, match="not a str"):
        heap.extend([(item, 1), (item, 2), (item, "3")])
    assert sys.getrefcount(item) == before
    assert len(heap) == 0


def test_an_iterable_may_use_the_heap_that_it_extends():
    heap, (_, second) = filled([10, 20])

    def entries():
        yield ("first", 5)
        heap.push("meanwhile", 15)
        assert heap.remove(second) == 20
        assert drained(heap) == [10, "meanwhile"]
        heap.extend([("inner", 5), ("inner", 30)])
        gc.collect()
        yield ("second", 5)

    heap.extend(entries())
    assert drained(heap) == ["inner", "first", "second", "inner"]


# ---- two steps in one ----


def test_pushpop_returns_the_smaller_of_the_new_and_the_top():
    heap, (one, _) = filled([1, 3])
    assert heap.pushpop("zero", 0) == "zero"
    assert heap.pushpop("two", 2) == 1
    assert one not in heap
    assert heap.pushpop(item="two again", priority=2) == "two"
    assert drained(heap) == ["two again", 3]
    assert heap.pushpop("alone", 7) == "alone"
    assert len(heap) == 0


def test_replace_returns_the_top_even_if_the_new_item_is_smaller():
    heap, (one, _) = filled([1, 3])
    assert heap.replace("zero", 0) == 1
    assert one not in heap
    assert heap.replace(item="nine", priority=9) == "zero"
    assert drained(heap) == [3, "nine"]
    with pytest.raises(IndexError, match="empty heap"):
        heap.replace("none", 1)
    assert len(heap) == 0


@pytest.mark.parametrize("call", [PriorityHeap.pushpop, PriorityHeap.replace])
def test_the_new_item_comes_after_older_ones_of_its_priority(call):
    heap = PriorityHeap([("a", 1), ("b", 1), ("c", 1)])
    assert [call(heap, item, 1) for item in "defg"] == ["a", "b", "c", "d"]
    assert drained(heap) == ["e", "f", "g"]


@pytest.mark.parametrize("call", [PriorityHeap.pushpop, PriorityHeap.replace])
@pytest.mark.parametrize(("priority", "error"), [(-1, OverflowError), ("1", TypeError)])
def test_wrong_priorities_replace_nothing(call, priority, error):
    heap, handles = filled([2, 1])
    with pytest.raises(error):
        call(heap, "item", priority)
    assert all(handle in heap for handle in handles)
    assert drained(heap) == [1, 2]


def test_an_index_method_may_empty_the_heap_that_is_replaced_in():
    heap, _ = filled([1, 2])

    class Emptying:
        def __index__(self):
            heap.clear()
            return 5

    with pytest.raises(IndexError, match="empty heap"):
        heap.replace("item", Emptying())
    heap.push(1, 1)
    assert heap.pushpop("item", Emptying()) == "item"
    assert len(heap) == 0


def test_replaced_items_are_released_and_new_ones_are_kept():
    old, new = Thing(), Thing()
    counts = sys.getrefcount(old), sys.getrefcount(new)
    heap = PriorityHeap([(old, 1), (old, 1)])
    heap.replace(new, 2)
    heap.pushpop(new, 2)
    assert (sys.getrefcount(old), sys.getrefcount(new)) == (counts[0], counts[1] + 2)
    heap.pushpop(old, 0)
    heap.clear()
    assert (sys.getrefcount(old), sys.getrefcount(new)) == counts


def test_cycle_through_entries_is_collected():
    refs = []
    for fill in (
        lambda heap, thing: heap.extend([(thing, 1), (thing, 2)]),
        lambda heap, thing: heap.push(None, 0) and heap.replace(thing, 1),
        lambda heap, thing: heap.push(None, 0) and heap.pushpop(thing, 1),
        lambda heap, thing: heap.__init__([(thing, 1)]),
    ):
        heap, thing = PriorityHeap(), Thing()
        thing.heap = heap
        fill(heap, thing)
        refs.append(weakref.ref(thing))
    del heap, thing
    gc.collect()
    assert [ref() for ref in refs] == [None] * 4
