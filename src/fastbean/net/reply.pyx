"""Replies, as they are written to an outbox.

A reply costs a copy. A body above COPY_LIMIT is not copied: its job is pinned, which keeps it in memory even if it is
deleted meanwhile, and it is sent from there. A text above COPY_LIMIT is not copied either if nothing else is unsent:
the outbox takes over its buffer.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy, memset

from fastbean.base.buffer cimport (
    Buffer, buffer_append, buffer_append_number, buffer_append_text, buffer_free, buffer_reserve_exactly, write_number,
)
from fastbean.engine.client cimport TEXT_HEAD_BYTES, Answer, CarriedJob, Client, answer_drop_jobs, carried_job
from fastbean.engine.job cimport Job, job_body
from fastbean.engine.tube cimport tube_name
from fastbean.net.outbox cimport Outbox, Pinned
from fastbean.protocol.replies cimport (
    CARRIES_JOBS, CARRIES_NUMBER, CARRIES_TEXT, CARRIES_TUBE, Reply, ReplyRow, reply_rows,
)

cdef enum:
    COPY_LIMIT = 16384              # a larger body is sent from its job
    MAX_PINS = 0xFFFF
    CRLF_BYTES = 2
    OK_BYTES = 3                    # of REPLY_OK, the blank included


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
