"""Commands that may take more than one iteration, and disconnects of clients."""

from libc.stdint cimport int64_t, uint32_t

from fastbean.engine.client cimport Client, WorkKind
from fastbean.engine.job cimport Job
from fastbean.engine.state cimport State
from fastbean.engine.tube cimport Tube
from fastbean.protocol.replies cimport Reply

cdef Reply begin_work(State state, Client *client, WorkKind kind, uint32_t left, int64_t now_ns) noexcept nogil
cdef Reply begin_list_tubes(State state, Client *client, int64_t now_ns) noexcept nogil
cdef Reply begin_oldest(State state, Client *client, Tube *tube, int64_t now_ns) noexcept nogil
cdef bint work_on(State state, int64_t now_ns) noexcept nogil
cdef int kick_one(State state, Job *job, int64_t now_ns) noexcept nogil
