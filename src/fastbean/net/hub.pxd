"""The hub: all connections of one server, and the iterations of the event loop."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.base.stopwatch cimport IterationPart, Stopwatch
from fastbean.engine.state cimport State
from fastbean.net.connection cimport Connections


cdef class Hub:
    cdef readonly State state
    cdef readonly Connections shared
    cdef public int64_t now_ns      # the time of this iteration
    cdef int64_t wait_ns            # what the last `end_iteration` returned
    cdef uint32_t ready             # descriptors that the poller found ready in this iteration
    cdef bint polled                # `end_iteration` was preceded by a wait, not called by itself
    cdef bint gathering             # the next iteration comes before the commit of this one
    cdef bint is_slow               # this iteration was, and that is not reported yet
    cdef uint32_t gathered_iterations
    cdef int64_t looked_ns          # when unwatched clients were last checked
    cdef Stopwatch watch            # of this iteration
    cdef IterationPart phase            # what the iteration is doing
    cdef uint64_t before_moves      # effort of the engine before this iteration
    cdef int64_t http_report_ns     # when the next report of HTTP requests may be made
    cdef int reported_error         # the `accept_error` that was reported last; 0: none, or accepting again
    cdef public object on_close
    cdef public object on_accept_error
    cdef public object on_refused
    cdef public object on_slow_iteration
    cdef public object on_http_requests
    cdef public object on_dropped_notices

    cdef bint iterate(self, int64_t until_ns) except -1 nogil
    cdef int handle_signals(self) except -1 with gil
    cdef void begin(self, uint32_t ready, int64_t now_ns) noexcept nogil
    cdef bint serve_found(self) noexcept nogil
    cdef bint call_back(self) except -1 with gil
    cdef bint has_news(self) noexcept nogil
    cdef bint are_http_requests_due(self) noexcept nogil
    cdef bint report(self) except -1 with gil
    cdef bint report_acceptance(self) except -1
    cdef int tell_requests(self) except -1
    cdef int tell_notices(self) except -1
    cdef int report_slow_iteration(self) except -1
    cdef int report_http_requests(self) except -1
    cdef int64_t finish(self, int64_t now_ns) except -2 nogil
    cdef int tell_notices_first(self) except -1 with gil
    cdef void resume_postponed(self, int64_t now_ns) noexcept nogil
    cdef int raise_failure(self) except -1 with gil
    cdef int64_t wait_after(self, int64_t now_ns, bint more, bint copies) noexcept nogil
    cdef void commit(self, int64_t now_ns) noexcept nogil
    cdef int64_t next_ns(self, int64_t now_ns) noexcept nogil
