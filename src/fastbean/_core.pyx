"""A priority heap in C that knows the position of each of its entries.

It has two interfaces. Compiled modules use the structs and nogil functions of _core.pxd. Python code uses PriorityHeap,
also available as fastbean.heap: its push returns a Handle by which an item can be removed or moved later.

Guarantees. The smallest (key, tie) is at the top; both are unsigned 64-bit numbers. A node is embedded in its owner's
struct; the heap writes the node's position and nothing else, and never copies or frees it. Only heap_reserve, heap_push
and heap_append can fail, and then nothing has changed. No heap function needs the GIL and none locks: only one thread
at a time may use a heap. The C functions are checked for wrong use only in a build with FASTBEAN_DEBUG defined, which
aborts.

Costs. push, pop, pushpop, replace, remove and update are O(log n); build is O(n); top, slot and length are O(1). An
entry takes 24 bytes of the array. The array doubles when it is full and halves when at most a quarter of it is used;
both are one realloc. Each node has four children, and a hole sinks to a leaf before the last entry rises from there.
Measured with 200,000 and 1,000,000 random entries this takes 0.73 and 0.78 of the time of a binary heap, and 0.89 and
0.80 of its own time without the prefetch.

Invariants. heap_at(i).node.pos == i + 1 for every i below len: position 0 is free to mean "in no heap", and no slot
is wasted. No slot comes before its parent, except between heap_append and heap_build; the parent of index i is
(i - 1) // 4.
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

    /* No branch: no predictor can guess which of two random keys is smaller. */
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
    MIN_CAP = 4                  # slots; a smaller array would be reallocated again and again by a small heap


# ---- the C surface ----

cdef uint32_t heap_abi() noexcept nogil:
    """The HEAP_ABI this module was built with; heap_check_abi of _core.pxd compares it with the caller's."""
    return HEAP_ABI


cdef inline bint slot_before(const HeapSlot *a, const HeapSlot *b) noexcept nogil:
    return heap_before(a.key, a.tie, b.key, b.tie)


cdef inline void put_slot(HeapSlot *slots, uint32_t index, HeapSlot slot) noexcept nogil:
    slots[index] = slot
    slot.node.pos = index + 1


cdef inline void prefetch_children(const HeapSlot *slots, uint64_t first, uint32_t len) noexcept nogil:
    """Prefetch the 16 children of the 4 slots at index first, before it is known which 4 of them will be needed."""
    cdef const char *address = <const char *>(slots + (4 * first + 1))
    cdef int line
    if 4 * first + 16 < len:
        for line in range(7):
            heap_prefetch(address + 64 * line)


cdef inline void rise(HeapSlot *slots, uint32_t hole, HeapSlot slot) noexcept nogil:
    """Move a hole up to where slot belongs, and put slot there."""
    cdef uint32_t parent
    while hole:
        parent = (hole - 1) >> 2
        if not slot_before(&slot, &slots[parent]):
            break
        put_slot(slots, hole, slots[parent])
        hole = parent
    put_slot(slots, hole, slot)


cdef inline uint64_t smallest_of_four(const HeapSlot *slots, uint64_t child) noexcept nogil:
    cdef uint64_t best = child + slot_before(&slots[child + 1], &slots[child])
    cdef uint64_t other = child + 2 + slot_before(&slots[child + 3], &slots[child + 2])
    return other if slot_before(&slots[other], &slots[best]) else best


cdef inline uint64_t smallest_of_rest(const HeapSlot *slots, uint64_t child, uint32_t len) noexcept nogil:
    """The smallest of the one to three slots from index child to the end."""
    cdef uint64_t best = child
    cdef uint64_t other
    for other in range(child + 1, len):
        if slot_before(&slots[other], &slots[best]):
            best = other
    return best


cdef inline uint32_t sink(HeapSlot *slots, uint32_t len, uint32_t hole) noexcept nogil:
    """Move a hole down to a leaf, moving its smallest child up each time, and return the leaf's index."""
    cdef uint64_t child = 4 * <uint64_t>hole + 1
    cdef uint64_t best
    while child + 3 < len:
        prefetch_children(slots, child, len)
        best = smallest_of_four(slots, child)
        put_slot(slots, hole, slots[best])
        hole = <uint32_t>best
        child = 4 * best + 1
    if child < len:
        best = smallest_of_rest(slots, child, len)
        put_slot(slots, hole, slots[best])
        hole = <uint32_t>best
    return hole


cdef void sift_down(HeapSlot *slots, uint32_t len, uint32_t hole) noexcept nogil:
    """Order the subtree at index hole, whose own subtrees are in order.

    heap_build cannot sink a hole to a leaf and let the slot rise: what is above the subtree is not in order yet.
    """
    cdef HeapSlot slot = slots[hole]
    cdef uint64_t child = 4 * <uint64_t>hole + 1
    cdef uint64_t best
    while child < len:
        best = smallest_of_four(slots, child) if child + 3 < len else smallest_of_rest(slots, child, len)
        if not slot_before(&slots[best], &slot):
            break
        put_slot(slots, hole, slots[best])
        hole = <uint32_t>best
        child = 4 * best + 1
    put_slot(slots, hole, slot)


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
    """Make room for `extra` pushes or appends, which then cannot fail.

    Returns 0, or -1 if there is no memory or the heap would grow beyond 2**32 - 1 entries; then nothing has changed.
    heap_pop and heap_remove may free the room again, but they always leave room for two pushes.
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
    """Add a node that is in no heap. Returns 0, or -1 as heap_reserve does; then nothing has changed."""
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
        # If there is no memory to shrink, the array keeps its size; the next pop or remove tries again.
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
    """Take out a node that is in this heap, from any position; its pos becomes 0."""
    heap_check(is_in(heap, node), "heap_remove of a node that is not in this heap")
    take_out(heap, node.pos - 1)


cdef void heap_update(Heap *heap, HeapNode *node, uint64_t key, uint64_t tie) noexcept nogil:
    """Change the keys of a node that is in this heap, and move it to where it belongs."""
    cdef uint32_t hole = node.pos - 1
    cdef HeapSlot slot
    heap_check(is_in(heap, node), "heap_update of a node that is not in this heap")
    slot.key = key
    slot.tie = tie
    slot.node = node
    if slot_before(&heap.slots[hole], &slot):
        hole = sink(heap.slots, heap.len, hole)
    rise(heap.slots, hole, slot)


cdef int heap_append(Heap *heap, HeapNode *node, uint64_t key, uint64_t tie) noexcept nogil:
    """Add a node that is in no heap at the end of the array, out of order.

    Until heap_build is called, only heap_reserve, heap_append, heap_at, heap_slot and heap_free may be called. Returns
    0, or -1 as heap_reserve does; then nothing has changed.
    """
    cdef HeapSlot slot
    heap_check(node.pos == 0, "heap_append of a node that is in a heap already")
    if heap.len == heap.cap and heap_reserve(heap, 1) != 0:
        return -1
    slot.key = key
    slot.tie = tie
    slot.node = node
    heap.len += 1
    put_slot(heap.slots, heap.len - 1, slot)
    return 0


cdef void heap_build(Heap *heap, uint32_t first) noexcept nogil:
    """Restore the order after heap_append, or after new keys were written to slots.

    Slots below index `first` are in order already: `first` is the length before the first heap_append, and 0 orders the
    whole array. With k slots from `first` to the end this is O(k + log(n)**2), so O(n) for the whole array.
    """
    cdef uint32_t low = first
    cdef uint32_t high = heap.len - 1
    cdef uint32_t index
    if first >= heap.len:
        return
    # A pass orders the subtrees of the parents of the slots that the pass before has changed, the last one first.
    while high:
        low = (low - 1) >> 2 if low else 0
        high = (high - 1) >> 2
        index = high + 1
        while index > low:
            index -= 1
            sift_down(heap.slots, heap.len, index)
        if low == 0:
            break


cdef HeapNode *heap_pushpop(Heap *heap, HeapNode *node, uint64_t key, uint64_t tie) noexcept nogil:
    """Add a node that is in no heap, then take out the one with the smallest (key, tie) and return it, its pos now 0.

    That may be the node itself. The length stays the same, so this cannot fail.
    """
    cdef HeapSlot slot
    slot.key = key
    slot.tie = tie
    if heap.len == 0 or slot_before(&slot, heap.slots):
        return node
    return heap_replace(heap, node, key, tie)


cdef HeapNode *heap_replace(Heap *heap, HeapNode *node, uint64_t key, uint64_t tie) noexcept nogil:
    """Take out the node with the smallest (key, tie), then add a node that is in no heap.

    Returns the node taken out, its pos now 0. Returns NULL if the heap is empty; then nothing has changed. The length
    stays the same, so this cannot fail.
    """
    cdef HeapNode *top
    cdef HeapSlot slot
    heap_check(node.pos == 0, "heap_replace by a node that is in a heap already")
    if heap.len == 0:
        return NULL
    slot.key = key
    slot.tie = tie
    slot.node = node
    top = heap.slots[0].node
    top.pos = 0
    rise(heap.slots, sink(heap.slots, heap.len, 0), slot)
    return top


cdef void heap_free(Heap *heap) noexcept nogil:
    """Free the array and leave an empty heap, O(1).

    The nodes are not touched: those that were in the heap keep their old pos. Set it to 0 before you push one again.
    """
    free(heap.slots)
    heap.slots = NULL
    heap.len = 0
    heap.cap = 0


cdef inline bint is_in(Heap *heap, HeapNode *node) noexcept nogil:
    return 0 < node.pos <= heap.len and heap.slots[node.pos - 1].node == node


include "_priority_heap.pxi"
