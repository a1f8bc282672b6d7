"""The replies to one client that are not sent yet."""

from libc.stdint cimport uint32_t, uint64_t

from fastbean.base.buffer cimport Buffer
from fastbean.engine.job cimport Job
from fastbean.net.socket_calls cimport iovec
from fastbean.net.transport cimport Transport

cdef enum:
    SENT_AT_ONCE = 1048576          # bytes sent to one client before others are served
    KEPT_BYTES = 512                # the largest size of an emptied buffer that is kept
    KEPT_PLACES = 15                # likewise, of an array of pinned bodies or gates, in entries
    PIECES = 16                     # of one sendmsg

cdef struct Pinned:                 # a large body that is sent from its job
    Job *job
    size_t at                       # offset in `bytes` before which it is sent
    uint32_t sent

cdef struct Gate:                   # what begins at this offset of the bytes waits for this LSN
    size_t at
    uint64_t lsn

cdef struct Outbox:                 # all zero bytes = an empty outbox
    Buffer bytes                    # the unsent part begins at `start`
    size_t start
    size_t pinned_bytes             # of all bodies that are still to be sent
    Pinned *pinned
    uint32_t pinned_held            # the first one that is pinned still; those up to `pinned_first` have been sent
    uint32_t pinned_first           # the first one that is not sent completely
    uint32_t pinned_count
    Gate *gates
    uint32_t gates_first
    uint32_t gates_count
    uint32_t pinned_cap
    uint32_t gates_cap

cdef inline size_t outbox_capacity(Outbox *outbox) noexcept nogil:
    """The memory that the outbox itself takes, in bytes; a pinned body belongs to its job."""
    return outbox.bytes.cap + outbox.pinned_cap * sizeof(Pinned) + outbox.gates_cap * sizeof(Gate)

cdef inline size_t outbox_unsent(Outbox *outbox) noexcept nogil:
    """The number of bytes that are not sent yet."""
    return outbox.bytes.len - outbox.start + outbox.pinned_bytes

cdef void outbox_gate(Outbox *outbox, size_t at, uint64_t lsn) noexcept nogil
cdef int outbox_gather(Outbox *outbox, iovec *pieces, uint64_t committed_lsn) noexcept nogil
cdef void outbox_sent(Outbox *outbox, size_t size) noexcept nogil
cdef ssize_t outbox_send(Outbox *outbox, Transport *transport, int fd, uint64_t committed_lsn) noexcept nogil
cdef uint64_t outbox_unpin(Outbox *outbox) noexcept nogil
cdef uint64_t outbox_free(Outbox *outbox) noexcept nogil
