"""Commands that may take more than one iteration, and disconnects of clients."""

from libc.stdint cimport int64_t, uint32_t

from fastbean.engine.client cimport Client, ClientQueue, WorkKind
from fastbean.engine.job cimport Job
from fastbean.protocol.replies cimport Reply
from fastbean.engine.restore cimport Recovery
from fastbean.engine.tube cimport Tube


cdef class LongCommands(Recovery):
    cdef Reply begin_work(self, Client *client, WorkKind kind, uint32_t left, int64_t now_ns) noexcept
    cdef Reply begin_list_tubes(self, Client *client, int64_t now_ns) noexcept
    cdef Reply begin_oldest(self, Client *client, Tube *tube, int64_t now_ns) noexcept
    cdef bint work_on(self, int64_t now_ns) noexcept
    cdef void work_on_queue(self, ClientQueue *queue, int64_t now_ns) noexcept
    cdef void work_on_one(self, Client *client, int64_t now_ns) noexcept
    cdef bint step_work(self, Client *client, int64_t now_ns) noexcept
    cdef int kick_one(self, Job *job, int64_t now_ns) noexcept
    cdef bint step_kick(self, Client *client, int64_t now_ns) noexcept
    cdef bint step_list(self, Client *client) noexcept
    cdef int make_text_room(self, Client *client, size_t bytes) noexcept
    cdef bint step_oldest(self, Client *client, int64_t now_ns) noexcept
    cdef int requeue_one(self, Client *client, int64_t now_ns) noexcept
    cdef bint step_leave(self, Client *client, int64_t now_ns) noexcept
    cdef Reply end_work(self, Client *client) noexcept
