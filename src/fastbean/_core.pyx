"""A priority heap in C that knows the position of each of its entries.

It has two interfaces. For compiled modules: the structs and nogil functions of _core.pxd. For Python: PriorityHeap,
whose push returns a Handle by which an item can be removed or moved.

Promises. The smallest (key, tie) is at the top; both are unsigned 64-bit numbers. A node is embedded in its owner's
struct; the heap writes its position and nothing else, never copies it and never frees it. Only heap_reserve and
heap_push can fail, and then nothing has changed. No heap function needs the GIL and none locks: a heap belongs to one
thread at a time. Wrong use of the C surface is checked only in a build with FASTBEAN_DEBUG defined, which aborts.

Costs. push, pop, remove and update are O(log n); top, slot and length O(1). An entry takes 24 bytes of the array. The
array doubles when it is full and halves when at most a quarter is used; both are one realloc. Each node has four
children and a hole sinks to a leaf before the last entry rises from there. Measured with 200,000 and 1,000,000 random
entries this takes 0.73 and 0.78 of the time of a binary heap, and 0.89 and 0.80 of its own time without the prefetch.

Always holds. heap_at(i).node.pos == i + 1 for every i below len: position 0 is free to mean "in no heap", and no slot
is wasted. No slot comes before its parent; the parent of index i is (i - 1) // 4.
"""
cimport cython
from cpython.long cimport PyLong_AsUnsignedLongLong
from cpython.number cimport PyNumber_Index
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport SIZE_MAX, UINT32_MAX, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort, realloc
from libc.string cimport memcpy

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define heap_prefetch(address) __builtin_prefetch(address)
    #else
    #define heap_prefetch(address) ((void)(address))
    #endif

    /* Which of two random keys is smaller is a coin toss that no branch predictor wins: so without a branch. */
    static CYTHON_INLINE int heap_before(uint64_t key, uint64_t tie, uint64_t other_key, uint64_t other_tie) {
    #ifdef __SIZEOF_INT128__
        return (((unsigned __int128)key << 64) | tie) < (((unsigned __int128)other_key << 64) | other_tie);
    #else
        return (key < other_key) | ((key == other_key) & (tie < other_tie));
    #endif
    }

    #ifdef FASTBEAN_DEBUG
    #include <stdio.h>
    #include <stdlib.h>
    #define heap_check(condition, mistake) do { \\
        if (!(condition)) { fprintf(stderr, "fastbean._core: %s\\n", mistake); abort(); } \\
    } while (0)
    #else
    #define heap_check(condition, mistake) ((void)0)
    #endif
    """
    void heap_prefetch(const void *address) noexcept nogil
    bint heap_before(uint64_t key, uint64_t tie, uint64_t other_key, uint64_t other_tie) noexcept nogil
    void heap_check(bint condition, const char *mistake) noexcept nogil

cdef extern from "Python.h":
    ctypedef int (*visitproc)(PyObject *, void *) noexcept
    ctypedef int (*traverseproc)(PyObject *, visitproc, void *) noexcept
    ctypedef int (*inquiry)(PyObject *) noexcept
    ctypedef struct PyTypeObject:
        traverseproc tp_traverse
        inquiry tp_clear
    object Py_GenericAlias(object origin, object args)

__all__ = ["ABI", "Handle", "PriorityHeap"]

ABI = HEAP_ABI

cdef enum:
    MIN_CAP = 4                  # slots; an array of this size is not shrunk further, so that small heaps do not thrash


# ---- the C surface ----

cdef uint32_t heap_abi() noexcept nogil:
    """The HEAP_ABI that this module was built with; heap_check_abi of _core.pxd compares it with the caller's."""
    return HEAP_ABI


cdef inline bint slot_before(const HeapSlot *a, const HeapSlot *b) noexcept nogil:
    return heap_before(a.key, a.tie, b.key, b.tie)


cdef inline void put_slot(HeapSlot *slots, uint32_t index, HeapSlot slot) noexcept nogil:
    slots[index] = slot
    slot.node.pos = index + 1


cdef inline void prefetch_children(const HeapSlot *slots, uint64_t first, uint32_t len) noexcept nogil:
    """Prefetch the 16 children of the 4 slots from index first, before it is known which 4 of them will be needed."""
    cdef const char *address = <const char *>(slots + (4 * first + 1))
    cdef int line
    if 4 * first + 16 < len:
        for line in range(7):
            heap_prefetch(address + 64 * line)


cdef inline void rise(HeapSlot *slots, uint32_t hole, HeapSlot slot) noexcept nogil:
    """Move a hole up to where slot belongs and put it there."""
    cdef uint32_t parent
    while hole:
        parent = (hole - 1) >> 2
        if not slot_before(&slot, &slots[parent]):
            break
        put_slot(slots, hole, slots[parent])
        hole = parent
    put_slot(slots, hole, slot)


cdef inline uint32_t sink(HeapSlot *slots, uint32_t len, uint32_t hole) noexcept nogil:
    """Move a hole down to a leaf, its smallest child up each time, and return where it ended."""
    cdef uint64_t child = 4 * <uint64_t>hole + 1
    cdef uint64_t best, other
    while child + 3 < len:
        prefetch_children(slots, child, len)
        best = child + slot_before(&slots[child + 1], &slots[child])
        other = child + 2 + slot_before(&slots[child + 3], &slots[child + 2])
        best = other if slot_before(&slots[other], &slots[best]) else best
        put_slot(slots, hole, slots[best])
        hole = <uint32_t>best
        child = 4 * best + 1
    if child < len:
        best = child
        for other in range(child + 1, len):
            if slot_before(&slots[other], &slots[best]):
                best = other
        put_slot(slots, hole, slots[best])
        hole = <uint32_t>best
    return hole


cdef int resize(Heap *heap, uint32_t cap) noexcept nogil:
    cdef HeapSlot *slots
    if cap > SIZE_MAX // sizeof(HeapSlot):
        return -1
    slots = <HeapSlot *>realloc(heap.slots, cap * sizeof(HeapSlot))
    if slots == NULL:
        return -1
    heap.slots = slots
    heap.cap = cap
    return 0


cdef int heap_reserve(Heap *heap, uint32_t extra) noexcept nogil:
    """Make room for extra pushes, which then cannot fail.

    Returns 0, or -1 if there is no memory or the heap would grow beyond 2**32 - 1 entries; then nothing has changed.
    heap_pop and heap_remove may give the room back, but they always leave room for two pushes.
    """
    cdef uint32_t cap = heap.cap
    cdef uint32_t needed
    if extra > UINT32_MAX - heap.len:
        return -1
    needed = heap.len + extra
    if needed <= cap:
        return 0
    cap = max(cap, <uint32_t>MIN_CAP)
    while cap < needed:
        cap = 2 * cap if cap <= UINT32_MAX // 2 else UINT32_MAX
    return resize(heap, cap)


cdef int heap_push(Heap *heap, HeapNode *node, uint64_t key, uint64_t tie) noexcept nogil:
    """Put a node that is in no heap into this one. Returns 0, or -1 as heap_reserve does; then nothing has changed."""
    cdef HeapSlot slot
    heap_check(node.pos == 0, "heap_push of a node that is in a heap already")
    if heap.len == heap.cap and heap_reserve(heap, 1) != 0:
        return -1
    slot.key = key
    slot.tie = tie
    slot.node = node
    heap.len += 1
    rise(heap.slots, heap.len - 1, slot)
    return 0


cdef inline void take_out(Heap *heap, uint32_t hole) noexcept nogil:
    heap.slots[hole].node.pos = 0
    heap.len -= 1
    if hole != heap.len:
        rise(heap.slots, sink(heap.slots, heap.len, hole), heap.slots[heap.len])
    if heap.len <= heap.cap >> 2 and heap.cap > MIN_CAP:
        # Without memory to shrink into the array stays as it is; the next pop or remove tries again.
        resize(heap, heap.cap >> 1)


cdef HeapNode *heap_pop(Heap *heap) noexcept nogil:
    """Take out the node with the smallest (key, tie) and return it, its pos now 0; NULL if the heap is empty."""
    cdef HeapNode *node
    if heap.len == 0:
        return NULL
    node = heap.slots[0].node
    take_out(heap, 0)
    return node


cdef void heap_remove(Heap *heap, HeapNode *node) noexcept nogil:
    """Remove a node that is in this heap, at any position; its pos becomes 0."""
    heap_check(is_in(heap, node), "heap_remove of a node that is not in this heap")
    take_out(heap, node.pos - 1)


cdef void heap_update(Heap *heap, HeapNode *node, uint64_t key, uint64_t tie) noexcept nogil:
    """Give a node that is in this heap new keys and move it to where they belong."""
    cdef uint32_t hole = node.pos - 1
    cdef HeapSlot slot
    heap_check(is_in(heap, node), "heap_update of a node that is not in this heap")
    slot.key = key
    slot.tie = tie
    slot.node = node
    if slot_before(&heap.slots[hole], &slot):
        hole = sink(heap.slots, heap.len, hole)
    rise(heap.slots, hole, slot)


cdef void heap_free(Heap *heap) noexcept nogil:
    """Free the array and leave an empty heap, O(1).

    The nodes are not touched: those that were in the heap keep their old pos. Set it to 0 before one is pushed again.
    """
    free(heap.slots)
    heap.slots = NULL
    heap.len = 0
    heap.cap = 0


cdef inline bint is_in(Heap *heap, HeapNode *node) noexcept nogil:
    return 0 < node.pos <= heap.len and heap.slots[node.pos - 1].node == node


# ---- the Python class ----

@cython.auto_pickle(False)
@cython.final
@cython.freelist(64)
cdef class Handle:
    """Names one item in one heap until that item is popped, removed or cleared.

    Handles are only made by PriorityHeap.push. `handle in heap` says whether the item is still there.
    """
    # The heap owns one reference to each handle in it. The item belongs to the heap as well, though its pointer lies
    # here: it cannot be reached through the handle, so the heap alone answers for it to the garbage collector.
    cdef HeapNode node
    cdef PyObject *item
    cdef void *heap              # only compared, never followed

    def __init__(self):
        raise TypeError("a Handle is made by PriorityHeap.push, not by hand")


cdef inline PyObject *handle_of(HeapNode *node) noexcept nogil:
    # A Handle has no vtable, so that its first member directly follows the header of every object.
    return <PyObject *>(<char *>node - sizeof(PyObject))


cdef inline PyObject *item_of(HeapNode *node) noexcept:
    return (<Handle>handle_of(node)).item


@cython.auto_pickle(False)
@cython.final
@cython.trashcan(True)
cdef class PriorityHeap:
    """A heap of any objects, smallest priority first; equal priorities come out first-in first-out.

    A priority is an int from 0 to 2**64 - 1. push, pop, remove and update are O(log n), everything else but iteration
    and clear O(1). Each call runs under the GIL from start to end. There is no lock beyond that: threads that share a
    heap need one of their own around calls that belong together, such as peek and pop.
    """
    cdef Heap heap
    cdef uint64_t pushed
    cdef object gc_header        # always None: Cython gives a type a GC header only if it has an object attribute
    cdef object __weakref__

    def __dealloc__(self):
        drop_all(self)

    def push(self, item, priority):
        """Add an item.

        Args:
            item: any object; items are never compared.
            priority: an int from 0 to 2**64 - 1; the smallest comes out first.

        Returns:
            A Handle for remove and update. It may be thrown away.

        Raises:
            TypeError: the priority is not an int.
            OverflowError: the priority is out of range.
            MemoryError: there is no memory for another item; nothing has changed.
        """
        cdef uint64_t key = priority_key(priority)
        cdef Handle handle = Handle.__new__(Handle)
        if heap_push(&self.heap, &handle.node, key, self.pushed) != 0:
            raise MemoryError("no memory for another item in this heap")
        self.pushed += 1
        handle.heap = <void *>self
        handle.item = <PyObject *>item
        Py_INCREF(item)
        Py_INCREF(handle)
        return handle

    def peek(self):
        """Return the item with the smallest priority and leave it in the heap.

        Raises:
            IndexError: the heap is empty.
        """
        if self.heap.len == 0:
            raise IndexError("peek into an empty heap")
        return <object>item_of(heap_top(&self.heap).node)

    def pop(self):
        """Take out the item with the smallest priority and return it.

        Raises:
            IndexError: the heap is empty.
        """
        cdef HeapNode *node = heap_pop(&self.heap)
        if node == NULL:
            raise IndexError("pop from an empty heap")
        return release(node)

    def remove(self, Handle handle not None, /):
        """Remove the item of a handle, at any position, and return it.

        Raises:
            ValueError: the item is not in this heap (any more).
        """
        check_handle(self, handle)
        heap_remove(&self.heap, &handle.node)
        return release(&handle.node)

    def update(self, Handle handle not None, priority):
        """Change the priority of a handle's item; among equal priorities it keeps the rank of its push.

        Args:
            handle: what push gave.
            priority: the new priority, an int from 0 to 2**64 - 1.

        Raises:
            ValueError: the item is not in this heap (any more).
            TypeError: the priority is not an int.
            OverflowError: the priority is out of range.
        """
        cdef uint64_t key = priority_key(priority)
        check_handle(self, handle)
        heap_update(&self.heap, &handle.node, key, heap_slot(&self.heap, &handle.node).tie)

    def clear(self):
        """Take out all items, O(n). What the items' finalizers push meanwhile stays in the heap."""
        drop_all(self)

    def __len__(self):
        return self.heap.len

    def __bool__(self):
        return self.heap.len != 0

    def __contains__(self, handle):
        """Whether the item of a handle is in this heap. Asks for the handle, not for the item."""
        if not isinstance(handle, Handle):
            raise TypeError(f"ask with the Handle that push gave, not with {type(handle).__name__}")
        return (<Handle>handle).node.pos != 0 and (<Handle>handle).heap == <void *>self

    def __iter__(self):
        """Iterate over the items in the order of pops, over a copy made now: O(n log n) and 32 bytes an item.

        The heap is not changed, and may be changed while the iteration runs.
        """
        return iter(sorted_items(self))

    def __sizeof__(self):
        """The bytes of the heap and its array, without handles and items."""
        return object.__sizeof__(self) + self.heap.cap * sizeof(HeapSlot)

    def __repr__(self):
        return f"<{type(self).__name__} of {self.heap.len} items>"

    @classmethod
    def __class_getitem__(cls, item_type, /):
        """PriorityHeap[str] is for type checkers; it is the same class."""
        return Py_GenericAlias(cls, item_type)


cdef uint64_t priority_key(object priority) except? 0x7FFFFFFFFFFFFFFF:
    try:
        return PyLong_AsUnsignedLongLong(priority)
    except TypeError:
        pass
    except OverflowError:
        fault = "negative" if priority < 0 else "too large"
        raise OverflowError(f"a priority is an int from 0 to 2**64 - 1, and this one is {fault}") from None
    try:
        index = PyNumber_Index(priority)
    except TypeError:
        raise TypeError(f"a priority is an int from 0 to 2**64 - 1, not a {type(priority).__name__}") from None
    return priority_key(index)


cdef int check_handle(PriorityHeap self, Handle handle) except -1:
    if handle.node.pos == 0:
        raise ValueError("the item of this handle is in no heap any more: it was popped, removed or cleared")
    if handle.heap != <void *>self:
        raise ValueError("this handle belongs to another heap: use the heap whose push gave it")
    return 0


cdef inline object release(HeapNode *node):
    """Give up the heap's references of a node that was taken out; returns its item."""
    cdef object item = <object>item_of(node)
    Py_DECREF(item)
    Py_DECREF(<object>handle_of(node))
    return item


cdef void drop_all(PriorityHeap self) noexcept:
    # Finalizers of items may call any method of this heap: before the first one runs the heap is empty and every handle
    # knows that it is in no heap.
    cdef Heap old = self.heap
    cdef uint32_t index
    self.heap.slots = NULL
    heap_free(&self.heap)
    for index in range(old.len):
        heap_at(&old, index).node.pos = 0
    for index in range(old.len):
        release(heap_at(&old, index).node)
    heap_free(&old)


cdef int compare_slots(const void *a, const void *b) noexcept nogil:
    return -1 if slot_before(<const HeapSlot *>a, <const HeapSlot *>b) else 1


cdef list sorted_items(PriorityHeap self):
    # The list comes first: making it may start the garbage collector, and finalizers may change the heap. From there on
    # nothing runs Python code.
    cdef list items = []
    cdef size_t size = self.heap.len * sizeof(HeapSlot)
    cdef HeapSlot *slots
    cdef uint32_t index
    if self.heap.len == 0:
        return items
    slots = <HeapSlot *>malloc(size)
    if slots == NULL:
        raise MemoryError("no memory to sort the items of this heap")
    memcpy(slots, self.heap.slots, size)
    qsort(slots, self.heap.len, sizeof(HeapSlot), compare_slots)
    try:
        for index in range(self.heap.len):
            items.append(<object>item_of(slots[index].node))
    finally:
        free(slots)
    return items


# ---- the garbage collector ----

# Cython visits object attributes only; the items lie behind C pointers. So these two go in front of Cython's own.
cdef traverseproc plain_traverse = (<PyTypeObject *>PriorityHeap).tp_traverse
cdef inquiry plain_clear = (<PyTypeObject *>PriorityHeap).tp_clear


cdef int traverse_items(PyObject *self, visitproc visit, void *arg) noexcept:
    cdef Heap *heap = &(<PriorityHeap>self).heap
    cdef uint32_t index
    cdef int stop
    for index in range(heap.len):
        stop = visit(item_of(heap_at(heap, index).node), arg)
        if stop:
            return stop
    return plain_traverse(self, visit, arg)


cdef int clear_items(PyObject *self) noexcept:
    drop_all(<PriorityHeap>self)
    return plain_clear(self)


(<PyTypeObject *>PriorityHeap).tp_traverse = traverse_items
(<PyTypeObject *>PriorityHeap).tp_clear = clear_items
