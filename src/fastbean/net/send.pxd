"""Sending: from the outbox to a client's socket."""

from fastbean.net.connection cimport Connection, Connections

cdef void send(Connections shared, Connection *connection) noexcept nogil
cdef void send_held(Connection *connection) noexcept nogil
cdef void resume_if_drained(Connections shared, Connection *connection) noexcept nogil
