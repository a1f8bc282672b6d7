"""Accepting clients from listening sockets: a bounded number in each iteration.

When the system lets no further client in, ``accept_error`` is set, and nothing is accepted until its owner resets it:
`listener.Acceptor`, which logs it, and decides when to try again. A client beyond the limit on connections is sent a
refusal and closed, which removes it from the queue.
"""

import errno as _errno

from libc.errno cimport EAGAIN, EMFILE, ENOMEM, errno
from libc.stdint cimport int64_t, uint32_t

from fastbean.base.notices cimport NOTICE_ACCEPT
from fastbean.net.connection cimport (
    SCRATCH_BYTES, Connection, Connections, Link, link_join, link_leave, ring_begin, ring_is_empty,
)
from fastbean.net.service cimport begin_serving, connect_socket
from fastbean.net.socket_calls cimport (
    AF_UNIX, PEER_NAME_BYTES, sockaddr_storage, socket_accept, socket_peer_name, socket_refuse, socklen_t,
)

from fastbean.base import limits as _limits

cdef enum:
    ERRORS = 256                    # above every number of an error

cdef int AT_ONCE = _limits.ACCEPTS_PER_ITERATION
cdef bytes _refusal = _limits.REFUSAL_OF_A_CLIENT
cdef const char *refusal = _refusal
cdef size_t refusal_bytes = len(_refusal)

# The client left before it was accepted, or the network reported an error: the next client may be fine.
cdef bint[<int>ERRORS] is_passing
for _name in (
    "ECONNABORTED", "EPERM", "EPROTO", "ENETDOWN", "ENOPROTOOPT", "EHOSTDOWN", "ENONET", "EHOSTUNREACH", "EOPNOTSUPP",
    "ENETUNREACH", "ETIMEDOUT", "ECONNRESET",
):
    if hasattr(_errno, _name):
        is_passing[<int>getattr(_errno, _name)] = True


cdef bint is_full(Connections shared) noexcept nogil:
    """Whether no other client may connect; each True counts in `stats` as a refused client."""
    cdef uint32_t limit = shared.state.max_connections
    if limit == 0 or shared.count < limit:
        return False
    shared.state.hits.connections += 1
    return True


cdef void accept_some(Connections shared, int listening, int64_t now_ns) noexcept nogil:
    """The listening socket is ready: accept the clients that wait, unless ``accept_error`` is set, then serve them.

    A command is run after all clients are accepted that had connected before it was sent: `stats` counts them.
    """
    cdef sockaddr_storage peer
    cdef socklen_t peer_bytes
    cdef Link accepted
    cdef Link *first
    cdef int left = AT_ONCE
    cdef int fd, error
    ring_begin(&accepted)
    while left and not shared.accept_error:
        left -= 1
        fd = socket_accept(listening, &peer, &peer_bytes)
        if fd >= 0:
            admit(shared, &accepted, fd, &peer, peer_bytes)
        elif errno == EAGAIN:
            break
        elif errno >= ERRORS or not is_passing[errno]:
            shared.accept_error = errno
    while not ring_is_empty(&accepted):
        first = accepted.next
        link_leave(first)
        error = begin_serving(shared, first.connection, now_ns)
        if error:
            shared.accept_error = error


cdef void admit(
    Connections shared, Link *accepted, int fd, sockaddr_storage *peer, socklen_t peer_bytes,
) noexcept nogil:
    """Make the connection of a client, in the list `accepted`, or refuse the client."""
    cdef Connection *connection
    if is_full(shared):
        shared.refused += 1
        socket_refuse(fd, refusal, refusal_bytes, shared.scratch, SCRATCH_BYTES)
        return
    if shared.verbosity >= 1:
        note_peer(shared, fd, peer, peer_bytes)
    connection = connect_socket(shared, fd, peer.ss_family == AF_UNIX, NULL)
    if connection is NULL:
        shared.accept_error = ENOMEM
        return
    link_join(accepted, &connection.answered)
    # The system assigns the lowest free descriptor: the next one would be higher.
    if fd + 1 >= shared.client_descriptors:
        shared.accept_error = EMFILE


cdef void note_peer(Connections shared, int fd, sockaddr_storage *peer, socklen_t peer_bytes) noexcept nogil:
    cdef char[PEER_NAME_BYTES] name
    shared.notices.note_text(NOTICE_ACCEPT, fd, name, socket_peer_name(peer, peer_bytes, name))
