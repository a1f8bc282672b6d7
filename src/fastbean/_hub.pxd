"""The hub: all connections of one server, and the turns of the loop."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean._connection cimport Connection, Shared
from fastbean._stopwatch cimport Stopwatch, TurnPhase


cdef class Hub(Shared):
    cdef public int64_t now_ns      # the time of this turn
    cdef int64_t wait_ns            # what the last tick has returned
    cdef uint64_t committed_lsn     # up to which the replies that waited for the log have been sent
    cdef uint32_t ready             # sockets that the selector found ready in this tick
    cdef bint polled                # this tick belongs to a turn
    cdef bint gathering             # the next turn comes before the commit of this one
    cdef uint32_t gathered_turns
    cdef int64_t looked_ns          # when the clients that it cannot watch were last looked at
    cdef Stopwatch watch            # of this turn
    cdef TurnPhase phase            # what it is at
    cdef uint64_t before_moves      # effort of the engine before this turn
    cdef public object on_slow_turn

    cdef Connection open_connection(self, int fd)
    cdef bint turn(self, int64_t until_ns) except -1
    cdef bint handle_polled(self, int64_t wait_ns) except -1
    cdef bint handle(self, int64_t wait_ns) except -1
    cdef void begin(self, uint32_t ready, int64_t now_ns) noexcept
    cdef int tell_slow_turn(self) except -1
    cdef bint serve_one(self, object data, int mask) except -1
    cpdef int64_t tick(self, int64_t now_ns) except? -2
    cdef void commit(self, int64_t now_ns) noexcept
    cdef void send(self, list connections, int64_t now_ns) noexcept
    cdef int64_t next_ns(self, int64_t now_ns) noexcept
    cdef int stop_sending(self, Connection connection) noexcept
    cdef void look_at_unwatched(self, int64_t now_ns) noexcept
