"""One client's connection, the lists that connections stand in, and what all connections of one loop share."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.base.buffer cimport Buffer
from fastbean.base.notices cimport Notices
from fastbean.engine.client cimport Client
from fastbean.engine.memory cimport memory_count_buffers, memory_drop
from fastbean.engine.state cimport State
from fastbean.net.outbox cimport Outbox, outbox_capacity, outbox_unpin, outbox_unsent
from fastbean.net.poller cimport Poller
from fastbean.net.transport cimport Transport, transport_unsent
from fastbean.protocol.replies cimport Reply

cdef enum:
    SCRATCH_BYTES = 65536           # received at once, if they are not a body

cdef enum Phase:
    PHASE_LINE                      # a command line comes next
    PHASE_LONG_LINE                 # the rest of a line that is too long
    PHASE_BODY                      # the body of a put, and its CRLF
    PHASE_SKIP                      # the body of a put that is refused

cdef struct Connection

cdef struct Link:                   # a connection's place in one list: a ring, in which the list itself stands too
    Link *next                      # NULL: in no list
    Link *previous
    Connection *connection          # NULL: the list itself

cdef struct Connection:
    Client *client                  # NULL once it is closed
    int fd                          # -1: in memory
    Transport *transport            # NULL: a plain socket
    Phase phase
    Reply refusal                   # the reply to a skipped body
    uint64_t to_skip
    char *body                      # of the job that is being put, while its bytes arrive
    uint32_t body_bytes             # its size
    uint32_t body_got               # bytes of the body and its CRLF received so far
    char[2] trailer                 # the two bytes after the body, which must be CRLF
    Buffer input                    # received, but not run yet
    Outbox out                      # replied, but not sent yet
    size_t counted_bytes            # size of input and out, as counted in the engine's memory
    int interest                    # what the poller watches
    int reading                     # what it is asked to watch while the client may send
    bint socket_full
    bint blocked                    # its last command has no reply yet
    bint held_back                  # too many bytes are unsent to run another command
    bint eof
    bint hung_up                    # the client will send no more, though not everything has been received
    bint drained                    # the last receive left nothing in the socket
    bint quitting
    bint broken                     # the socket failed: close it
    bint closed
    bint has_handle                 # a MemoryConnection refers to it
    Link open                       # its places in the lists of `Connections`; `open` also links the ended ones
    Link runnable
    Link answered
    Link gated
    Link unwatched


cdef inline void ring_begin(Link *ring) noexcept nogil:
    """Make an empty list."""
    ring.next = ring
    ring.previous = ring
    ring.connection = NULL

cdef inline bint ring_is_empty(Link *ring) noexcept nogil:
    return ring.next == ring

cdef inline bint ring_is_single(Link *ring) noexcept nogil:
    """Whether exactly one connection is in the list."""
    return ring.next != ring and ring.next == ring.previous

cdef inline void link_join(Link *ring, Link *link) noexcept nogil:
    """Put a connection at the end of a list, unless it is in it already."""
    if link.next is not NULL:
        return
    link.next = ring
    link.previous = ring.previous
    ring.previous.next = link
    ring.previous = link

cdef inline void link_leave(Link *link) noexcept nogil:
    """Take a connection out of the list that it is in, if it is in it."""
    if link.next is NULL:
        return
    link.next.previous = link.previous
    link.previous.next = link.next
    link.next = NULL

cdef inline void ring_move(Link *ring, Link *other) noexcept nogil:
    """Move all connections of a list to the front of another one."""
    if ring_is_empty(ring):
        return
    ring.previous.next = other.next
    other.next.previous = ring.previous
    other.next = ring.next
    ring.next.previous = other
    ring_begin(ring)


cdef class Connections:
    cdef readonly State state
    cdef Poller poller              # None: all connections are in memory
    cdef Link open
    cdef Link runnable              # connections with complete commands that no event will announce again
    cdef Link answered              # connections with a reply to a command that ran earlier
    cdef Link gated                 # connections with replies that wait for the binlog
    cdef Link unwatched             # connections that the poller cannot watch: their input is full
    cdef Link ended                 # closed connections, to be freed at the end of the iteration
    cdef uint64_t count             # of the open ones
    cdef char *scratch              # the receive buffer of all connections
    cdef uint64_t committed_lsn     # replies that depend on no more than this may be sent
    cdef bint has_closed            # a socket, since `on_close` was called last
    cdef bint stopping              # no further command is run
    cdef int accept_error           # why no client is accepted at the moment: the system's number, or 0
    cdef int64_t client_descriptors  # those of clients are below this number
    cdef uint64_t refused           # clients above the limit, not reported yet
    cdef uint64_t http_requests     # refused, and not reported yet
    cdef uint32_t steps             # lines and bodies taken in this iteration
    cdef uint32_t last_command      # its number
    cdef Notices notices            # what Python hears at the end of the iteration
    cdef public int verbosity
    cdef public object on_event


cdef inline bint is_runnable(Connection *connection) noexcept nogil:
    return connection.runnable.next is not NULL

cdef inline bint is_halted(Connection *connection) noexcept nogil:
    """Whether what arrives has to wait until earlier commands are run."""
    return connection.blocked or is_runnable(connection) or connection.held_back

cdef inline size_t unsent_bytes(Connection *connection) noexcept nogil:
    """The bytes of replies that the socket has not taken yet."""
    return outbox_unsent(&connection.out) + transport_unsent(connection.transport)

cdef inline void make_runnable(Connections shared, Connection *connection) noexcept nogil:
    """Have the hub call `resume` in the next iteration."""
    link_join(&shared.runnable, &connection.runnable)

cdef inline void count_memory(Connections shared, Connection *connection) noexcept nogil:
    """Update the engine's count of memory: the present size of the buffers, and deleted jobs that were sent."""
    cdef size_t held = connection.input.cap + outbox_capacity(&connection.out)
    if connection.out.pinned_held != connection.out.pinned_first:
        memory_drop(&shared.state.memory, outbox_unpin(&connection.out))
        held = connection.input.cap + outbox_capacity(&connection.out)
    if held != connection.counted_bytes:
        memory_count_buffers(&shared.state.memory, connection.counted_bytes, held)
        connection.counted_bytes = held

cdef Connection *connection_new(Connections shared, int fd) noexcept nogil
cdef void connection_free_buffers(Connections shared, Connection *connection) noexcept nogil
cdef void connection_free(Connections shared, Connection *connection) noexcept nogil
cdef void free_ended(Connections shared) noexcept nogil
