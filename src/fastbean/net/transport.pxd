"""What may stand between a connection and its socket, such as TLS; none is a plain socket."""

from fastbean.net.socket_calls cimport iovec, socket_receive, socket_send, socket_send_pieces

# `receive` fills the pieces like recvmsg, and `send` takes them like sendmsg. They return the number of bytes, or -1
# with errno, which is EAGAIN if the socket must become readable or writable first; 0 from `receive` is the end of file.
# `send` with no pieces sends what the transport itself has to send. Both keep the two numbers right.
cdef struct Transport:
    ssize_t (*receive)(Transport *transport, iovec *where, int count) noexcept nogil
    ssize_t (*send)(Transport *transport, iovec *pieces, int count) noexcept nogil
    void (*close)(Transport *transport) noexcept nogil     # frees it; the socket stays open
    size_t pending                  # bytes that it has received and `receive` returns without the socket
    size_t unsent                   # bytes that it holds and has to send when the socket is writable


cdef inline ssize_t transport_receive(Transport *transport, int fd, iovec *where, int count) noexcept nogil:
    return socket_receive(fd, where, count) if transport is NULL else transport.receive(transport, where, count)


cdef inline ssize_t transport_send(Transport *transport, int fd, const void *data, size_t size) noexcept nogil:
    cdef iovec piece
    if transport is NULL:
        return socket_send(fd, data, size)
    piece.iov_base = <void *>data
    piece.iov_len = size
    return transport.send(transport, &piece, 1)


cdef inline ssize_t transport_send_pieces(Transport *transport, int fd, iovec *pieces, int count) noexcept nogil:
    return socket_send_pieces(fd, pieces, count) if transport is NULL else transport.send(transport, pieces, count)


cdef inline size_t transport_pending(Transport *transport) noexcept nogil:
    return 0 if transport is NULL else transport.pending


cdef inline size_t transport_unsent(Transport *transport) noexcept nogil:
    return 0 if transport is NULL else transport.unsent
