"""A made-up transport: records of a size in two bytes and so many bytes, each inverted, in both directions.

It receives whole records and holds back what does not fit. It accepts bytes for one record at a time, and holds what
the socket does not take.
"""

from libc.errno cimport EAGAIN, errno
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove

from fastbean.net.hub cimport Hub
from fastbean.net.poller cimport raise_error
from fastbean.net.service cimport begin_serving, connect_socket
from fastbean.net.socket_calls cimport iovec, socket_receive, socket_send
from fastbean.net.transport cimport Transport

cdef extern from *:
    """
    #include <errno.h>
    static ssize_t not_now(void) { errno = EAGAIN; return -1; }
    """
    ssize_t not_now() noexcept nogil

cdef enum:
    HEAD_BYTES = 2
    MOST_BYTES = 30000              # of one record

cdef struct Records:
    Transport transport             # first: a pointer to it is one to this
    int fd
    size_t got                      # bytes of the record that arrives
    unsigned char[HEAD_BYTES + MOST_BYTES] arriving
    size_t returned                 # bytes of it that were passed on
    unsigned char[HEAD_BYTES + MOST_BYTES] leaving

cdef int open_transports = 0


cdef ssize_t receive(Transport *transport, iovec *where, int count) noexcept nogil:
    cdef Records *records = <Records *>transport
    cdef ssize_t size
    cdef size_t done = 0, piece
    if transport.pending == 0:
        size = receive_record(records)
        if size <= 0:
            return size
    for place in range(count):
        piece = min(where[place].iov_len, transport.pending)
        memcpy(where[place].iov_base, records.arriving + HEAD_BYTES + records.returned, piece)
        records.returned += piece
        transport.pending -= piece
        done += piece
    return <ssize_t>done


cdef ssize_t receive_record(Records *records) noexcept nogil:
    """Receive the rest of a record. Returns its size, or what the socket returned."""
    cdef iovec where
    cdef ssize_t size
    cdef size_t wanted = HEAD_BYTES, place
    while True:
        if records.got >= HEAD_BYTES:
            wanted = HEAD_BYTES + records.arriving[0] * 256 + records.arriving[1]
        if records.got == wanted and wanted > HEAD_BYTES:
            break
        where.iov_base = records.arriving + records.got
        where.iov_len = wanted - records.got
        size = socket_receive(records.fd, &where, 1)
        if size <= 0:
            return size
        records.got += size
    for place in range(HEAD_BYTES, wanted):
        records.arriving[place] ^= 0xFF
    records.got = records.returned = 0
    records.transport.pending = wanted - HEAD_BYTES
    return <ssize_t>records.transport.pending


cdef ssize_t send(Transport *transport, iovec *pieces, int count) noexcept nogil:
    cdef Records *records = <Records *>transport
    cdef size_t size = HEAD_BYTES, piece, place
    if transport.unsent and send_rest(records) < 0:
        return -1
    if count == 0:
        return 0
    if transport.unsent:
        return not_now()
    for number in range(count):
        piece = min(pieces[number].iov_len, <size_t>(HEAD_BYTES + MOST_BYTES) - size)
        memcpy(records.leaving + size, pieces[number].iov_base, piece)
        size += piece
    for place in range(HEAD_BYTES, size):
        records.leaving[place] ^= 0xFF
    records.leaving[0] = <unsigned char>((size - HEAD_BYTES) // 256)
    records.leaving[1] = <unsigned char>((size - HEAD_BYTES) % 256)
    transport.unsent = size
    if send_rest(records) < 0 and errno != EAGAIN:
        return -1
    return <ssize_t>(size - HEAD_BYTES)


cdef ssize_t send_rest(Records *records) noexcept nogil:
    cdef ssize_t size = socket_send(records.fd, records.leaving, records.transport.unsent)
    if size > 0:
        records.transport.unsent -= size
        memmove(records.leaving, records.leaving + size, records.transport.unsent)
    return size


cdef void close(Transport *transport) noexcept nogil:
    global open_transports
    open_transports -= 1
    free(transport)


def adopt(Hub hub not None, sock, long now_ns):
    """Has the hub serve a socket through this transport."""
    global open_transports
    cdef Records *records = <Records *>calloc(1, sizeof(Records))
    records.transport.receive = receive
    records.transport.send = send
    records.transport.close = close
    records.fd = sock.detach()
    open_transports += 1
    raise_error(begin_serving(hub.shared, connect_socket(hub.shared, records.fd, False, &records.transport), now_ns))


def still_open():
    """The number of transports that were not closed."""
    return open_transports
