"""Receiving: from a client's socket into memory. The engine's memory is not touched, except for the body that arrives.

`run` runs what was received; a failed socket is marked as broken, and closed at the end of the connection's turn.
"""

from libc.errno cimport EAGAIN, errno

from fastbean.base.buffer cimport buffer_reserve
from fastbean.net.connection cimport SCRATCH_BYTES, Connection, Connections, is_halted
from fastbean.base.client_limits cimport INPUT_LIMIT
from fastbean.net.outbox cimport KEPT_BYTES
from fastbean.net.poller cimport EDGE
from fastbean.net.socket_calls cimport PEER_GONE, PEER_HALF_CLOSED, iovec, socket_drain, socket_peer
from fastbean.net.transport cimport transport_receive


cdef int space(Connections shared, Connection *connection, iovec *where) noexcept nogil:
    """Where the next bytes go: fills up to two pieces and returns how many; 0 when none may be received now."""
    cdef size_t more
    if connection.closed or connection.broken or connection.eof or connection.quitting:
        return 0
    if is_halted(connection):
        if connection.input.len >= INPUT_LIMIT:
            return 0
        more = min(INPUT_LIMIT - connection.input.len, max(connection.input.len, <size_t>KEPT_BYTES))
        if buffer_reserve(&connection.input, more) < 0:
            return 0
        where[0].iov_base = connection.input.data + connection.input.len
        where[0].iov_len = more
        return 1
    if connection.body is not NULL and connection.body_got < connection.body_bytes:
        where[0].iov_base = connection.body + connection.body_got
        where[0].iov_len = connection.body_bytes - connection.body_got
        where[1].iov_base = shared.scratch
        where[1].iov_len = SCRATCH_BYTES
        return 2
    # A partial line is moved in front of what arrives next, so that a line is always in one piece.
    where[0].iov_base = shared.scratch + connection.input.len
    where[0].iov_len = SCRATCH_BYTES
    return 1


cdef size_t receive(Connections shared, Connection *connection, int events) noexcept nogil:
    """Receive once. Returns how many bytes are where `space` said; 0 at the end of file, too, and if it is broken."""
    cdef iovec[2] where
    cdef ssize_t size
    cdef size_t room
    cdef int count = space(shared, connection, where)
    if count == 0:
        return 0
    size = transport_receive(connection.transport, connection.fd, where, count)
    if size > 0:
        room = where[0].iov_len + (where[1].iov_len if count > 1 else 0)
        # A transport may return less than there is.
        connection.drained = <size_t>size < room and not events & EDGE and connection.transport is NULL
        if connection.drained or not connection.interest & EDGE or shared.poller.tell_again(connection.fd):
            return size
        # The poller cannot report what is left.
        connection.broken = True
    elif size == 0:
        connection.eof = True
    elif errno != EAGAIN:
        connection.broken = True
    return 0


cdef void look_for_hang_up(Connection *connection) noexcept nogil:
    """Check an unwatched socket: has the client gone, or will it send no more?"""
    cdef int peer = socket_peer(connection.fd)
    if peer == PEER_GONE:
        connection.broken = True
    elif peer == PEER_HALF_CLOSED:
        connection.hung_up = True


cdef void read_before_close(Connections shared, Connection *connection) noexcept nogil:
    """Read what would make a close reset the connection, so that replies on their way could be lost."""
    if not connection.eof and not (connection.quitting and connection.drained):
        socket_drain(connection.fd, shared.scratch, SCRATCH_BYTES)
