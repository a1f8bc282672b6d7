"""Receiving: from a client's socket into memory."""

from fastbean.net.connection cimport Connection, Connections
from fastbean.net.socket_calls cimport iovec

cdef int space(Connections shared, Connection *connection, iovec *where) noexcept nogil
cdef size_t receive(Connections shared, Connection *connection, int events) noexcept nogil
cdef void look_for_hang_up(Connection *connection) noexcept nogil
cdef void read_before_close(Connections shared, Connection *connection) noexcept nogil
