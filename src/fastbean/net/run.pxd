"""Running: cuts the bytes that a client has sent into commands, has the engine run them, and appends the replies."""

from libc.stdint cimport int64_t

from fastbean.net.connection cimport Connection, Connections

cdef void arrived(Connections shared, Connection *connection, size_t size, int64_t now_ns) noexcept nogil
cdef void run_again(Connections shared, Connection *connection, int64_t now_ns) noexcept nogil
cdef void end_hopeless_wait(Connections shared, Connection *connection) noexcept nogil
cdef void deliver(Connections shared) noexcept nogil

cdef inline void deliver_answers(Connections shared) noexcept nogil:
    """Append the replies of commands that ran earlier; they are sent at the end of the iteration."""
    if shared.state.answered.first is not NULL:
        deliver(shared)
