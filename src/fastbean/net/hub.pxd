"""The hub: all connections of one server, and the iterations of the event loop."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.engine.state cimport State
from fastbean.net.connection cimport Connection, Connections
from fastbean.base.stopwatch cimport Stopwatch, IterationPart


cdef class Hub:
    cdef readonly State state
    cdef readonly Connections shared
    cdef public int64_t now_ns      # the time of this iteration
    cdef int64_t wait_ns            # what the last `end_iteration` returned
    cdef uint64_t committed_lsn     # replies that depend on no more than this were sent
    cdef uint32_t ready             # descriptors that the poller found ready in this iteration
    cdef bint polled                # `end_iteration` was preceded by a wait, not called by itself
    cdef bint gathering             # the next iteration comes before the commit of this one
    cdef uint32_t gathered_iterations
    cdef int64_t looked_ns          # when unwatched clients were last checked
    cdef Stopwatch watch            # of this iteration
    cdef IterationPart phase            # what the iteration is doing
    cdef uint64_t before_moves      # effort of the engine before this iteration
    cdef int64_t http_report_ns     # when the next report of HTTP requests may be made
    cdef public object on_close
    cdef public object on_slow_iteration
    cdef public object on_http_requests

    cdef Connection open_connection(self, int fd)
    cdef bint iterate(self, int64_t until_ns) except -1
    cdef bint handle_polled(self, int64_t wait_ns) except -1
    cdef bint handle(self, int64_t wait_ns) except -1
    cdef void begin(self, uint32_t ready, int64_t now_ns) noexcept
    cdef int report_slow_iteration(self) except -1
    cdef int report_http_requests(self) except -1
    cdef bint serve_one(self, object data, int mask) except -1
    cpdef int64_t end_iteration(self, int64_t now_ns) except? -2
    cdef void commit(self, int64_t now_ns) noexcept
    cdef void send(self, list connections, int64_t now_ns) noexcept
    cdef int64_t next_ns(self, int64_t now_ns) noexcept
    cdef int stop_sending(self, Connection connection) noexcept
    cdef void look_at_unwatched(self, int64_t now_ns) noexcept
