# distutils: language = c++
"""The heap through cimport compared with std::priority_queue: elements of the same 24 bytes, in the same order.

Each function pushes `count` random keys into an empty heap without reserved room and pops them all, without the GIL. It
returns the seconds; a wrong order is a RuntimeError.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libcpp.queue cimport priority_queue
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from fastbean._core cimport Heap, HeapNode, heap_check_abi, heap_free, heap_pop, heap_push

heap_check_abi()

cdef extern from *:
    """
    #include <cstdint>
    struct Element {
        uint64_t key, tie;
        void *node;
        bool operator<(const Element &other) const
        {return key != other.key ? key > other.key : tie > other.tie;}
    };
    static_assert(sizeof(Element) == 24, "of the size of a heap's slot");
    """
    cppclass Element:
        uint64_t key
        uint64_t tie
        void *node

cdef struct Item:
    HeapNode node
    uint32_t number


cdef double now_s() noexcept nogil:
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return time.tv_sec + time.tv_nsec / 1e9


cdef inline uint64_t next_key(uint64_t *state) noexcept nogil:
    """Of splitmix64, 32 bits as of a job's priority."""
    cdef uint64_t mixed
    state[0] += <uint64_t>0x9E3779B97F4A7C15
    mixed = state[0]
    mixed = (mixed ^ (mixed >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    mixed = (mixed ^ (mixed >> 27)) * <uint64_t>0x94D049BB133111EB
    return (mixed ^ (mixed >> 31)) >> 32


cdef double race_heap(Item *items, uint32_t count, bint *wrong) noexcept nogil:
    cdef Heap heap = Heap(NULL, 0, 0)
    cdef uint64_t state = 1
    cdef uint64_t before = 0
    cdef uint64_t key
    cdef uint32_t i
    cdef double begun_s = now_s()
    for i in range(count):
        if heap_push(&heap, &items[i].node, next_key(&state), i) != 0:
            wrong[0] = True
    while heap.len:
        key = heap.slots[0].key
        wrong[0] |= key < before or heap_pop(&heap) is NULL
        before = key
    begun_s = now_s() - begun_s
    heap_free(&heap)
    return begun_s


cdef double race_queue(uint32_t count, bint *wrong) noexcept nogil:
    cdef priority_queue[Element] queue
    cdef Element element
    cdef uint64_t state = 1
    cdef uint64_t before = 0
    cdef uint32_t i
    cdef double begun_s = now_s()
    element.node = NULL
    for i in range(count):
        element.key = next_key(&state)
        element.tie = i
        queue.push(element)
    while not queue.empty():
        wrong[0] |= queue.top().key < before
        before = queue.top().key
        queue.pop()
    return now_s() - begun_s


def through_cimport(count: int) -> float:
    """Seconds for `count` pushes and pops of fastbean._core's heap."""
    cdef bint wrong = False
    cdef uint32_t number = count
    cdef double taken_s
    cdef Item *items = <Item *>calloc(count, sizeof(Item))
    if items is NULL:
        raise MemoryError(f"no room for {count} items")
    with nogil:
        taken_s = race_heap(items, number, &wrong)
    free(items)
    if wrong:
        raise RuntimeError("the heap's order is wrong")
    return taken_s


def through_priority_queue(count: int) -> float:
    """Seconds for `count` pushes and pops of std::priority_queue."""
    cdef bint wrong = False
    cdef uint32_t number = count
    cdef double taken_s
    with nogil:
        taken_s = race_queue(number, &wrong)
    if wrong:
        raise RuntimeError("the queue's order is wrong")
    return taken_s
