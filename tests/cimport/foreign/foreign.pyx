"""Timers on the heap of fastbean: which of them have expired, soonest first."""
from fastbean._core cimport Heap, HeapNode, heap_check_abi, heap_free, heap_pop, heap_push, heap_reserve, heap_top
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

heap_check_abi()                 # ImportError if another fastbean was installed and this module was not rebuilt

cdef struct Timer:
    HeapNode node                # the first member: a HeapNode * out of the heap is the Timer * that went in
    uint32_t index


def expired(list deadlines_s, uint64_t now_s):
    """Return the indexes of the deadlines that are not after now_s, soonest first; equal ones in the order given."""
    cdef uint32_t count = len(deadlines_s)
    cdef uint32_t found = 0
    cdef uint32_t index
    cdef Heap heap = Heap(NULL, 0, 0)                                  # all zero bytes: an empty heap
    cdef Timer *timers = <Timer *>calloc(count + 1, sizeof(Timer))     # all zero bytes: in no heap
    cdef Timer **order = <Timer **>calloc(count + 1, sizeof(Timer *))
    try:
        if timers == NULL or order == NULL or heap_reserve(&heap, count) != 0:
            raise MemoryError("no memory for the timers")
        for index in range(count):
            timers[index].index = index
            heap_push(&heap, &timers[index].node, deadlines_s[index], index)
        with nogil:
            while heap.len and heap_top(&heap).key <= now_s:
                order[found] = <Timer *>heap_pop(&heap)
                found += 1
        return [order[index].index for index in range(found)]
    finally:
        heap_free(&heap)
        free(order)
        free(timers)
