"""Finds the ready job of a tube that was put first."""

from libc.stdint cimport uint32_t, uint64_t

from fastbean.engine.job cimport Job, JobTable
from fastbean.engine.tube cimport Tube


cdef inline void oldest_enters(Tube *tube, uint64_t id) noexcept nogil:
    """A job of the tube has just become ready."""
    if id < tube.oldest_id or tube.ready.len == 1:
        tube.oldest_id = id

cdef bint find_oldest(JobTable *jobs, Tube *tube, uint32_t *steps, Job **oldest) noexcept nogil
