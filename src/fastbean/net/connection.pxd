"""One client's bytes: received, cut into commands, answered, sent."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.base.buffer cimport Buffer
from fastbean.engine.client cimport Client
from fastbean.engine.state cimport State
from fastbean.net.outbox cimport Outbox
from fastbean.net.poller cimport Poller
from fastbean.protocol.replies cimport Reply
from fastbean.net.socket_calls cimport iovec

cdef enum Phase:
    PHASE_LINE                      # a command line comes next
    PHASE_LONG_LINE                 # the rest of a line that is too long
    PHASE_BODY                      # the body of a put, and its CRLF
    PHASE_SKIP                      # the body of a put that is refused


cdef class Connections:
    cdef readonly State state
    cdef object poller              # what watches the sockets, of either kind
    cdef Poller compiled            # the same, or None if it is a SelectorPoller
    cdef set open
    cdef list runnable              # connections with complete commands that no event will announce again
    cdef list answered              # connections with a reply to a command that ran earlier
    cdef list gated                 # connections with replies that wait for the binlog
    cdef char *scratch              # the receive buffer of all connections
    cdef set unwatched              # connections that the poller cannot watch: their input is full
    cdef bint has_closed            # a socket, since `on_close` was called last
    cdef bint stopping              # no further command is run
    cdef uint64_t http_requests     # refused, and not reported yet
    cdef uint32_t steps             # lines and bodies taken in this iteration
    cdef uint32_t last_command       # its number
    cdef public int verbosity
    cdef public object on_event

    cdef void deliver(self) noexcept
    cdef inline void deliver_answers(self) noexcept:
        """Append the replies of commands that ran earlier; they are sent at the end of the iteration."""
        if self.state.answered.first is not NULL:
            self.deliver()

    cdef void unwatch(self, int fd) noexcept
    cdef void emit(self, str event, int fd, bytes text) noexcept


cdef class Connection:
    cdef Connections shared
    cdef State state
    cdef Client *client
    cdef readonly int fd            # -1: in memory
    cdef Phase phase
    cdef Reply refusal              # the reply to a skipped body
    cdef uint64_t to_skip
    cdef uint32_t body_got          # bytes of the body and its CRLF received so far
    cdef char[2] trailer            # the two bytes after the body, which must be CRLF
    cdef Buffer input               # received, but not run yet
    cdef Outbox out                 # replied, but not sent yet
    cdef size_t counted_bytes       # size of input and out, as counted in the engine's memory
    cdef int interest               # what the poller watches
    cdef int reading                # what it is asked to watch while the client may send
    cdef bint socket_full
    cdef bint blocked               # its last command has no reply yet
    cdef bint held_back             # too many bytes are unsent to run another command
    cdef bint is_runnable
    cdef bint is_answered
    cdef bint is_gated
    cdef bint eof
    cdef bint hung_up               # the client will send no more, though not everything has been received
    cdef bint quitting
    cdef readonly bint closed

    cdef void on_ready(self, int events, int64_t now_ns) noexcept
    cdef void receive(self, int events, int64_t now_ns) noexcept
    cdef bint rearm_if_needed(self, int events, size_t size, size_t room) noexcept
    cdef int space(self, iovec *where) noexcept
    cdef void arrived(self, size_t size, int64_t now_ns) noexcept
    cdef void end_of_file(self) noexcept
    cdef void look_for_hang_up(self, int64_t now_ns) noexcept
    cdef void end_hopeless_wait(self) noexcept
    cdef bint is_halted(self) noexcept
    cdef void postpone(self, uint32_t steps) noexcept
    cdef void make_runnable(self) noexcept
    cdef void resume(self, int64_t now_ns) noexcept

    cdef size_t run(self, char *data, size_t size, int64_t now_ns) noexcept
    cdef size_t take_line(self, char *data, size_t size, int64_t now_ns) noexcept
    cdef size_t take_long_line(self, const char *data, size_t size) noexcept
    cdef size_t take_body(self, const char *data, size_t size, int64_t now_ns) noexcept
    cdef void refuse_body(self) noexcept
    cdef size_t take_skipped(self, size_t size) noexcept

    cdef void execute(self, char *line, size_t size, int64_t now_ns) noexcept
    cdef void refuse_http(self) noexcept
    cdef bint is_blocked(self) noexcept
    cdef void end_put(self, int64_t now_ns) noexcept

    cdef void answer(self, Reply reply) noexcept
    cdef void flush(self, int64_t now_ns) noexcept
    cdef void resume_if_drained(self) noexcept
    cdef void wait_for_commit(self) noexcept
    cdef void count_memory(self) noexcept
    cdef void update_interest(self, int64_t now_ns) noexcept
    cdef int wanted_events(self) noexcept
    cdef void watch_events(self, int events, int64_t now_ns) noexcept
    cdef void drop(self, int64_t now_ns) noexcept
