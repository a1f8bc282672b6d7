"""Commands that may take more than one iteration, and clients that leave."""

from libc.stdint cimport int64_t, uint32_t

from fastbean.engine.client cimport Client, Work, WorkKind
from fastbean.engine.job cimport Job
from fastbean.protocol.replies cimport Reply
from fastbean.engine.restore cimport Recovery
from fastbean.engine.tube cimport Tube


cdef class LongCommands(Recovery):
    cdef void add_work(self, Work *work) noexcept
    cdef void remove_work(self, Work *work) noexcept
    cdef Reply begin_work(self, Client *client, WorkKind kind, uint32_t left, int64_t now_ns) noexcept
    cdef Reply begin_oldest(self, Client *client, Tube *tube, int64_t now_ns) noexcept
    cdef bint work_on(self, int64_t now_ns) noexcept
    cdef bint step_work(self, Work *work, int64_t now_ns) noexcept
    cdef int kick_one(self, Job *job, int64_t now_ns) noexcept
    cdef bint step_kick(self, Work *work, int64_t now_ns) noexcept
    cdef bint step_list(self, Work *work) noexcept
    cdef bint step_oldest(self, Work *work, int64_t now_ns) noexcept
    cdef int give_back(self, Client *client, int64_t now_ns) noexcept
    cdef bint step_leave(self, Work *work, int64_t now_ns) noexcept
    cdef Reply end_work(self, Work *work) noexcept
