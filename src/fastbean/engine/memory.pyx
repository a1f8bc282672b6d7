"""What the jobs and buffers of one server take in memory, its limit, and when free memory returns to the system.

A job counts from the line of its put until it is deleted and no reply sends its body any more. It counts for
`job_cost`; of a large one, only the bytes that have arrived: a client that announces a body and sends nothing uses up
no room. So the sum may pass the limit, by what was announced before and came later, at most the largest job for each
client that is in the middle of a put: a put that passed the check at its line is never refused for memory.

Buffers count with their capacity, not only with what is in them. A client's are counted whenever something has
happened to that client, its unfinished text after each slice. The journal counts its own (`Journal.memory_bytes`).
Clients and tubes themselves have limits of their own and do not count.

Counting costs an addition, checking the limit a comparison.
"""

from libc.stdint cimport int64_t, uint64_t

from fastbean.base.clock cimport NEVER
from fastbean.base.slab cimport Slab, own_heap, slab_each_iteration, slab_release_to_os

cdef enum:
    GIVE_BACK_BYTES = 8388608       # with less than that freed, the walk through the heap is not worth it
    GIVE_BACK_AFTER_NS = 1000000000


cdef void memory_each_iteration(Memory *memory, Slab *slab, int64_t now_ns) noexcept nogil:
    """Call it at least once in an iteration. Much free memory returns to the system only after it has been free for a
    while: a queue that keeps filling and draining would need it again."""
    cdef uint64_t freed_bytes = memory.freed_bytes + memory.freed_large_bytes
    slab_each_iteration(slab)
    if freed_bytes <= GIVE_BACK_BYTES or freed_bytes <= memory.job_bytes // 2:
        memory.release_at_ns = NEVER
    elif memory.release_at_ns == NEVER:
        memory.release_at_ns = now_ns + GIVE_BACK_AFTER_NS
    elif now_ns >= memory.release_at_ns:
        memory.release_at_ns = NEVER
        memory.freed_bytes = memory.freed_large_bytes = 0
        slab_release_to_os(slab)


def keep_freed():
    """Manage the C library's heap for a server; for a program of which a server is all, before the server starts.

    The process then keeps the memory that is freed until the server releases it, a second later; its heap grows in
    large steps, of large pages, while a large binlog is read. In a process that does not call this, a server changes
    nothing about the heap.
    """
    own_heap()
