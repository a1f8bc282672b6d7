"""Sending: from the outbox to a client's socket. The engine's memory is not touched, except to read pinned bodies.

A failed socket is marked as broken, and closed at the end of the connection's turn.
"""

from libc.errno cimport EAGAIN, EINTR, errno

from fastbean.net.connection cimport Connection, Connections, link_join, make_runnable
from fastbean.base.client_limits cimport OUTPUT_LIMIT
from fastbean.net.outbox cimport SENT_AT_ONCE, outbox_send, outbox_unsent
from fastbean.net.transport cimport transport_unsent


cdef void send(Connections shared, Connection *connection) noexcept nogil:
    """Send what the socket accepts; the rest is sent when it is writable, after the next commit or iteration."""
    cdef size_t total = 0
    cdef ssize_t size
    if not shared.notices.is_empty():
        # The log has the command before the client has its reply: the hub sends it once the log lines are written.
        link_join(&shared.answered, &connection.answered)
        return
    while outbox_unsent(&connection.out) and not connection.socket_full and not connection.broken and (
        connection.fd >= 0
    ):
        size = outbox_send(&connection.out, connection.transport, connection.fd, shared.committed_lsn)
        if size > 0:
            resume_if_drained(shared, connection)
            total += size
            if total >= SENT_AT_ONCE and outbox_unsent(&connection.out):
                # A reader that keeps up would be served as long as there is data: other clients come first.
                make_runnable(shared, connection)
                return
        elif size == 0:
            # The hub sends the rest after the next commit.
            link_join(&shared.gated, &connection.gated)
            return
        elif errno == EAGAIN:
            connection.socket_full = True
        elif errno != EINTR:
            connection.broken = True


cdef void send_held(Connection *connection) noexcept nogil:
    """The socket is writable: send what the transport itself holds."""
    if transport_unsent(connection.transport) == 0:
        return
    if connection.transport.send(connection.transport, NULL, 0) < 0 and errno != EAGAIN and errno != EINTR:
        connection.broken = True


cdef void resume_if_drained(Connections shared, Connection *connection) noexcept nogil:
    """Replies were sent: there may be room for further commands."""
    if connection.held_back and outbox_unsent(&connection.out) < OUTPUT_LIMIT:
        connection.held_back = False
        make_runnable(shared, connection)
