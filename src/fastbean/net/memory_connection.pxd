"""A client in memory, for tests and benches."""

from fastbean.net.connection cimport Connection, Connections


cdef class MemoryConnection:
    cdef Connections shared
    cdef Connection *connection
