"""One connection's turn: its phases one after the other, and what follows from them.

Each turn ends with `settle`, which closes the connection if it is finished or broken, and otherwise has the poller
watch what it needs.
"""

from libc.stdint cimport int64_t

from fastbean.base.notices cimport NOTICE_CLOSE
from fastbean.engine.client cimport Client
from fastbean.engine.commands cimport leave
from fastbean.base.client_limits cimport INPUT_LIMIT
from fastbean.net.connection cimport (
    Connection, Connections, Link, connection_free_buffers, connection_new, count_memory, is_halted,
    link_join, link_leave, make_runnable, ring_begin, ring_is_empty, ring_move, unsent_bytes,
)
from fastbean.net.poller cimport EDGE, READ, WATCHED_CONNECTION, WRITE
from fastbean.net.receive cimport look_for_hang_up, read_before_close, receive
from fastbean.net.run cimport arrived, end_hopeless_wait, run_again
from fastbean.net.send cimport send, send_held
from fastbean.net.transport cimport Transport, transport_pending, transport_unsent

cdef extern from "<unistd.h>" nogil:
    int close_descriptor "close"(int fd)


cdef Connection *connect_socket(Connections shared, int fd, bint is_unix, Transport *transport) noexcept nogil:
    """Make a connection for a client's non-blocking socket; `begin_serving` has to follow.

    `transport`: what it is sent and received through, or NULL; it is the connection's then. Returns NULL without
    memory; then socket and transport are closed.
    """
    cdef Connection *connection = connection_new(shared, fd)
    if connection is NULL:
        if transport is not NULL:
            transport.close(transport)
        close_descriptor(fd)
        return NULL
    connection.transport = transport
    # A receive from a unix socket ends after each passed descriptor, and nothing reports that.
    if shared.poller.has_edge and not is_unix:
        connection.reading |= EDGE
    return connection


cdef int begin_serving(Connections shared, Connection *connection, int64_t now_ns) noexcept nogil:
    """Serve a new connection, beginning with what the client has sent already: that saves a wait.

    Returns 0, or the number of the error for which the poller cannot watch it; then it is closed.
    """
    cdef int error
    take_input(shared, connection, 0, now_ns)
    if not (connection.eof or connection.quitting or connection.broken):
        error = shared.poller.watch(connection.fd, connection.reading, WATCHED_CONNECTION, connection)
        if error:
            drop(shared, connection, now_ns)
            return error
        connection.interest = connection.reading
    settle(shared, connection, now_ns)
    return 0


cdef inline void take_input(Connections shared, Connection *connection, int events, int64_t now_ns) noexcept nogil:
    """Receive, run what has arrived, and send the replies."""
    cdef size_t size = receive(shared, connection, events)
    if size:
        arrived(shared, connection, size, now_ns)
        send(shared, connection)
    elif connection.eof:
        end_hopeless_wait(shared, connection)


cdef void serve_ready(Connections shared, Connection *connection, int events, int64_t now_ns) noexcept nogil:
    """The socket is readable, writable or both."""
    if events & WRITE:
        connection.socket_full = False
        send_held(connection)
        send(shared, connection)
    if events & READ:
        take_input(shared, connection, events, now_ns)
    settle(shared, connection, now_ns)


cdef void resume(Connections shared, Connection *connection, int64_t now_ns) noexcept nogil:
    """Continue with commands that were received before, and with replies that were not sent."""
    if not shared.stopping:
        run_again(shared, connection, now_ns)
        if transport_pending(connection.transport):
            take_input(shared, connection, 0, now_ns)
    send(shared, connection)
    settle(shared, connection, now_ns)


cdef void send_all(Connections shared, Link *ring, int64_t now_ns) noexcept nogil:
    """Send to the connections of a list, which is empty afterwards; each may join it again meanwhile."""
    cdef Link taken
    cdef Connection *connection
    ring_begin(&taken)
    ring_move(ring, &taken)
    while not ring_is_empty(&taken):
        connection = taken.next.connection
        link_leave(taken.next)
        send(shared, connection)
        settle(shared, connection, now_ns)


cdef void look_at_unwatched(Connections shared, int64_t now_ns) noexcept nogil:
    """The poller does not watch clients whose input is full: check whether they are still connected."""
    cdef Link *link = shared.unwatched.next
    cdef Connection *connection
    while link != &shared.unwatched:
        connection = link.connection
        link = link.next
        look_for_hang_up(connection)
        if connection.broken:
            drop(shared, connection, now_ns)
        else:
            end_hopeless_wait(shared, connection)


cdef void settle(Connections shared, Connection *connection, int64_t now_ns) noexcept nogil:
    """Called after every event of a connection: close it if it is finished, otherwise watch the right events."""
    cdef int events
    if transport_pending(connection.transport):
        receive_later(shared, connection)
    count_memory(shared, connection)
    if connection.broken or connection.out.bytes.failed or connection.input.failed:
        drop(shared, connection, now_ns)
    elif (connection.eof or connection.quitting) and not is_halted(connection) and not (
        connection.fd >= 0 and unsent_bytes(connection)
    ):
        drop(shared, connection, now_ns)
    elif connection.fd >= 0:
        events = wanted_events(connection)
        if events != connection.interest:
            watch_events(shared, connection, events, now_ns)


cdef void receive_later(Connections shared, Connection *connection) noexcept nogil:
    """No event announces what the transport holds back: receive it in the next iteration, if there may be room."""
    if not (is_halted(connection) and connection.input.len >= INPUT_LIMIT or connection.quitting or shared.stopping):
        make_runnable(shared, connection)


cdef inline int wanted_events(Connection *connection) noexcept nogil:
    cdef int events = 0
    if not (
        connection.eof or connection.quitting or (is_halted(connection) and connection.input.len >= INPUT_LIMIT)
    ):
        events |= connection.reading
    if connection.socket_full or transport_unsent(connection.transport):
        events |= WRITE
    return events


cdef void watch_events(Connections shared, Connection *connection, int events, int64_t now_ns) noexcept nogil:
    """Change what the poller watches; it cannot watch nothing."""
    cdef int before = connection.interest
    cdef int error = 0
    if events == 0:
        shared.poller.forget(connection.fd)
        link_join(&shared.unwatched, &connection.unwatched)
    elif before == 0:
        link_leave(&connection.unwatched)
        error = shared.poller.watch(connection.fd, events, WATCHED_CONNECTION, connection)
    else:
        error = shared.poller.watch_for(connection.fd, events)
    connection.interest = 0 if error else events
    if error:
        # The poller cannot watch it, and unwatched it would hang for ever.
        drop(shared, connection, now_ns)


cdef void drop(Connections shared, Connection *connection, int64_t now_ns) noexcept nogil:
    """Close the connection now, whatever is still to be run or sent."""
    if connection.closed:
        return
    if shared.verbosity >= 1:
        shared.notices.note(NOTICE_CLOSE, connection.fd)
    leave_engine(shared, connection, now_ns)
    if connection.fd >= 0:
        connection_free_buffers(shared, connection)
        if connection.interest & EDGE:
            # A hang-up of a socket that another process has inherited is then reported once at most.
            shared.poller.forget_closed(connection.fd)
        elif connection.interest:
            shared.poller.forget(connection.fd)
        read_before_close(shared, connection)
        close_descriptor(connection.fd)
        shared.has_closed = True
    if not connection.has_handle:
        link_join(&shared.ended, &connection.open)


cdef void leave_engine(Connections shared, Connection *connection, int64_t now_ns) noexcept nogil:
    """Disconnect the client, and take the connection out of all lists."""
    cdef Client *client = connection.client
    connection.closed = True
    connection.client = NULL
    connection.body = NULL
    link_leave(&connection.open)
    link_leave(&connection.runnable)
    link_leave(&connection.answered)
    link_leave(&connection.gated)
    link_leave(&connection.unwatched)
    shared.count -= 1
    leave(shared.state, client, now_ns)
