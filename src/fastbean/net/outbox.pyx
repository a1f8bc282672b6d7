"""What one client has been answered and has not been sent: replies as bytes, and large bodies that lie in their jobs.

Replies are put together in one run of bytes. A body above COPY_LIMIT is not copied: its job is pinned, which keeps it
in memory though it be deleted meanwhile, and one sendmsg gathers bytes and bodies in their order. Gates hold replies
back until the log is safe up to their LSN; they stand in the order of offsets and of LSNs, and without a log there
are none.

To answer costs a copy, to send one system call. An outbox without unsent bytes keeps KEPT_BYTES at most, and one that
is never quite empty does not grow for ever. Without memory ``bytes.failed`` is set: nothing more is sent, and the
client has to go.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from fastbean.base.buffer cimport (
    Buffer, buffer_append, buffer_append_number, buffer_append_text, buffer_drop_front, buffer_free,
)
from fastbean.engine.client cimport Client
from fastbean.engine.job cimport Job, job_body, job_unpin
from fastbean.protocol.replies cimport (
    REPLY_FOUND, REPLY_INSERTED, REPLY_KICKED_COUNT, REPLY_OK, REPLY_RESERVED, REPLY_USING, REPLY_WATCHING, Reply,
    reply_text,
)
from fastbean.net.socket_calls cimport socket_send, socket_send_pieces
from fastbean.engine.tube cimport tube_name

cdef enum:
    COPY_LIMIT = 16384              # a larger body is sent from its job
    SHIFTED_FROM_BYTES = 65536      # sent bytes that are worth moving the others to the front
    MAX_PINS = 0xFFFF
    CRLF_BYTES = 2


# Answering

cdef void outbox_answer(Outbox *outbox, Reply reply, Client *client) noexcept nogil:
    """Add a reply, and what goes with it: ``client.answer``, whose text is then empty again."""
    cdef Buffer *out = &outbox.bytes
    buffer_append_text(out, reply_text(reply))
    if reply == REPLY_RESERVED or reply == REPLY_FOUND:
        append_job(outbox, client.answer.job, client.answer.number)
    elif reply == REPLY_INSERTED or reply == REPLY_WATCHING or reply == REPLY_KICKED_COUNT:
        buffer_append_number(out, client.answer.number)
        buffer_append(out, b"\r\n", CRLF_BYTES)
    elif reply == REPLY_USING:
        buffer_append(out, tube_name(client.use), client.use.name_bytes)
        buffer_append(out, b"\r\n", CRLF_BYTES)
    elif reply == REPLY_OK:
        append_text(out, &client.answer.text)


cdef void append_job(Outbox *outbox, Job *job, uint64_t id) noexcept nogil:
    """The id, the size and the body of a job."""
    cdef Buffer *out = &outbox.bytes
    buffer_append_number(out, id)
    buffer_append(out, b" ", 1)
    buffer_append_number(out, job.body_bytes)
    buffer_append(out, b"\r\n", CRLF_BYTES)
    if job.body_bytes <= COPY_LIMIT or job.pins == MAX_PINS or pin(outbox, job) < 0:
        buffer_append(out, job_body(job), job.body_bytes)
    buffer_append(out, b"\r\n", CRLF_BYTES)


cdef int pin(Outbox *outbox, Job *job) noexcept nogil:
    """Send the body from the job itself. Returns 0, or -1 without memory."""
    cdef uint32_t cap = outbox.pinned_cap * 2 if outbox.pinned_cap else 1
    cdef Pinned *pinned
    if outbox.pinned_count == outbox.pinned_cap:
        pinned = <Pinned *>realloc(outbox.pinned, cap * sizeof(Pinned))
        if pinned is NULL:
            return -1
        outbox.pinned = pinned
        outbox.pinned_cap = cap
    pinned = &outbox.pinned[outbox.pinned_count]
    pinned.job = job
    pinned.at = outbox.bytes.len
    pinned.sent = 0
    outbox.pinned_count += 1
    outbox.pinned_bytes += job.body_bytes
    job.pins += 1
    return 0


cdef void append_text(Buffer *out, Buffer *text) noexcept nogil:
    """The size and the bytes of a text, which is then empty again."""
    buffer_append_number(out, text.len)
    buffer_append(out, b"\r\n", CRLF_BYTES)
    buffer_append(out, text.data, text.len)
    buffer_append(out, b"\r\n", CRLF_BYTES)
    buffer_free(text)


cdef void outbox_gate(Outbox *outbox, size_t at, uint64_t lsn) noexcept nogil:
    """What begins at this offset of the bytes is not sent before the log is safe up to `lsn`."""
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


# Sending

cdef size_t open_end(Outbox *outbox, uint64_t committed_lsn) noexcept nogil:
    """The offset of the bytes up to which replies may be sent: all of them, or where the first gate is shut.

    An outbox that has failed lacks a piece, or a gate: nothing of it may be sent.
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
    """The first PIECES pieces of what may be sent. Returns how many there are."""
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


cdef ssize_t outbox_send(Outbox *outbox, int fd, uint64_t committed_lsn) noexcept nogil:
    """Offer the socket what may be sent; what it takes is forgotten.

    Returns how many bytes it took, 0 when nothing may be sent yet, or -1 with the system's error in errno.
    """
    cdef iovec[PIECES] pieces
    cdef size_t end
    cdef ssize_t size
    cdef int count
    if outbox.pinned_count:
        count = outbox_gather(outbox, pieces, committed_lsn)
        if count == 0:
            return 0
        size = socket_send_pieces(fd, pieces, count)
    else:
        end = open_end(outbox, committed_lsn)
        if end == outbox.start:
            return 0
        size = min(end - outbox.start, <size_t>SENT_AT_ONCE)
        size = socket_send(fd, outbox.bytes.data + outbox.start, size)
    if size > 0:
        outbox_sent(outbox, size)
    return size


cdef void outbox_sent(Outbox *outbox, size_t size) noexcept nogil:
    """`size` bytes are on their way: forget them."""
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
            if body.sent == body.job.body_bytes:
                outbox.freed_bytes += job_unpin(body.job)
                outbox.pinned_first += 1
        size -= step
    outbox.start += size
    if outbox_unsent(outbox) == 0:
        outbox.bytes.len = 0
        outbox.start = 0
        outbox.pinned_first = 0
        outbox.pinned_count = 0
        if outbox.bytes.cap > KEPT_BYTES:
            buffer_free(&outbox.bytes)
    elif outbox.start >= SHIFTED_FROM_BYTES and outbox.start >= outbox.bytes.len // 2:
        shift(outbox)


cdef void shift(Outbox *outbox) noexcept nogil:
    """Give the room of what was sent back."""
    cdef uint32_t place
    outbox.pinned_count -= outbox.pinned_first
    for place in range(outbox.pinned_count):
        outbox.pinned[place] = outbox.pinned[place + outbox.pinned_first]
        outbox.pinned[place].at -= outbox.start
    outbox.pinned_first = 0
    outbox.gates_count -= outbox.gates_first
    for place in range(outbox.gates_count):
        outbox.gates[place] = outbox.gates[place + outbox.gates_first]
        outbox.gates[place].at -= outbox.start
    outbox.gates_first = 0
    buffer_drop_front(&outbox.bytes, outbox.start)
    outbox.start = 0


cdef void outbox_free(Outbox *outbox) noexcept nogil:
    """Drop everything, and leave an empty outbox, but for ``freed_bytes``."""
    cdef uint64_t freed_bytes = outbox.freed_bytes
    while outbox.pinned_first < outbox.pinned_count:
        freed_bytes += job_unpin(outbox.pinned[outbox.pinned_first].job)
        outbox.pinned_first += 1
    free(outbox.pinned)
    free(outbox.gates)
    buffer_free(&outbox.bytes)
    memset(outbox, 0, sizeof(Outbox))
    outbox.freed_bytes = freed_bytes
