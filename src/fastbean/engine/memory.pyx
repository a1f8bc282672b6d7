"""What the jobs and buffers of one server take in memory, its limit, and when free memory goes back.

A job counts from the line of its put until nobody needs its bytes any more: deleted, and sent to whoever it was being
sent to. What it counts for is `job_cost`. Buffers count with the room that they have, not only with what is in it;
a client's are counted whenever something has happened to that client. Clients and tubes themselves have limits of
their own and do not count.

To count costs an addition, to look at the limit a comparison.
"""

from libc.stdint cimport int64_t, uint64_t

from fastbean.base.clock cimport NEVER
from fastbean.base.slab cimport Slab, own_heap, slab_each_iteration, slab_release_to_os

cdef enum:
    GIVE_BACK_BYTES = 8388608       # freed from which on it is worth the walk through the heap
    GIVE_BACK_AFTER_NS = 1000000000


cdef void memory_each_iteration(Memory *memory, Slab *slab, int64_t now_ns) noexcept nogil:
    """At least once in an iteration. Much free memory goes back if that lasts: who fills and empties a queue again and
    again needs it."""
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
