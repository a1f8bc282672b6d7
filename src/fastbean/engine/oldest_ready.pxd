"""Finds the ready job of a tube that was put first."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.engine.job cimport Job, JobTable
from fastbean.engine.tube cimport Tube


cdef inline void oldest_enters(Tube *tube, uint64_t id) noexcept nogil:
    """A job of the tube has just become ready."""
    if id < tube.oldest_id or tube.ready.len == 1:
        tube.oldest_id = id


cdef inline uint64_t age_of_oldest_s(Job *oldest, int64_t now_ns) noexcept nogil:
    """The age in seconds of what `find_oldest` has found."""
    return 0 if oldest is NULL else <uint64_t>max(now_ns - oldest.created_ns, 0) // 1000000000


cdef bint find_oldest(JobTable *jobs, Tube *tube, uint32_t *steps, Job **oldest) noexcept nogil
