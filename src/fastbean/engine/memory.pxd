"""The memory of one server's jobs and buffers: its count, its limit, and when free memory is released to the system."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.engine.job cimport JOB_PLACES_BYTES, Job
from fastbean.base.slab cimport MOST_SLOT_BYTES, Slab

cdef struct Memory:
    uint64_t job_bytes              # of jobs, and the received part of those that still arrive
    uint64_t buffer_bytes           # of what clients have sent, and of replies to them
    uint64_t limit_bytes            # above this sum puts are refused; UINT64_MAX for no limit
    uint64_t freed_bytes            # of jobs in slots, since memory was last released
    uint64_t freed_large_bytes      # of larger jobs and of buffers: slots cannot use the gaps that they leave
    int64_t release_at_ns           # when free memory is released to the system, or NEVER


cdef inline bint memory_is_full(Memory *memory, uint64_t more_bytes) noexcept nogil:
    """Whether `more_bytes` would exceed the limit."""
    return memory.job_bytes + memory.buffer_bytes + more_bytes > memory.limit_bytes


cdef inline uint64_t *freed_as(Memory *memory, uint64_t job_bytes) noexcept nogil:
    cdef bint small = job_bytes <= MOST_SLOT_BYTES + JOB_PLACES_BYTES
    return &memory.freed_bytes if small else &memory.freed_large_bytes


cdef inline bint arrives_whole(uint32_t body_bytes) noexcept nogil:
    """Whether a job of this size counts in full as soon as it is allocated. A larger one has its own pages, and the
    system provides only those that were written."""
    return sizeof(Job) + body_bytes <= MOST_SLOT_BYTES


cdef inline void memory_keep(Memory *memory, uint64_t job_bytes) noexcept nogil:
    """Count a new job of `job_bytes`; it uses free memory first, where there is some."""
    cdef uint64_t *freed = freed_as(memory, job_bytes)
    memory.job_bytes += job_bytes
    freed[0] -= min(freed[0], job_bytes)


cdef inline void memory_drop(Memory *memory, uint64_t job_bytes) noexcept nogil:
    """Uncount a job that was counted with `job_bytes`."""
    memory.job_bytes -= job_bytes
    freed_as(memory, job_bytes)[0] += job_bytes


cdef inline void memory_count_body(Memory *memory, uint32_t more_bytes) noexcept nogil:
    """Count `more_bytes` received of the body of a large job."""
    memory.job_bytes += more_bytes
    memory.freed_large_bytes -= min(memory.freed_large_bytes, <uint64_t>more_bytes)


cdef inline void memory_count_buffers(Memory *memory, uint64_t before_bytes, uint64_t now_bytes) noexcept nogil:
    """Count the change of a client's buffers."""
    memory.buffer_bytes += now_bytes - before_bytes
    if now_bytes < before_bytes:
        memory.freed_large_bytes += before_bytes - now_bytes
    else:
        memory.freed_large_bytes -= min(memory.freed_large_bytes, now_bytes - before_bytes)


cdef void memory_each_iteration(Memory *memory, Slab *slab, int64_t now_ns) noexcept nogil
