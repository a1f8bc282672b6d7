"""Accepting clients from listening sockets."""

from libc.stdint cimport int64_t

from fastbean.net.connection cimport Connections

cdef bint is_full(Connections shared) noexcept nogil
cdef void accept_some(Connections shared, int listening, int64_t now_ns) noexcept nogil
