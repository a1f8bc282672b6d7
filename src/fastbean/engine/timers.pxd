"""What is due: delays, pauses, reservations and waits that end."""

from libc.stdint cimport int64_t

from fastbean.engine.state cimport State

cdef bint expire(State state, int64_t now_ns) noexcept nogil
