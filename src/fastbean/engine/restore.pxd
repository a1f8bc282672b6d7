"""The operations of `Store` on the state: restoring jobs at the start, and reading them for compaction."""

from fastbean.engine.job cimport Job
from fastbean.engine.journal cimport JobImage
from fastbean.engine.state cimport State


cdef class Recovery(State):
    cdef void expect_no_more(self) noexcept
    cdef Job *restore_job(self, JobImage *image) noexcept
    cdef int restore_place(self, Job *job, JobImage *image) noexcept
