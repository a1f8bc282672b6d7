"""The replies to one client that are not sent yet: bytes, and large bodies that are sent from their jobs.

Replies are written one after the other into one buffer. A body above COPY_LIMIT is not copied: its job is pinned, which
keeps it in memory even if it is deleted meanwhile, and one sendmsg gathers bytes and bodies in their order. A text
above COPY_LIMIT is not copied either if nothing else is unsent: the outbox takes over its buffer. Gates hold replies
back until the binlog is safe up to their LSN; they are in the order of offsets and of LSNs. Without a binlog there are
none.

A reply costs a copy, sending one system call. An outbox without unsent bytes keeps KEPT_BYTES at most, and one that is
never quite empty does not grow for ever. When an allocation fails, ``bytes.failed`` is set: nothing more is sent, and
the connection has to be closed.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from fastbean.base.buffer cimport (
    Buffer, buffer_append, buffer_append_number, buffer_append_text, buffer_drop_front, buffer_free,
    buffer_reserve_exactly, write_number,
)
from fastbean.engine.client cimport TEXT_HEAD_BYTES, Answer, CarriedJob, Client, answer_drop_jobs, carried_job
from fastbean.engine.job cimport Job, job_body, job_unpin
from fastbean.protocol.replies cimport (
    CARRIES_JOBS, CARRIES_NUMBER, CARRIES_TEXT, CARRIES_TUBE, Reply, ReplyRow, reply_rows,
)
from fastbean.net.socket_calls cimport socket_send, socket_send_pieces
from fastbean.engine.tube cimport tube_name

cdef enum:
    COPY_LIMIT = 16384              # a larger body is sent from its job
    SHIFTED_FROM_BYTES = 65536      # this many sent bytes are worth moving the rest to the front
    MAX_PINS = 0xFFFF
    CRLF_BYTES = 2
    OK_BYTES = 3                    # of REPLY_OK, the blank included


# Replying

cdef void outbox_answer(Outbox *outbox, Reply reply, Client *client) noexcept nogil:
    """Append a reply and what it carries from ``client.answer``, whose jobs and text are gone afterwards."""
    cdef Buffer *out = &outbox.bytes
    cdef ReplyRow *row = &reply_rows[<int>reply]
    if row.carries == CARRIES_JOBS:
        append_jobs(outbox, row, &client.answer)
        return
    buffer_append_text(out, row.text)
    if row.carries == CARRIES_NUMBER:
        buffer_append_number(out, client.answer.number)
        buffer_append(out, b"\r\n", CRLF_BYTES)
    elif row.carries == CARRIES_TUBE:
        buffer_append(out, tube_name(client.use), client.use.name_bytes)
        buffer_append(out, b"\r\n", CRLF_BYTES)
    elif row.carries == CARRIES_TEXT:
        append_text(outbox, &client.answer.text)


cdef void append_jobs(Outbox *outbox, ReplyRow *row, Answer *answer) noexcept nogil:
    """Append the whole reply for each job that the answer carries."""
    cdef CarriedJob *carried
    cdef uint32_t place
    for place in range(answer.jobs_count):
        carried = carried_job(answer, place)
        buffer_append_text(&outbox.bytes, row.text)
        append_job(outbox, carried.job, carried.id)
    if answer.more is NULL:
        answer.jobs_count = 0
    else:
        answer_drop_jobs(answer)


cdef void append_job(Outbox *outbox, Job *job, uint64_t id) noexcept nogil:
    """Append the id, the size and the body of a job."""
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


cdef void append_text(Outbox *outbox, Buffer *text) noexcept nogil:
    """Append the size and the bytes of a text, which is empty afterwards."""
    cdef Buffer *out = &outbox.bytes
    cdef size_t size = text.len - TEXT_HEAD_BYTES
    if size > COPY_LIMIT and out.len == OK_BYTES and not out.failed:
        take_text_over(outbox, text)
        return
    buffer_append_number(out, size)
    buffer_append(out, b"\r\n", CRLF_BYTES)
    if size > COPY_LIMIT:
        buffer_reserve_exactly(out, size + CRLF_BYTES)
    buffer_append(out, text.data + TEXT_HEAD_BYTES, size)
    buffer_append(out, b"\r\n", CRLF_BYTES)
    buffer_free(text)


cdef void take_text_over(Outbox *outbox, Buffer *text) noexcept nogil:
    """Make a large text the bytes of an outbox that holds nothing but "OK ", without a copy. The head of the reply is
    written before it."""
    cdef char[TEXT_HEAD_BYTES] head
    cdef char *end
    memcpy(head, outbox.bytes.data, OK_BYTES)
    end = write_number(head + OK_BYTES, text.len - TEXT_HEAD_BYTES)
    memcpy(end, b"\r\n", CRLF_BYTES)
    end += CRLF_BYTES
    outbox.start = TEXT_HEAD_BYTES - (end - head)
    memcpy(text.data + outbox.start, head, end - head)
    buffer_append(text, b"\r\n", CRLF_BYTES)
    buffer_free(&outbox.bytes)
    outbox.bytes = text[0]
    memset(text, 0, sizeof(Buffer))


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


# Sending

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


cdef ssize_t outbox_send(Outbox *outbox, int fd, uint64_t committed_lsn) noexcept nogil:
    """Send what may be sent and drop what the socket accepts.

    Returns the number of bytes accepted, 0 when nothing may be sent yet, or -1 with the system's error in errno.
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
        if outbox.bytes.cap > KEPT_BYTES or (outbox.pinned_cap | outbox.gates_cap) > KEPT_PLACES:
            release_capacity(outbox)
    elif outbox.start >= SHIFTED_FROM_BYTES and outbox.start >= outbox.bytes.len // 2:
        shift(outbox)


cdef void release_capacity(Outbox *outbox) noexcept nogil:
    """Free what an outbox without unsent bytes does not need to keep. All its gates are open."""
    if outbox.bytes.cap > KEPT_BYTES:
        buffer_free(&outbox.bytes)
    if outbox.pinned_cap > KEPT_PLACES:
        free(outbox.pinned)
        outbox.pinned = NULL
        outbox.pinned_cap = 0
    if outbox.gates_cap > KEPT_PLACES:
        free(outbox.gates)
        outbox.gates = NULL
        outbox.gates_cap = outbox.gates_first = outbox.gates_count = 0


cdef void shift(Outbox *outbox) noexcept nogil:
    """Free the space of what was sent."""
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
    """Drop everything and leave an empty outbox, except for ``freed_bytes``."""
    cdef uint64_t freed_bytes = outbox.freed_bytes
    while outbox.pinned_first < outbox.pinned_count:
        freed_bytes += job_unpin(outbox.pinned[outbox.pinned_first].job)
        outbox.pinned_first += 1
    free(outbox.pinned)
    free(outbox.gates)
    buffer_free(&outbox.bytes)
    memset(outbox, 0, sizeof(Outbox))
    outbox.freed_bytes = freed_bytes
