"""The memory of one server's jobs and buffers: its count, its limit, and when free memory is released to the system.

A job counts from the line of its put until its bytes are no longer needed: deleted, and completely sent to every client
it was being sent to. It counts with its `job_cost`, but a large job only with the bytes received so far: a client that
announces a body and sends nothing uses no room. A put that passed the check at its line is never refused for memory
later, so the sum may exceed the limit by one largest job for each client that is in the middle of a put.

Buffers count with their capacity, not only with their content. A client's buffers are counted after every event of that
client, its unfinished text after each slice. The journal counts its own (`Journal.memory_bytes`). Clients and tubes do
not count: they have limits of their own.

Counting costs an addition, checking the limit a comparison.
"""

from libc.stdint cimport int64_t, uint64_t

from fastbean.base.clock cimport NEVER
from fastbean.base.slab cimport Slab, own_heap, slab_each_iteration, slab_release_to_os

cdef enum:
    GIVE_BACK_BYTES = 8388608       # freed bytes that make a walk through the heap worthwhile
    GIVE_BACK_AFTER_NS = 1000000000


cdef void memory_each_iteration(Memory *memory, Slab *slab, int64_t now_ns) noexcept nogil:
    """Call it at least once per iteration. Memory is returned to the system only after it has been free for a second; a
    queue that keeps filling and draining would need it again."""
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
    """Manage the C library's heap for a server. Call it before the server starts, in a program that only runs a server.

    The process then keeps freed memory until the server releases it, a second later; its heap grows in large steps, of
    large pages, while a large binlog is read. In a process that does not call this, a server leaves the heap alone.
    """
    own_heap()
