"""The C surface of the priority heap, for cimport from other compiled modules.

_core.pyx documents what each function guarantees and costs; docs/cimport.md has a complete example. Only heap_check_abi
needs the GIL. Nothing locks: only one thread at a time may use a heap.
"""
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    HEAP_ABI = 1                 # raised whenever a struct or a signature below changes; new functions do not raise it

cdef struct HeapNode:            # embed it in your own struct; all zero bytes = in no heap
    uint32_t pos                 # 1-based position in the heap's array, 0 = in no heap

cdef struct HeapSlot:            # 24 bytes; the array holds the keys, so comparing them follows no pointer
    uint64_t key
    uint64_t tie
    HeapNode *node

cdef struct Heap:                # all zero bytes = an empty heap
    HeapSlot *slots
    uint32_t len
    uint32_t cap

cdef int heap_reserve(Heap *heap, uint32_t extra) noexcept nogil
cdef int heap_push(Heap *heap, HeapNode *node, uint64_t key, uint64_t tie) noexcept nogil
cdef HeapNode *heap_pop(Heap *heap) noexcept nogil
cdef void heap_remove(Heap *heap, HeapNode *node) noexcept nogil
cdef void heap_update(Heap *heap, HeapNode *node, uint64_t key, uint64_t tie) noexcept nogil
cdef int heap_append(Heap *heap, HeapNode *node, uint64_t key, uint64_t tie) noexcept nogil
cdef void heap_build(Heap *heap, uint32_t first) noexcept nogil
cdef HeapNode *heap_pushpop(Heap *heap, HeapNode *node, uint64_t key, uint64_t tie) noexcept nogil
cdef HeapNode *heap_replace(Heap *heap, HeapNode *node, uint64_t key, uint64_t tie) noexcept nogil
cdef void heap_free(Heap *heap) noexcept nogil
cdef uint32_t heap_abi() noexcept nogil


cdef inline HeapSlot *heap_top(Heap *heap) noexcept nogil:
    """The slot with the smallest (key, tie), or NULL if the heap is empty."""
    return heap.slots if heap.len else NULL


cdef inline HeapSlot *heap_at(Heap *heap, uint32_t index) noexcept nogil:
    """The slot at a 0-based index below heap.len, in array order: index 0 is the top, the others are not sorted."""
    return heap.slots + index


cdef inline HeapSlot *heap_slot(Heap *heap, HeapNode *node) noexcept nogil:
    """The slot of a node that is in this heap, valid until the heap changes. Change its keys with heap_update."""
    return heap.slots + (node.pos - 1)


cdef inline int heap_check_abi() except -1:
    """Raise ImportError if the installed fastbean._core has another ABI than the one this module was compiled for.

    Call it once, at the top of a module that cimports the heap: Cython itself does not compare struct layouts.
    """
    cdef uint32_t running = heap_abi()
    if running != HEAP_ABI:
        raise ImportError(
            f"this module was compiled for heap ABI {<uint32_t>HEAP_ABI} of fastbean._core, but the installed fastbean "
            f"has heap ABI {running}: rebuild the module against the installed fastbean"
        )
    return 0
