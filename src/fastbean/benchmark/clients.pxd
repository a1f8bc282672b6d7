"""The base of both kinds of load: their clients, and the loop that serves them. See clients.pyx."""

from libc.stdint cimport uint32_t, uint64_t

from fastbean.benchmark.histogram cimport Counts
from fastbean.benchmark.system cimport epoll_event

cdef enum:
    MAX_CLIENTS = 100_000
    MAX_DEPTH = 100_000
    MAX_BODY_BYTES = 1 << 30
    MAX_BATCH_BYTES = 1 << 30
    LINE_BYTES = 256                # the longest line of a reply that is accepted
    STAMP_BYTES = 16
    TTR_S = 120

cdef enum Failure:
    NOTHING_FAILED
    SYSTEM_FAILED                   # `errno_seen` has the error
    SERVER_CLOSED
    SERVER_SILENT
    REPLY_UNEXPECTED                # the line is in the client's `line`

cdef struct Client:
    int fd
    uint32_t step                   # of the scenario
    uint32_t flight                 # replies that it is still owed
    uint32_t counted                # `flight` when latencies were last counted
    uint32_t batch                  # operations under way
    uint32_t reply                  # which of a request's replies comes next
    bint writable_wanted
    uint32_t stamp_missing          # bytes of `stamp` still missing from the received part of the body
    size_t held                     # bytes in `line`, when only a part of a line was received
    uint64_t body_left              # bytes of a body to step over, its CRLF included
    uint64_t sent_ns                # when the present batch was passed to the socket
    uint64_t first                  # number of the first operation of the batch
    const char *unsent
    size_t unsent_bytes
    char *kept                      # the client's own copy of the unsent part of a composed piece
    char *deletes                   # the requests of the next step, for the jobs named by the replies so far
    size_t deletes_bytes
    char stamp[STAMP_BYTES]         # the start of a body, if the load asked for it
    char line[LINE_BYTES]

cdef class Clients:
    cdef Client *clients
    cdef uint32_t client_count
    cdef Client *culprit            # the client on which `failure` occurred; NULL when it concerns no single one
    cdef char *received
    cdef char *scratch              # requests are composed here; empty between two sends
    cdef int epoll
    cdef int errno_seen
    cdef Failure failure
    cdef uint64_t done              # operations
    cdef uint64_t wanted
    cdef uint64_t left              # operations not begun yet
    cdef uint64_t begun
    cdef uint64_t under_way         # what has to finish before the run is over: batches, or operations
    cdef uint64_t start_ns
    cdef uint64_t end_ns            # no operation begins after this time; 0: no limit
    cdef double interval_ns         # open loop: between two operations; 0: closed loop
    cdef uint64_t now_ns
    cdef uint64_t heard_ns          # when the server last sent a reply that it owed
    cdef uint64_t limit_ns
    cdef Counts *counts
    cdef object address
    cdef object scenario
    cdef list sockets

    # Each kind of load overrides these.
    cdef void begin(self) noexcept nogil
    cdef void begin_due(self) noexcept nogil
    cdef bint can_begin(self) noexcept nogil
    cdef const char *take_lines(self, Client *client, const char *at, const char *end) noexcept nogil
    cdef void take_end_of_body(self, Client *client) noexcept nogil
    cdef void take_pause(self, Client *client) noexcept nogil

    cdef uint64_t due(self, uint64_t now_ns) noexcept nogil
    cdef uint64_t due_ns(self, uint64_t operation) noexcept nogil
    cdef void serve_for_a_slice(self) noexcept nogil
    cdef int wait(self, epoll_event *events) noexcept nogil
    cdef void serve(self, Client *client, uint32_t events) noexcept nogil
    cdef void take_bytes(self, Client *client, const char *at, const char *end) noexcept nogil
    cdef const char *hold_line(self, Client *client, const char *at, const char *end) noexcept nogil
    cdef size_t take_body(self, Client *client, const char *at, size_t size) noexcept nogil
    cdef void send_shared(self, Client *client, const char *piece, size_t size) noexcept nogil
    cdef void send_scratch(self, Client *client, size_t size) noexcept nogil
    cdef void send_on(self, Client *client) noexcept nogil
    cdef void want_writable(self, Client *client, bint wanted) noexcept nogil
    cdef void refuse(self, Client *client, const char *line, size_t size) noexcept nogil
    cdef void fail(self, Failure failure, Client *client) noexcept nogil
    cdef void fail_for_room(self, Client *client) noexcept nogil


cdef inline char *write_number(char *at, uint64_t number) noexcept nogil:
    """Write `number` in decimal, at most 20 bytes; returns the end of what it wrote."""
    cdef char digits[20]
    cdef int count = 0
    while True:
        digits[count] = <char>(c'0' + number % 10)
        count += 1
        number //= 10
        if number == 0:
            break
    while count:
        count -= 1
        at[0] = digits[count]
        at += 1
    return at


cdef inline const char *read_number(const char *at, const char *end, uint64_t *number) noexcept nogil:
    """Read 1 to 20 decimal digits; returns where they end, NULL when there are none or more."""
    cdef const char *start = at
    number[0] = 0
    while at < end and c'0' <= at[0] <= c'9':
        number[0] = number[0] * 10 + <uint64_t>(at[0] - c'0')
        at += 1
    return at if 0 < at - start <= 20 else NULL
