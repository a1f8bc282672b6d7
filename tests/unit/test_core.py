"""PriorityHeap from Python: order, handles, wrong use, the stub, the garbage collector, and memory."""

import ast
import copy
import gc
import inspect
import pickle
import random
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

from fastbean import _core, heap
from fastbean._core import Handle, PriorityHeap
from heap_tools import LARGEST, Thing, drained, filled


class Finalized:
    """An item that calls something when it dies."""

    def __init__(self, call):
        self.call = call

    def __del__(self):
        self.call()


# ---- order ----


def test_smallest_priority_comes_first():
    priorities = [5, 0, LARGEST, 2**63, 2**63 - 1, 1, 2**32]
    heap, _ = filled(priorities)
    assert drained(heap) == sorted(priorities)


def test_equal_priorities_are_first_in_first_out():
    heap = PriorityHeap()
    pushed = [(index % 3, index) for index in range(300)]
    for item in pushed:
        heap.push(item, item[0])
    assert drained(heap) == sorted(pushed)


@pytest.mark.parametrize("count", [*range(24), 1000])
def test_every_length_comes_out_sorted(count):
    priorities = random.Random(count).sample(range(10_000), count)
    heap, _ = filled(priorities)
    assert drained(heap) == sorted(priorities)


def test_peek_leaves_the_item():
    heap, _ = filled([3, 1, 2])
    assert heap.peek() == 1
    assert len(heap) == 3


def test_items_are_never_compared():
    heap = PriorityHeap()
    items = [object(), object(), None]
    for item in items:
        heap.push(item, 1)
    assert all(heap.pop() is item for item in items)


def test_priority_may_be_anything_with_an_index():
    class Number:
        def __index__(self):
            return 2

    heap, _ = filled([1, 3])
    heap.push("number", Number())
    heap.push("bool", True)
    assert drained(heap) == [1, "bool", "number", 3]


def test_push_takes_names():
    heap = PriorityHeap()
    handle = heap.push(item="a", priority=5)
    heap.push("b", 4)
    heap.update(handle, priority=3)
    assert drained(heap) == ["a", "b"]


# ---- handles ----


def test_remove_returns_the_item_from_any_place():
    heap, handles = filled(range(50))
    assert heap.remove(handles[20]) == 20
    assert heap.remove(handles[0]) == 0
    assert heap.remove(handles[49]) == 49
    assert drained(heap) == [*range(1, 20), *range(21, 49)]


def test_remove_where_the_last_entry_must_rise():
    # Index 8 lies below 100, the last entry (3) below 2: taken to index 8's place it belongs above 100.
    heap, handles = filled([1, 100, 2, 2, 2, 101, 102, 103, 104, 3])
    assert heap.remove(handles[8]) == 104
    assert drained(heap) == [1, 2, 2, 2, 3, 100, 101, 102, 103]


@pytest.mark.parametrize("priority", [0, 25, 30, 100])
def test_update_moves_the_item(priority):
    heap, handles = filled(range(0, 60, 2))
    heap.update(handles[10], priority)
    expected = sorted([*range(0, 60, 2)], key=lambda item: (priority if item == 20 else item, item))
    assert drained(heap) == expected


def test_update_keeps_the_rank_of_the_push():
    heap = PriorityHeap()
    first = heap.push("first", 9)
    heap.push("second", 5)
    heap.update(first, 5)
    assert drained(heap) == ["first", "second"]


def test_contains_tells_whether_the_item_is_still_there():
    heap, (handle, other) = filled([1, 2])
    assert handle in heap
    assert handle not in PriorityHeap()
    heap.pop()
    assert handle not in heap
    assert other in heap


def test_handles_may_be_thrown_away():
    heap = PriorityHeap()
    for index in range(1000):
        heap.push(index, index)
    gc.collect()
    assert drained(heap) == list(range(1000))


def test_handle_outlives_its_heap():
    heap = PriorityHeap()
    handle = heap.push("item", 1)
    del heap
    with pytest.raises(ValueError, match="in no heap any more"):
        PriorityHeap().remove(handle)


# ---- the container ----


def test_len_and_bool():
    heap = PriorityHeap()
    assert len(heap) == 0
    assert not heap
    heap.push("a", 1)
    assert len(heap) == 1
    assert heap


def test_iteration_is_the_order_of_pops_and_changes_nothing():
    heap = PriorityHeap()
    for index, priority in enumerate(random.Random(7).choices(range(50), k=500)):
        heap.push((priority, index), priority)
    assert list(PriorityHeap()) == []
    listed = list(heap)
    assert len(heap) == 500
    assert listed == drained(heap) == sorted(listed)


def test_heap_may_change_while_it_is_iterated():
    heap, _ = filled(range(10))
    seen = []
    for item in heap:
        seen.append(item)
        heap.push("new", 0)
        heap.pop()
        if item == 5:
            heap.clear()
    assert seen == list(range(10))


def test_clear_empties_and_the_heap_goes_on():
    heap, handles = filled(range(100))
    heap.clear()
    assert len(heap) == 0
    assert not any(handle in heap for handle in handles)
    heap.push("again", 1)
    assert heap.pop() == "again"


def test_repr_tells_the_length():
    heap, _ = filled([1, 2])
    assert repr(heap) == "<PriorityHeap of 2 items>"


def test_subscript_is_for_type_checkers():
    assert PriorityHeap[str].__origin__ is PriorityHeap


def test_abi_is_a_number():
    assert type(_core.ABI) is int
    assert _core.ABI >= 1


def test_fastbean_heap_exports_the_same_objects():
    assert {name: getattr(heap, name) for name in heap.__all__} == {
        name: getattr(_core, name) for name in _core.__all__
    }
    assert heap.__doc__


def stub_docs():
    """The docstrings of _core.pyi, by dotted name."""
    module = ast.parse(Path(_core.__file__).with_name("_core.pyi").read_text())
    docs = {"": ast.get_docstring(module)}
    for top in module.body:
        if isinstance(top, ast.ClassDef):
            docs[top.name] = ast.get_docstring(top)
            docs |= {f"{top.name}.{each.name}": ast.get_docstring(each) for each in top.body if hasattr(each, "name")}
    return docs


@pytest.mark.parametrize("name", [name for name, doc in stub_docs().items() if doc])
def test_the_stub_says_what_help_says(name):
    found = _core
    for part in filter(None, name.split(".")):
        found = getattr(found, part)
    doc = inspect.cleandoc(found.__doc__)
    signature, _, rest = doc.partition("\n\n")
    assert stub_docs()[name] in (doc, rest if signature.endswith(")") else None)


@pytest.mark.parametrize("name", [name for name in vars(PriorityHeap) if not name.startswith("_")])
def test_public_methods_have_docstrings_in_the_stub(name):
    assert len(stub_docs()[f"PriorityHeap.{name}"].split()) > 5


def test_heap_says_nothing_of_its_users():
    members = [*vars(_core).values(), *vars(PriorityHeap).values()]
    texts = [_core.__doc__, *(str(member.__doc__) for member in members)]
    assert "beanstalk" not in " ".join(texts).lower()


# ---- wrong use ----


@pytest.mark.parametrize("call", [PriorityHeap.pop, PriorityHeap.peek])
def test_empty_heap_is_an_index_error(call):
    with pytest.raises(IndexError, match="empty heap"):
        call(PriorityHeap())


@pytest.mark.parametrize(
    ("priority", "error", "text"),
    [
        (-1, OverflowError, "from 0 to 2\\*\\*64 - 1, and this one is negative"),
        (-(1 << 20_000), OverflowError, "this one is negative"),
        (LARGEST + 1, OverflowError, "from 0 to 2\\*\\*64 - 1, and this one is too large"),
        (1 << 20_000, OverflowError, "this one is too large"),
        (1.0, TypeError, "from 0 to 2\\*\\*64 - 1, not a float"),
        ("1", TypeError, "not a str"),
        (None, TypeError, "not a NoneType"),
    ],
    ids=["negative", "very negative", "too large", "far too large", "float", "str", "None"],
)
def test_wrong_priority_changes_nothing(priority, error, text):
    heap, (handle, *_) = filled([1, 2, 3])
    with pytest.raises(error, match=text):
        heap.push("item", priority)
    with pytest.raises(error, match=text):
        heap.update(handle, priority)
    assert drained(heap) == [1, 2, 3]


def test_error_of_an_index_method_comes_through():
    class Broken:
        def __index__(self):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        PriorityHeap().push("item", Broken())


def after_pop(heap, handle):
    heap.pop()


def after_remove(heap, handle):
    heap.remove(handle)


def after_clear(heap, handle):
    heap.clear()


@pytest.mark.parametrize("leave", [after_pop, after_remove, after_clear])
def test_handle_of_an_item_that_left_is_a_value_error(leave):
    heap, (handle, _) = filled([1, 2])
    leave(heap, handle)
    rest = len(heap)
    with pytest.raises(ValueError, match="popped, removed or cleared"):
        heap.remove(handle)
    with pytest.raises(ValueError, match="popped, removed or cleared"):
        heap.update(handle, 5)
    assert len(heap) == rest


def test_handle_of_another_heap_is_a_value_error():
    heap, _ = filled([1, 2])
    other, (handle, _) = filled([3, 4])
    with pytest.raises(ValueError, match="another heap"):
        heap.remove(handle)
    with pytest.raises(ValueError, match="another heap"):
        heap.update(handle, 5)
    assert drained(heap) == [1, 2]
    assert drained(other) == [3, 4]


@pytest.mark.parametrize("wrong", [None, 5, "handle", object()])
def test_what_is_no_handle_is_a_type_error(wrong):
    heap, _ = filled([1])
    with pytest.raises(TypeError, match="handle"):
        heap.remove(wrong)
    with pytest.raises(TypeError, match="handle"):
        heap.update(wrong, 1)
    with pytest.raises(TypeError, match="`in` takes the Handle"):
        wrong in heap  # noqa: B015


def test_handles_are_not_made_by_hand():
    with pytest.raises(TypeError, match="is made by PriorityHeap"):
        Handle()
    with pytest.raises(ValueError, match="in no heap"):
        PriorityHeap().remove(Handle.__new__(Handle))


@pytest.mark.parametrize("call", [copy.copy, copy.deepcopy, pickle.dumps])
def test_no_copies_and_no_pickles(call):
    heap, (handle,) = filled([1])
    with pytest.raises(TypeError, match="cannot pickle"):
        call(heap)
    with pytest.raises(TypeError, match="cannot pickle"):
        call(handle)


@pytest.mark.parametrize("base", [PriorityHeap, Handle])
def test_no_subclasses(base):
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Sub", (base,), {})


# ---- the garbage collector ----


def test_items_are_released_at_once():
    heap = PriorityHeap()
    refs = []
    handles = []
    for priority in range(4):
        thing = Thing()
        refs.append(weakref.ref(thing))
        handles.append(heap.push(thing, priority))
    del thing
    assert all(ref() is not None for ref in refs)
    heap.pop()
    assert refs[0]() is None
    heap.remove(handles[1])
    assert refs[1]() is None
    heap.clear()
    assert refs[2]() is None
    handles.append(heap.push(last := Thing(), 1))
    refs.append(weakref.ref(last))
    del last, heap
    assert refs[4]() is None


def test_cycle_through_a_heap_is_collected():
    heap = PriorityHeap()
    thing = Thing()
    thing.heap = heap
    thing.handle = heap.push(thing, 1)
    refs = [weakref.ref(thing), weakref.ref(heap)]
    del heap, thing
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


def test_cycle_through_two_heaps_is_collected():
    # Weak references die before the collector clears anything; the count of what hangs on the cycle tells the end.
    marker = object()
    before = sys.getrefcount(marker)
    one, two = PriorityHeap(), PriorityHeap()
    one.push(two, 1)
    two.push(one, 1)
    two.push(marker, 2)
    del one, two
    gc.collect()
    assert sys.getrefcount(marker) == before


def test_collector_leaves_a_living_heap_alone():
    heap = PriorityHeap()
    thing = Thing()
    thing.heap = heap
    heap.push(thing, 1)
    ref = weakref.ref(thing)
    del thing
    gc.collect()
    assert ref() is heap.peek()
    assert gc.get_referents(heap).count(ref()) == 1


def test_handle_does_not_keep_the_item_of_a_dead_heap():
    heap = PriorityHeap()
    thing = Thing()
    thing.heap = heap
    handle = heap.push(thing, 1)
    ref = weakref.ref(thing)
    del heap, thing
    gc.collect()
    assert ref() is None
    assert handle not in PriorityHeap()


def test_reference_counts_come_back():
    item = Thing()
    before = sys.getrefcount(item)
    heap = PriorityHeap()
    handles = [heap.push(item, index) for index in range(10)]
    assert sys.getrefcount(item) == before + 10
    heap.update(handles[5], 0)
    heap.peek()
    assert len(list(heap)) == 10
    heap.pop()
    heap.remove(handles[3])
    heap.clear()
    assert sys.getrefcount(item) == before
    assert {sys.getrefcount(handle) for handle in handles} == {sys.getrefcount(Handle.__new__(Handle)) + 2}


def test_finalizers_may_use_the_heap_during_clear():
    heap = PriorityHeap()
    handles = []
    seen = []

    def touch():
        seen.append((len(heap), [handle in heap for handle in handles].count(True)))
        heap.push("from a finalizer", 7)
        if len(seen) % 3 == 0:
            heap.clear()
        with pytest.raises(ValueError, match="in no heap any more"):
            heap.remove(handles[0])
        gc.collect()

    handles += [heap.push(Finalized(touch), priority) for priority in range(8)]
    heap.clear()
    assert len(seen) == 8
    assert seen[0] == (0, 0)
    assert [found for _, found in seen] == [0] * 8
    assert drained(heap) == ["from a finalizer"] * 2


def test_finalizers_may_use_the_heap_when_a_cycle_is_collected():
    heap = PriorityHeap()
    lengths = []

    def touch(heap=heap):
        lengths.append(len(heap))
        heap.push("late", 1)

    for priority in range(3):
        heap.push(Finalized(touch), priority)
    ref = weakref.ref(heap)
    del heap, touch
    gc.collect()
    assert len(lengths) == 3
    assert ref() is None


def test_deeply_nested_heaps_die_without_a_deep_stack():
    ref = None
    heap = PriorityHeap()
    for _ in range(200_000):
        outer = PriorityHeap()
        outer.push(heap, 1)
        ref = ref or weakref.ref(outer)
        heap = outer
    del heap, outer
    assert ref() is None


def test_threads_may_share_a_heap_under_the_gil():
    heap = PriorityHeap()
    popped = []

    def work(start):
        for index in range(start, start + 2000):
            heap.push(index, index)
            popped.append(heap.pop())

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 10_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not heap
    assert sorted(popped) == [*range(2000), *range(10_000, 12_000)]


# ---- memory ----


def test_array_grows_and_shrinks_with_the_items():
    heap = PriorityHeap()
    empty = sys.getsizeof(heap)
    handles = [heap.push(None, index) for index in range(1000)]
    assert sys.getsizeof(heap) - empty == 1024 * 24
    while len(heap) > 300:
        heap.pop()
    assert sys.getsizeof(heap) - empty == 1024 * 24
    while len(heap) > 200:
        heap.pop()
    assert sys.getsizeof(heap) - empty == 512 * 24
    for handle in handles[-200:]:
        heap.remove(handle)
    assert sys.getsizeof(heap) - empty == 4 * 24
    heap.push(None, 1)
    heap.clear()
    assert sys.getsizeof(heap) == empty


def test_memory_is_flat_over_many_cycles():
    script = """if True:
        import gc, pathlib, resource
        from fastbean._core import PriorityHeap

        def cycle(heap):
            for index in range(20_000):
                heap.push(object(), index)
            list(heap)
            for _ in range(5_000):
                heap.pop()
            heap.clear()
            for index in range(20_000):
                heap.push(object(), index)

        def cycles(count):
            heap = PriorityHeap()
            for _ in range(count):
                cycle(heap)
                heap.clear()
                cycle(PriorityHeap())
            gc.collect()
            # Not ru_maxrss: it starts with what the parent process had.
            return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024

        first = cycles(5)
        print(cycles(40) - first)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    # In KiB. One lost array a cycle would be 38,000, a lost handle for each item far more.
    assert int(done.stdout) < 4_000
