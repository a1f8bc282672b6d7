"""Calls every function of the heap's C surface and reports to the tests what it saw."""
from fastbean._core cimport (
    Heap, HeapNode, HeapSlot, heap_append, heap_at, heap_build, heap_check_abi, heap_free, heap_pop, heap_push,
    heap_pushpop, heap_remove, heap_replace, heap_reserve, heap_slot, heap_top, heap_update,
)
from libc.stdint cimport UINT32_MAX, uint32_t, uint64_t
from libc.string cimport memset

heap_check_abi()

cdef enum:
    NODES = 512

cdef struct Owner:
    uint64_t before              # the node lies in the middle: the heap must leave its neighbours alone
    HeapNode node
    uint64_t after

cdef Owner owners[NODES]


cdef bint smaller(HeapSlot *a, HeapSlot *b) noexcept nogil:
    return a.key < b.key or (a.key == b.key and a.tie < b.tie)


cdef uint32_t faults_of(Heap *heap) noexcept nogil:
    """The entries that break what must always hold."""
    cdef uint32_t faults = heap.len > heap.cap
    cdef uint32_t index
    for index in range(heap.len):
        faults += heap_at(heap, index).node.pos != index + 1
        faults += heap_slot(heap, heap_at(heap, index).node) != heap_at(heap, index)
        faults += index > 0 and smaller(heap_at(heap, index), heap_at(heap, (index - 1) // 4))
        faults += smaller(heap_at(heap, index), heap_top(heap))
    for index in range(NODES):
        faults += owners[index].before != index or owners[index].after != ~<uint64_t>index
    return faults


cdef void reset() noexcept nogil:
    cdef uint32_t index
    memset(owners, 0, sizeof(owners))
    for index in range(NODES):
        owners[index].before = index
        owners[index].after = ~<uint64_t>index


cdef uint64_t dice(uint64_t *state) noexcept nogil:
    state[0] ^= state[0] << 13
    state[0] ^= state[0] >> 7
    state[0] ^= state[0] << 17
    return state[0]


cdef uint32_t one_step(Heap *heap, uint64_t *state, uint64_t step, uint64_t mask) noexcept nogil:
    """One random call; returns the faults of its own result."""
    cdef HeapNode *node = &owners[dice(state) % NODES].node
    cdef uint64_t key = dice(state) & mask
    cdef uint32_t faults = 0
    if node.pos == 0 and key % 3 == 0 and heap.len:
        faults += one_exchange(heap, node, key, step)
    elif node.pos == 0:
        faults += heap_push(heap, node, key, step) != 0
        faults += heap_slot(heap, node).key != key
    elif key % 3 == 0:
        heap_update(heap, node, dice(state) & mask, step)
        faults += heap_slot(heap, node).tie != step
    elif key % 3 == 1:
        heap_remove(heap, node)
        faults += node.pos != 0
    else:
        node = heap_top(heap).node
        faults += heap_pop(heap) != node or node.pos != 0
    return faults


cdef uint32_t one_exchange(Heap *heap, HeapNode *node, uint64_t key, uint64_t step) noexcept nogil:
    """A heap_pushpop or a heap_replace with a node that is in no heap; returns the faults of its result."""
    cdef HeapSlot slot
    cdef HeapNode *top = heap_top(heap).node
    cdef HeapNode *gone
    cdef uint32_t length = heap.len
    slot.key, slot.tie = key, step
    if step % 2:
        gone = heap_replace(heap, node, key, step)
    else:
        if smaller(&slot, heap_top(heap)):
            top = node
        gone = heap_pushpop(heap, node, key, step)
    return (gone != top) + (gone.pos != 0) + (gone != node and node.pos == 0) + (heap.len != length)


def random_calls(uint64_t seed, uint32_t steps, uint64_t mask):
    """Make random calls with keys up to mask; returns the faults found after all of them and the largest length."""
    cdef Heap heap = Heap(NULL, 0, 0)
    cdef uint32_t faults = 0
    cdef uint32_t longest = 0
    cdef uint32_t step
    with nogil:
        reset()
        for step in range(steps):
            faults += one_step(&heap, &seed, step, mask)
            faults += faults_of(&heap)
            longest = max(longest, heap.len)
        heap_free(&heap)
    return faults, longest


def built(uint64_t seed, uint32_t before, uint32_t count, uint64_t mask):
    """Append `count` random entries to a heap of `before`, and build it; returns the faults and the length."""
    cdef Heap heap = Heap(NULL, 0, 0)
    cdef uint32_t faults = 0
    cdef uint32_t index
    reset()
    for index in range(before):
        faults += heap_push(&heap, &owners[index].node, dice(&seed) & mask, index) != 0
    for index in range(before, before + count):
        faults += heap_append(&heap, &owners[index].node, dice(&seed) & mask, index) != 0
        faults += heap_at(&heap, index).node != &owners[index].node
    heap_build(&heap, before)
    faults += faults_of(&heap)
    length = heap.len
    heap_free(&heap)
    return faults, length


def rebuilt(uint64_t seed, uint32_t count):
    """Write new keys into all slots, and build the heap; returns the faults."""
    cdef Heap heap = Heap(NULL, 0, 0)
    cdef uint32_t faults = 0
    cdef uint32_t index
    reset()
    for index in range(count):
        faults += heap_push(&heap, &owners[index].node, index, 0) != 0
    for index in range(count):
        heap_at(&heap, index).key = dice(&seed)
    heap_build(&heap, 0)
    faults += faults_of(&heap)
    heap_free(&heap)
    return faults


def exchanged_in_an_empty_heap():
    """(heap_pushpop returns the node itself, heap_replace returns NULL, the node is in no heap, no array was made)."""
    cdef Heap heap = Heap(NULL, 0, 0)
    cdef HeapNode *node = &owners[0].node
    reset()
    return (
        heap_pushpop(&heap, node, 1, 1) == node,
        heap_replace(&heap, node, 1, 1) == NULL,
        node.pos == 0 and heap.len == 0,
        heap.slots == NULL,
    )


def ordered(list keys):
    """Push (key, tie) pairs and pop them all."""
    cdef Heap heap = Heap(NULL, 0, 0)
    cdef list pops = []
    reset()
    for index, (key, tie) in enumerate(keys):
        heap_push(&heap, &owners[<uint32_t>index].node, key, tie)
    while heap.len:
        pops.append((heap_top(&heap).key, heap_top(&heap).tie))
        heap_pop(&heap)
    heap_free(&heap)
    return pops


def empty():
    """What an all-zero heap returns: (top is NULL, pop is NULL, len)."""
    cdef Heap heap = Heap(NULL, 0, 0)
    return heap_top(&heap) == NULL, heap_pop(&heap) == NULL, heap.len


def reserved(uint32_t extra):
    """Reserve room, push as many entries; returns whether the array is the reserved one."""
    cdef Heap heap = Heap(NULL, 0, 0)
    cdef uint32_t cap, index
    cdef HeapSlot *slots
    reset()
    if heap_reserve(&heap, extra) != 0:
        raise MemoryError("no memory for the heap")
    cap, slots = heap.cap, heap.slots
    for index in range(extra):
        heap_push(&heap, &owners[index].node, index, 0)
    same = heap.cap == cap and heap.slots == slots and heap.len == extra
    heap_free(&heap)
    return same


def reserved_beyond_the_limit():
    """Reserve one more than the 2**32 - 1 entries that fit; returns (result, nothing changed)."""
    cdef Heap heap = Heap(NULL, 0, 0)
    cdef Heap before
    reset()
    heap_push(&heap, &owners[0].node, 7, 0)
    before = heap
    answer = heap_reserve(&heap, UINT32_MAX)
    same = heap.slots == before.slots and heap.len == before.len and heap.cap == before.cap
    heap_free(&heap)
    return answer, same


def caps(uint32_t count):
    """The capacities seen while count entries are pushed and then popped, as (length, capacity) after each call."""
    cdef Heap heap = Heap(NULL, 0, 0)
    cdef list seen = []
    cdef uint32_t index
    reset()
    for index in range(count):
        heap_push(&heap, &owners[index].node, index, 0)
        seen.append((heap.len, heap.cap))
    while heap.len:
        heap_pop(&heap)
        seen.append((heap.len, heap.cap))
    heap_free(&heap)
    return seen


def freed():
    """Free a heap of one entry; returns (len, cap, array is gone, the node's pos)."""
    cdef Heap heap = Heap(NULL, 0, 0)
    reset()
    heap_push(&heap, &owners[0].node, 7, 0)
    heap_free(&heap)
    return heap.len, heap.cap, heap.slots == NULL, owners[0].node.pos


def sizes():
    """The bytes of a node and of a slot."""
    return sizeof(HeapNode), sizeof(HeapSlot)
