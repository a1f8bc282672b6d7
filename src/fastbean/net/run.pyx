"""Running: cuts the bytes that a client has sent into commands, has the engine run them, and appends the replies.

It looks at no socket: `receive` has received, `send` sends.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy

from fastbean.base.buffer cimport buffer_append, buffer_drop_front, buffer_free
from fastbean.base.client_limits cimport INPUT_LIMIT, OUTPUT_LIMIT, STEPS_PER_ITERATION
from fastbean.base.notices cimport NOTICE_COMMAND, NOTICE_REPLY
from fastbean.engine.client cimport Client
from fastbean.engine.command_table cimport rows
from fastbean.engine.commands cimport awaited_lsn, give_up_waiting, put_abort, put_end, put_refuse
from fastbean.engine.job cimport job_body
from fastbean.net.connection cimport (
    PHASE_BODY, PHASE_LINE, PHASE_LONG_LINE, PHASE_SKIP, Connection, Connections, count_memory, is_halted, link_join,
    make_runnable,
)
from fastbean.net.outbox cimport KEPT_BYTES, outbox_gate, outbox_unsent
from fastbean.net.reply cimport outbox_answer
from fastbean.protocol.commands cimport FORM_PUT, MAX_LINE_BYTES, Command, parse_line
from fastbean.protocol.http_request cimport HTTP_TAIL_BYTES, ends_with_http_version, is_http, length_without_cr
from fastbean.protocol.replies cimport (
    REPLY_BAD_FORMAT, REPLY_EXPECTED_CRLF, REPLY_JOB_TOO_BIG, REPLY_NONE, Reply,
)
from fastbean.protocol.tokenizer cimport line_length

cdef enum:
    CRLF_BYTES = 2


cdef void arrived(Connections shared, Connection *connection, size_t size, int64_t now_ns) noexcept nogil:
    """`size` bytes were received where `space` said: run what is complete, keep the rest."""
    cdef char *scratch = shared.scratch
    cdef size_t used
    if is_halted(connection):
        connection.input.len += size
        shared.state.hits.client_input += connection.input.len >= INPUT_LIMIT
        return
    if connection.phase == PHASE_BODY and connection.body_got < connection.body_bytes:
        used = min(size, <size_t>(connection.body_bytes - connection.body_got))
        connection.body_got += <uint32_t>used
        if not shared.state.body_arrived(connection.client, connection.body_got):
            refuse_body(shared, connection)
        size -= used
    elif connection.input.len:
        memcpy(scratch, connection.input.data, connection.input.len)
        size += connection.input.len
        connection.input.len = 0
    used = run(shared, connection, scratch, size, now_ns)
    if used < size:
        buffer_append(&connection.input, scratch + used, size - used)
    elif connection.input.cap > KEPT_BYTES:
        buffer_free(&connection.input)


cdef size_t run(Connections shared, Connection *connection, char *data, size_t size, int64_t now_ns) noexcept nogil:
    """Run the commands in `data`, as many as may run now. Returns the number of bytes consumed."""
    cdef size_t at = 0
    cdef size_t used
    cdef uint32_t steps = 0
    while at < size and not connection.blocked and not connection.quitting:
        if outbox_unsent(&connection.out) >= OUTPUT_LIMIT:
            connection.held_back = True
            shared.state.hits.client_output += 1
            break
        if shared.state.journal.tight or steps == STEPS_PER_ITERATION or (
            shared.state.effort >= shared.state.effort_limit and (steps or shared.state.is_costly(connection.client))
        ):
            postpone(shared, connection, steps)
            break
        steps += 1
        shared.state.effort += 1
        if connection.phase == PHASE_LINE:
            used = take_line(shared, connection, data + at, size - at, now_ns)
        elif connection.phase == PHASE_BODY:
            used = take_body(shared, connection, data + at, size - at, now_ns)
        elif connection.phase == PHASE_SKIP:
            used = take_skipped(shared, connection, size - at)
        else:
            used = take_long_line(shared, connection, data + at, size - at)
        if used == 0:
            break
        at += used
    shared.steps += steps
    return size if connection.quitting else at


cdef size_t take_line(
    Connections shared, Connection *connection, char *data, size_t size, int64_t now_ns,
) noexcept nogil:
    """Handle one command line. Returns the bytes consumed, 0 when its end has not arrived."""
    cdef size_t length = line_length(data, min(size, <size_t>MAX_LINE_BYTES))
    if length:
        execute(shared, connection, data, length - CRLF_BYTES, now_ns)
        return length
    if size < MAX_LINE_BYTES:
        return 0
    if is_http(data, MAX_LINE_BYTES):
        refuse_http(shared, connection)
        return size
    connection.phase = PHASE_LONG_LINE
    return take_long_line(shared, connection, data, size)


cdef size_t take_long_line(Connections shared, Connection *connection, const char *data, size_t size) noexcept nogil:
    """Skip a part of a line that is too long; at its end, reply."""
    cdef const char *newline = <const char *>memchr(data, c'\n', size)
    cdef size_t length
    if newline is NULL:
        # What the line ends with has to be seen in one piece.
        return size - min(size, <size_t>HTTP_TAIL_BYTES)
    length = newline - data
    if ends_with_http_version(data, length_without_cr(data, length)):
        refuse_http(shared, connection)
    elif length and data[length - 1] == c'\r':
        connection.phase = PHASE_LINE
        answer(shared, connection, REPLY_BAD_FORMAT)
    return length + 1


cdef size_t take_body(
    Connections shared, Connection *connection, const char *data, size_t size, int64_t now_ns,
) noexcept nogil:
    """Take a part of a put's body, or of the CRLF after it."""
    cdef uint32_t body_bytes = connection.body_bytes
    cdef size_t used = 0
    if connection.body_got < body_bytes:
        used = min(size, <size_t>(body_bytes - connection.body_got))
        memcpy(connection.body + connection.body_got, data, used)
        connection.body_got += <uint32_t>used
        if not shared.state.body_arrived(connection.client, connection.body_got):
            refuse_body(shared, connection)
            return used
    while used < size and connection.body_got < body_bytes + CRLF_BYTES:
        connection.trailer[connection.body_got - body_bytes] = data[used]
        connection.body_got += 1
        used += 1
    if connection.body_got == body_bytes + CRLF_BYTES:
        end_put(shared, connection, now_ns)
    return used


cdef void refuse_body(Connections shared, Connection *connection) noexcept nogil:
    """There is no room for what has arrived of the body: drop it, and skip the rest."""
    connection.to_skip = <uint64_t>connection.body_bytes + CRLF_BYTES - connection.body_got
    connection.refusal = put_refuse(shared.state, connection.client)
    connection.body = NULL
    connection.phase = PHASE_SKIP


cdef size_t take_skipped(Connections shared, Connection *connection, size_t size) noexcept nogil:
    """Skip a part of a refused body."""
    cdef size_t used = min(<uint64_t>size, connection.to_skip)
    connection.to_skip -= used
    if connection.to_skip == 0:
        connection.phase = PHASE_LINE
        answer(shared, connection, connection.refusal)
    return used


cdef void execute(Connections shared, Connection *connection, char *line, size_t size, int64_t now_ns) noexcept nogil:
    """Run one command line (without its CRLF) and answer it, if it can be answered now."""
    cdef Command command
    cdef Reply reply
    cdef uint64_t *counted
    parse_line(line, size, &command)
    if shared.verbosity >= 2:
        shared.notices.note_text(NOTICE_COMMAND, connection.fd, line, size)
    counted = &shared.state.commands[command.number]
    counted[0] += 1
    shared.last_command = command.number
    if command.form == FORM_PUT:
        reply = begin_put(shared, connection, &command, now_ns)
    elif command.fault != REPLY_NONE:
        if command.number == 0 and is_http(line, size):
            refuse_http(shared, connection)
            return
        reply = command.fault
    elif rows[command.number].run is NULL:
        connection.quitting = True
        return
    else:
        reply = rows[command.number].run(shared.state, connection.client, &command, now_ns)
    if reply != REPLY_NONE:
        answer(shared, connection, reply)
        return
    connection.blocked = is_blocked(connection)
    end_hopeless_wait(shared, connection)


cdef void refuse_http(Connections shared, Connection *connection) noexcept nogil:
    """Close a connection that speaks HTTP, without a reply; drop everything after the request."""
    connection.quitting = True
    shared.http_requests += 1


cdef inline bint is_blocked(Connection *connection) noexcept nogil:
    """Whether the reply to the last command comes later."""
    return connection.client.waiting or connection.client.queue is not NULL


cdef void end_put(Connections shared, Connection *connection, int64_t now_ns) noexcept nogil:
    """The body of a put and its CRLF are complete."""
    cdef Reply reply
    connection.phase = PHASE_LINE
    connection.body = NULL
    if connection.trailer[0] == c'\r' and connection.trailer[1] == c'\n':
        reply = put_end(shared.state, connection.client, now_ns)
        if reply != REPLY_NONE:
            answer(shared, connection, reply)
        else:
            connection.blocked = is_blocked(connection)
    else:
        put_abort(shared.state, connection.client)
        answer(shared, connection, REPLY_EXPECTED_CRLF)


cdef void answer(Connections shared, Connection *connection, Reply reply) noexcept nogil:
    """Append a reply, with its arguments (``client.answer``), to the outbox."""
    cdef size_t start = connection.out.bytes.len
    cdef uint64_t lsn = awaited_lsn(shared.state, connection.client, reply) if shared.state.has_binlog else 0
    outbox_answer(&connection.out, reply, connection.client)
    if lsn > shared.state.journal.committed_lsn:
        outbox_gate(&connection.out, max(start, connection.out.start), lsn)
    if shared.verbosity >= 2 and not connection.out.bytes.failed:
        note_reply(shared, connection, max(start, connection.out.start))


cdef void note_reply(Connections shared, Connection *connection, size_t start) noexcept nogil:
    """Note the first line of the reply that begins at this offset of the outbox."""
    cdef const char *reply = connection.out.bytes.data + start
    cdef size_t size = connection.out.bytes.len - start
    cdef const char *line_end = <const char *>memchr(reply, c'\r', size)
    shared.notices.note_text(NOTICE_REPLY, connection.fd, reply, size if line_end is NULL else line_end - reply)


cdef void postpone(Connections shared, Connection *connection, uint32_t steps) noexcept nogil:
    """Leave the rest of the commands to the next iteration, after `steps` steps in this one."""
    if steps == STEPS_PER_ITERATION:
        shared.state.hits.client_steps += 1
    elif not shared.state.journal.tight:
        shared.state.hits.iteration_effort += 1
    make_runnable(shared, connection)


cdef void end_hopeless_wait(Connections shared, Connection *connection) noexcept nogil:
    """A client that will send nothing more waits for a job: answer it at once."""
    if (connection.eof or connection.hung_up) and connection.client.waiting:
        give_up_waiting(shared.state, connection.client)


cdef void run_again(Connections shared, Connection *connection, int64_t now_ns) noexcept nogil:
    """Continue with commands that were received before."""
    buffer_drop_front(
        &connection.input, run(shared, connection, connection.input.data, connection.input.len, now_ns)
    )
    if connection.input.len == 0 and connection.input.cap > KEPT_BYTES:
        buffer_free(&connection.input)


cdef void deliver(Connections shared) noexcept nogil:
    """The rest of `deliver_answers`."""
    cdef Client *client = shared.state.next_answered()
    cdef Connection *connection
    while client is not NULL:
        connection = <Connection *>client.connection
        connection.blocked = False
        answer(shared, connection, client.answer.reply)
        count_memory(shared, connection)
        if connection.input.len or connection.eof:
            make_runnable(shared, connection)
        link_join(&shared.answered, &connection.answered)
        client = shared.state.next_answered()


cdef inline Reply begin_put(
    Connections shared, Connection *connection, Command *command, int64_t now_ns,
) noexcept nogil:
    """Handle the line of a put. A body that is refused for its size or for lack of memory is skipped."""
    if command.body_bytes > shared.state.max_job_size:
        connection.refusal = REPLY_JOB_TOO_BIG
        shared.state.hits.job_size += 1
    elif command.fault != REPLY_NONE:
        return command.fault
    else:
        connection.refusal = rows[command.number].run(shared.state, connection.client, command, now_ns)
    if connection.refusal == REPLY_NONE:
        connection.phase = PHASE_BODY
        connection.body = job_body(connection.client.arriving)
        connection.body_bytes = connection.client.arriving.body_bytes
        connection.body_got = 0
    else:
        connection.phase = PHASE_SKIP
        connection.to_skip = <uint64_t>command.body_bytes + CRLF_BYTES
    return REPLY_NONE
