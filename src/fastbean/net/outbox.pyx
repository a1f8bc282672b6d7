"""The replies to one client that are not sent yet: bytes, and large bodies that are sent from their jobs.

`reply` writes replies one after the other into one buffer, and pins jobs whose bodies are sent from where they are; one
sendmsg gathers bytes and bodies in their order. A job stays pinned until `outbox_unpin`: sending changes nothing of the
engine. Gates hold replies back until the binlog is safe up to their LSN; they are in the order of offsets and of LSNs.
Without a binlog there are none.

Sending costs one system call. An outbox without unsent bytes keeps KEPT_BYTES at most, and one that is never quite
empty does not grow for ever. When an allocation fails, ``bytes.failed`` is set: nothing more is sent, and the
connection has to be closed.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from fastbean.base.buffer cimport buffer_drop_front, buffer_free
from fastbean.engine.job cimport job_body, job_unpin
from fastbean.net.transport cimport transport_send, transport_send_pieces

cdef enum:
    SHIFTED_FROM_BYTES = 65536      # this many sent bytes are worth moving the rest to the front


cdef void outbox_gate(Outbox *outbox, size_t at, uint64_t lsn) noexcept nogil:
    """Hold back what begins at this offset of the bytes until the binlog is safe up to `lsn`."""
    cdef uint32_t cap = outbox.gates_cap * 2 if outbox.gates_cap else 4
    cdef Gate *gates
    if outbox.gates_count and outbox.gates[outbox.gates_count - 1].lsn >= lsn:
        return
    if outbox.gates_count == outbox.gates_cap:
        gates = <Gate *>realloc(outbox.gates, cap * sizeof(Gate))
        if gates is NULL:
            outbox.bytes.failed = True
            return
        outbox.gates = gates
        outbox.gates_cap = cap
    outbox.gates[outbox.gates_count].at = at
    outbox.gates[outbox.gates_count].lsn = lsn
    outbox.gates_count += 1


cdef size_t open_end(Outbox *outbox, uint64_t committed_lsn) noexcept nogil:
    """The offset of the bytes up to which replies may be sent: their end, or the first closed gate.

    A failed outbox lacks a piece, or a gate: nothing of it may be sent.
    """
    if outbox.bytes.failed:
        return outbox.start
    if outbox.gates_count == 0:
        return outbox.bytes.len
    while outbox.gates_first < outbox.gates_count:
        if outbox.gates[outbox.gates_first].lsn > committed_lsn:
            return outbox.gates[outbox.gates_first].at
        outbox.gates_first += 1
    outbox.gates_first = 0
    outbox.gates_count = 0
    return outbox.bytes.len


cdef int outbox_gather(Outbox *outbox, iovec *pieces, uint64_t committed_lsn) noexcept nogil:
    """Fill in the first PIECES pieces that may be sent. Returns how many there are."""
    cdef size_t end = open_end(outbox, committed_lsn)
    cdef size_t at = outbox.start
    cdef uint32_t place
    cdef Pinned *body
    cdef int count = 0
    for place in range(outbox.pinned_first, outbox.pinned_count):
        body = &outbox.pinned[place]
        if body.at >= end:
            break
        if at < body.at:
            pieces[count].iov_base = outbox.bytes.data + at
            pieces[count].iov_len = body.at - at
            at = body.at
            count += 1
        pieces[count].iov_base = job_body(body.job) + body.sent
        pieces[count].iov_len = min(<size_t>(body.job.body_bytes - body.sent), <size_t>SENT_AT_ONCE)
        count += 1
        if count > PIECES - 2 or body.job.body_bytes - body.sent > SENT_AT_ONCE:
            return count
    if at < end:
        pieces[count].iov_base = outbox.bytes.data + at
        pieces[count].iov_len = end - at
        count += 1
    return count


cdef ssize_t outbox_send(Outbox *outbox, Transport *transport, int fd, uint64_t committed_lsn) noexcept nogil:
    """Send what may be sent and drop what the socket accepts.

    Returns the number of bytes accepted, 0 when nothing may be sent yet, or -1 with the system's error in errno.
    """
    cdef iovec[PIECES] pieces
    cdef size_t end
    cdef ssize_t size
    cdef int count
    if outbox.pinned_first < outbox.pinned_count:
        count = outbox_gather(outbox, pieces, committed_lsn)
        if count == 0:
            return 0
        size = transport_send_pieces(transport, fd, pieces, count)
    else:
        end = open_end(outbox, committed_lsn)
        if end == outbox.start:
            return 0
        size = min(end - outbox.start, <size_t>SENT_AT_ONCE)
        size = transport_send(transport, fd, outbox.bytes.data + outbox.start, size)
    if size > 0:
        outbox_sent(outbox, size)
    return size


cdef void outbox_sent(Outbox *outbox, size_t size) noexcept nogil:
    """Drop the first `size` bytes; the kernel has accepted them."""
    cdef Pinned *body
    cdef size_t step
    while size and outbox.pinned_first < outbox.pinned_count:
        body = &outbox.pinned[outbox.pinned_first]
        if outbox.start < body.at:
            step = min(size, body.at - outbox.start)
            outbox.start += step
        else:
            step = min(size, <size_t>(body.job.body_bytes - body.sent))
            body.sent += <uint32_t>step
            outbox.pinned_bytes -= step
            outbox.pinned_first += body.sent == body.job.body_bytes
        size -= step
    outbox.start += size
    if outbox_unsent(outbox) == 0:
        outbox.bytes.len = 0
        outbox.start = 0
        if outbox.bytes.cap > KEPT_BYTES or outbox.gates_cap > KEPT_PLACES:
            release_capacity(outbox)
    elif outbox.start >= SHIFTED_FROM_BYTES and outbox.start >= outbox.bytes.len // 2:
        shift(outbox)


cdef void release_capacity(Outbox *outbox) noexcept nogil:
    """Free what an outbox without unsent bytes does not need to keep. All its gates are open."""
    if outbox.bytes.cap > KEPT_BYTES:
        buffer_free(&outbox.bytes)
    if outbox.gates_cap > KEPT_PLACES:
        free(outbox.gates)
        outbox.gates = NULL
        outbox.gates_cap = outbox.gates_first = outbox.gates_count = 0


cdef void shift(Outbox *outbox) noexcept nogil:
    """Free the space of what was sent."""
    cdef uint32_t place
    for place in range(outbox.pinned_first, outbox.pinned_count):
        outbox.pinned[place].at -= outbox.start
    outbox.gates_count -= outbox.gates_first
    for place in range(outbox.gates_count):
        outbox.gates[place] = outbox.gates[place + outbox.gates_first]
        outbox.gates[place].at -= outbox.start
    outbox.gates_first = 0
    buffer_drop_front(&outbox.bytes, outbox.start)
    outbox.start = 0


cdef uint64_t outbox_unpin(Outbox *outbox) noexcept nogil:
    """Unpin the bodies that were sent. Returns the cost of the deleted jobs that this frees."""
    cdef uint64_t freed_bytes = 0
    cdef uint32_t place
    while outbox.pinned_held < outbox.pinned_first:
        freed_bytes += job_unpin(outbox.pinned[outbox.pinned_held].job)
        outbox.pinned_held += 1
    if outbox.pinned_first * 2 >= outbox.pinned_count:
        outbox.pinned_count -= outbox.pinned_first
        for place in range(outbox.pinned_count):
            outbox.pinned[place] = outbox.pinned[place + outbox.pinned_first]
        outbox.pinned_first = outbox.pinned_held = 0
    if outbox.pinned_count == 0 and outbox.pinned_cap > KEPT_PLACES:
        free(outbox.pinned)
        outbox.pinned = NULL
        outbox.pinned_cap = 0
    return freed_bytes


cdef uint64_t outbox_free(Outbox *outbox) noexcept nogil:
    """Drop everything and leave an empty outbox. Returns the cost of the deleted jobs that this frees."""
    cdef uint64_t freed_bytes
    outbox.pinned_first = outbox.pinned_count
    freed_bytes = outbox_unpin(outbox)
    free(outbox.pinned)
    free(outbox.gates)
    buffer_free(&outbox.bytes)
    memset(outbox, 0, sizeof(Outbox))
    return freed_bytes
