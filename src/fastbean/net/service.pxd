"""One connection's turn: its phases one after the other, and what follows from them."""

from libc.stdint cimport int64_t

from fastbean.net.connection cimport Connection, Connections, Link
from fastbean.net.transport cimport Transport

cdef Connection *connect_socket(Connections shared, int fd, bint is_unix, Transport *transport) noexcept nogil
cdef int begin_serving(Connections shared, Connection *connection, int64_t now_ns) noexcept nogil
cdef void serve_ready(Connections shared, Connection *connection, int events, int64_t now_ns) noexcept nogil
cdef void resume(Connections shared, Connection *connection, int64_t now_ns) noexcept nogil
cdef void send_all(Connections shared, Link *ring, int64_t now_ns) noexcept nogil
cdef void look_at_unwatched(Connections shared, int64_t now_ns) noexcept nogil
cdef void settle(Connections shared, Connection *connection, int64_t now_ns) noexcept nogil
cdef void drop(Connections shared, Connection *connection, int64_t now_ns) noexcept nogil
